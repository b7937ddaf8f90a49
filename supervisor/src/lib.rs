//! The supervision tree of a bucket, and the handle an embedder holds.

pub mod tree;
pub mod restart;
pub mod watch;
pub mod guardian;
pub mod failure_bus;
