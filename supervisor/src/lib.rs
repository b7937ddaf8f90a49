//! The supervision tree of a bucket, and the handle an embedder holds.
