//! The supervision tree of a bucket, and the handle an embedder holds.

#[cfg(any(test, feature = "testing"))]
pub mod testing;
