//! The supervision tree of a bucket, and the handle an embedder holds.

pub mod tree;
pub mod restart;
pub mod watch;
pub mod guardian;
pub mod failure_bus;
mod bucket_config;
mod bucket_error;
mod vbucket_map;
mod vbucket_table;
mod opening;
mod wiring;
mod running;
mod statistics;
mod stop;
mod shutdown;
mod engine;
mod bucket;
mod bucket_actor;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use bucket::{Bucket, VbucketAddr, WriteFuture, WriteRequest};
pub use bucket_actor::{BucketActor, Shutdown};
pub use bucket_config::{BucketConfig, Location};
pub use bucket_error::BucketError;
pub use shutdown::ShutdownReport;
pub use statistics::BucketStatistics;
pub use vbucket_map::vbucket_of;
