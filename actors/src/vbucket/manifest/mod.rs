//! Scopes and collections in a vbucket: which are open, how they change, and what becomes of those that ended.
//!
//! - A manifest is a value ([`changed`] makes the next one). The bucket has one ([`BucketManifest`]), and every active
//!   vbucket follows it: what differs is queued in its checkpoint log as system events, and the uid with them, in one
//!   step under its lock and in one batch on disk.
//! - What is on disk is the truth: the system events of a vbucket are read when it is opened, and say what is open.
//! - A vbucket that becomes active brings its manifest to the bucket's (`together`).
//! - A vbucket that panics in the middle of following goes on with it when it is reconciled.
//! - Locks are taken in the order: the walk of an erasing, the vbucket, the table of open collections, the table of prepares,
//!   the map.
//! - Documents of a collection that ended are not there for anybody from that moment on; memory is rid of them later, in
//!   bounded slices.

mod change;
mod together;
mod open;
mod shared;
mod follow;
mod erase;

pub use change::{changed, changed_above, newest};
pub use open::manifest_of;
pub use shared::BucketManifest;

pub(super) use erase::Erasing;
pub(super) use open::{OpenCollections, Opened};

#[cfg(test)]
mod tests;
