//! Tombstones in the map, in the order of their seqnos, so that the oldest can leave once nobody needs them.
//!
//! Invariant: every tombstone in the map that was written here is noted; one that was replaced meanwhile is noted in
//! vain. None leaves while the vbucket is warming: it keeps an older version on disk from coming back (rule R21).

use std::collections::VecDeque;
use std::sync::Arc;

use storage::{Item, Seqno};

/// The tombstones noted, by rising seqno.
#[derive(Debug, Default)]
pub(super) struct Tombstones(VecDeque<Arc<Item>>);

impl Tombstones {
    /// Notes a tombstone that is, or is about to be, in the map. Noting the newest again changes nothing.
    pub(super) fn note(&mut self, item: &Arc<Item>) {
        if self.0.back().is_none_or(|newest| newest.seqno < item.seqno) {
            self.0.push_back(Arc::clone(item));
        }
    }

    /// Takes out the oldest one if it is at or below `seqno`.
    pub(super) fn take_up_to(&mut self, seqno: Seqno) -> Option<Arc<Item>> {
        let is_low = self.0.front().is_some_and(|oldest| oldest.seqno <= seqno);
        is_low.then(|| self.0.pop_front()).flatten()
    }

    /// Forgets all of them; they are freed by whoever drops what this returns.
    pub(super) fn clear(&mut self) -> Tombstones {
        std::mem::take(self)
    }
}
