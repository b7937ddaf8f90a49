//! Checkers: what must be true of the engine after a run, each named for what it checks.

pub(crate) mod acknowledged;
pub(crate) mod soundness;
