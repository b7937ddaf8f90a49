//! What warmup brings from the store.
//!
//! Invariant: nothing that is loaded takes the place of what is in memory already (rule R21), and until everything is
//! loaded no tombstone leaves memory and no key counts as absent from the store.

use std::sync::Arc;

use bytes::Bytes;

use super::core::VbucketCore;
use super::kept::Kept;
use storage::{Eviction, Item};

impl VbucketCore {
    /// Puts what the store holds in memory, unless something newer of its key is there; whether it was put. A tombstone
    /// is not, nor what memory has no room for, where documents may leave it: it is known to be on disk. Of what values there
    /// is no room for the stub is put, however little room there is for that. Called by one loader at a time, never after
    /// [`VbucketCore::warm_done`].
    pub fn warm_insert(&self, item: Arc<Item>) -> bool {
        if !self.is_warming() {
            return false;
        }
        self.cas.observe(item.document.cas);
        if !self.is_open(&item) {
            return false;
        }
        self.note_high(&item.document.key, item.seqno);
        if item.operation.is_tombstone() {
            self.map.set_incomplete();
            self.note_forgotten(item.seqno, item.document.rev_seqno);
            return false;
        }
        // What is loaded would have to leave at once.
        let is_full = self.memory.pool().above_low_mark() > 0;
        let (kept, _value) = match self.eviction {
            Eviction::Documents if is_full => {
                self.note_forgotten(item.seqno, item.document.rev_seqno);
                self.map.set_lacking();
                self.traffic.note_away(1);
                return false;
            }
            Eviction::Values if is_full => Kept::stub(self.charged(item)),
            Eviction::Documents | Eviction::Values | Eviction::None => {
                (Kept::whole(self.charged(item)), Bytes::new())
            }
        };
        // First: what is in the map is counted.
        self.count_document(kept.held(), None);
        let is_put = self.map.insert_if_absent(kept.clone());
        if !is_put {
            self.discount_document(kept.held());
        }
        is_put
    }

    /// Whether it belongs to an open collection. One that was dropped is not loaded, and its keys are never asked for,
    /// unless a collection began anew under its number.
    fn is_open(&self, item: &Item) -> bool {
        let key = &item.document.key;
        let Ok(opened) = self.admit_key(key) else {
            return false;
        };
        let is_of_this_life = item.seqno >= opened.start;
        if !is_of_this_life {
            self.map.set_incomplete();
        }
        is_of_this_life
    }

    /// The prepares the store holds that are not over, all of them: before any document. Each may have been committed
    /// elsewhere, none is refused for lack of memory (MB-37184), and none is given up. The same again changes nothing.
    pub fn warm_prepares(&self, prepares: Vec<Item>) {
        let mut locked = self.lock();
        if !self.prepares.is_unloaded() {
            return;
        }
        for item in prepares {
            self.cas.observe(item.document.cas);
            let is_open = self.collections.read().has(&item.document.key, item.seqno);
            if is_open {
                self.prepares.put(&self.charged(Arc::new(item)), true);
            }
        }
        self.rebuild_monitor(&mut locked);
        self.prepares.note_loaded();
        // One that was promoted before could not say what is over.
        self.end_source(&mut locked);
    }

    /// The store holds keys that were, or will be, left out.
    pub fn warm_incomplete(&self) {
        self.map.set_incomplete();
    }

    /// Everything is loaded: the vbucket serves.
    pub fn warm_done(&self) {
        let mut locked = self.lock();
        self.lower(super::status::Status::WARMING);
        self.follow_when_writable(&mut locked);
        self.drop_tombstones(&mut locked);
        locked.note_decided();
        drop(locked);
        // What was being loaded when its collection ended.
        if self.had_an_end() {
            self.ask_for_erasing();
        }
    }
}
