//! Checkers: what must be true of the bucket, each named for what it checks.

pub(crate) mod acknowledged;
pub(crate) mod failures;
pub(crate) mod soundness;
