//! The prepares of a replica that go on: found by their key, and the next to end.
//!
//! Invariant: holds exactly the tracked prepares that are neither over nor dropped; one for each key.

use std::collections::{BTreeMap, BTreeSet};

use storage::{DocumentKey, Seqno};

use super::prepare::Prepare;

#[derive(Clone, Debug, Default)]
pub(super) struct Open {
    by_key: BTreeMap<DocumentKey, Seqno>,
    in_order: BTreeSet<Seqno>,
}

impl Open {
    pub(super) fn insert(&mut self, prepare: &Prepare) {
        self.by_key.insert(prepare.key.clone(), prepare.seqno);
        self.in_order.insert(prepare.seqno);
    }

    pub(super) fn remove(&mut self, key: &DocumentKey, seqno: Seqno) {
        if self.of(key) == Some(seqno) {
            self.by_key.remove(key);
        }
        self.in_order.remove(&seqno);
    }

    /// The one of this key.
    pub(super) fn of(&self, key: &DocumentKey) -> Option<Seqno> {
        self.by_key.get(key).copied()
    }

    /// The next to end.
    pub(super) fn first(&self) -> Option<Seqno> {
        self.in_order.first().copied()
    }
}
