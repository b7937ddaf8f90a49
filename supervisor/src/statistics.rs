//! Figures of a bucket, as a typed struct.

use std::collections::BTreeMap;

use messages::vbucket::VbucketDescription;

use crate::restart::ChildStatus;

/// Figures of a bucket at one moment (each figure for itself; the whole is not one snapshot).
#[derive(Clone, Debug)]
pub struct BucketStatistics {
    /// Live documents.
    pub documents: u64,
    /// Bytes of items in memory.
    pub memory_bytes: u64,
    /// The quota they are held against.
    pub memory_quota_bytes: u64,
    /// Bytes of the store's files.
    pub disk_bytes: u64,
    /// Bytes of them that newest versions need.
    pub live_bytes: u64,
    /// Changes that are not on disk yet.
    pub unpersisted_items: u64,
    /// How many failures of each kind there were; kinds without one are left out.
    pub failures: BTreeMap<&'static str, u64>,
    /// The children, in the order of the tree.
    pub children: Vec<ChildStatus>,
    /// The vbuckets, in order.
    pub vbuckets: Vec<VbucketDescription>,
}
