//! What warmup brings from the store.
//!
//! Invariant: nothing that is loaded takes the place of what is in memory already (rule R21), and until everything is
//! loaded no tombstone leaves memory and no key counts as absent from the store.

use std::sync::Arc;

use super::core::VbucketCore;
use storage::Item;

impl VbucketCore {
    /// Puts what the store holds in memory, unless something newer of its key is there; whether it was put. A tombstone
    /// is not: it is known to be on disk. Called by one loader at a time, never after [`VbucketCore::warm_done`].
    pub fn warm_insert(&self, item: Arc<Item>) -> bool {
        if !self.is_warming() {
            return false;
        }
        self.cas.observe(item.document.cas);
        if item.operation.is_tombstone() {
            self.map.set_incomplete();
            return false;
        }
        self.map.insert_if_absent(self.charged(item))
    }

    /// The store holds keys that were, or will be, left out.
    pub fn warm_incomplete(&self) {
        self.map.set_incomplete();
    }

    /// Everything is loaded: the vbucket serves.
    pub fn warm_done(&self) {
        let mut locked = self.lock();
        self.lower(super::status::Status::WARMING);
        self.drop_tombstones(&mut locked);
    }
}
