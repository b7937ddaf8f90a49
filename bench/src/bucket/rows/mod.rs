//! The rows of the bucket's table.

pub(crate) mod beyond;
pub(super) mod durable;
pub(super) mod get;
pub(crate) mod memory;
pub(super) mod message;
pub(super) mod open;
#[cfg(feature = "panics")]
pub(super) mod panicked;
pub(super) mod persisted;
pub(super) mod set;
pub(super) mod streams;
pub(super) mod ycsb;
