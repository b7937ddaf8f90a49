//! A version in memory: whole, or a stub, which has everything but the value (where values leave memory alone).
//!
//! Invariant: a stub is never taken for an item. Whoever looks into the map gets one of two cases and must say what becomes
//! of each; what a stub gives away is its key and its metadata. Made by the map alone, seen by everybody who reads it.

use std::sync::Arc;

use bytes::Bytes;

use super::memory::{charged_bytes, cost_bytes};
use crate::planted::{Bug, is_planted};
use messages::vbucket::Meta;
use storage::{DocumentKey, Item, Seqno};

/// A version as the map has it.
#[derive(Clone, Debug)]
pub(super) struct Kept(Arc<Item>);

/// Which of the two it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Held<'a> {
    /// All of it.
    Whole(&'a Arc<Item>),
    /// Its value is on disk alone.
    Stub(Stub<'a>),
}

/// A version without its value: only ever a live document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stub<'a>(&'a Item);

impl Kept {
    pub(super) fn whole(item: Arc<Item>) -> Kept {
        debug_assert!(item.token.has_value(), "a stub is none");
        Kept(item)
    }

    /// The stub of an item, and its value: to be freed by whoever has no lock in his hands.
    pub(super) fn stub(mut item: Arc<Item>) -> (Kept, Bytes) {
        let value = leave_out_value(Arc::make_mut(&mut item));
        (Kept(item), value)
    }

    pub(super) fn held(&self) -> Held<'_> {
        if self.0.token.has_value() || is_planted(Bug::StubIsWhole) {
            Held::Whole(&self.0)
        } else {
            Held::Stub(Stub(&self.0))
        }
    }

    /// All of it, if that is in memory.
    pub(super) fn into_whole(self) -> Option<Arc<Item>> {
        self.0.token.has_value().then_some(self.0)
    }

    /// Has the value leave, if nobody but this holds the version, and it has one; freed as above.
    pub(super) fn take_value(&mut self) -> Option<Bytes> {
        let item = Arc::get_mut(&mut self.0)?;
        let is_there = item.token.has_value() && !item.document.value.is_empty();
        is_there.then(|| leave_out_value(item))
    }

    /// Whether nobody but this holds it.
    pub(super) fn is_held_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    pub(super) fn encoded_key(&self) -> &[u8] {
        self.0.document.key.as_encoded()
    }

    pub(super) fn key(&self) -> &DocumentKey {
        &self.0.document.key
    }

    pub(super) fn seqno(&self) -> Seqno {
        self.0.seqno
    }

    pub(super) fn meta(&self) -> Meta {
        Meta::of(&self.0)
    }

    /// Bytes it is charged with.
    pub(super) fn charged_bytes(&self) -> u64 {
        charged_bytes(&self.0)
    }

    /// A newer version takes its place, and is used as often.
    pub(super) fn hand_on_uses(&self, to: &Item) {
        to.token.take_over_uses(&self.0.token);
    }
}

fn leave_out_value(item: &mut Item) -> Bytes {
    let value = std::mem::take(&mut item.document.value);
    let rest = cost_bytes(&item.document.key, 0);
    item.token.leave_out_value(rest);
    value
}

impl<'a> Held<'a> {
    pub(super) fn key(self) -> &'a DocumentKey {
        &self.outline().document.key
    }

    pub(super) fn seqno(self) -> Seqno {
        self.outline().seqno
    }

    pub(super) fn meta(self) -> Meta {
        Meta::of(self.outline())
    }

    pub(super) fn is_tombstone(self) -> bool {
        self.outline().operation.is_tombstone()
    }

    /// Somebody read it.
    pub(super) fn note_use(self) {
        self.outline().token.note_use();
    }

    /// What both cases have; not to be given away.
    fn outline(self) -> &'a Item {
        match self {
            Held::Whole(item) => item,
            Held::Stub(Stub(item)) => item,
        }
    }
}

impl Stub<'_> {
    pub(super) fn meta(self) -> Meta {
        Meta::of(self.0)
    }

    /// Whether this is all of it: the same version, where both are of the same past.
    pub(super) fn is_of(self, whole: &Item) -> bool {
        self.meta() == Meta::of(whole)
    }
}
