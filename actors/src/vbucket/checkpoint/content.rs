//! One checkpoint: a run of entries, and what is known of the snapshot they belong to.
//!
//! Invariant: slots lie by rising seqno and keep their position for life. A deduplicated item leaves a hole, and
//! expelling takes slots away in front, so positions held by cursors stay good. `bytes` and `items` are exact.

use std::collections::VecDeque;
use std::sync::Arc;

use storage::{Item, Operation, Seqno, SnapshotKind, VbucketIdentity};

use super::chain::CheckpointId;

/// Where a checkpoint's items came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointKind {
    /// This vbucket's own changes, or a replica's from its source's checkpoints.
    Memory,
    /// A replica's, from its source's disk.
    Disk,
    /// The same, and the first a replica ever got.
    InitialDisk,
}

impl CheckpointKind {
    /// Whether it came from a disk.
    #[must_use]
    pub const fn is_disk(self) -> bool {
        matches!(self, CheckpointKind::Disk | CheckpointKind::InitialDisk)
    }

    /// The kind a store keeps of it.
    #[must_use]
    pub const fn snapshot_kind(self) -> SnapshotKind {
        match self {
            CheckpointKind::Memory => SnapshotKind::Memory,
            CheckpointKind::Disk | CheckpointKind::InitialDisk => SnapshotKind::Disk,
        }
    }
}

/// An entry of a checkpoint.
#[derive(Debug)]
pub(super) struct Slot {
    /// The item's; of a change of identity the one after the last item's, which the next item gets as well.
    pub(super) seqno: Seqno,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Item {
        item: Arc<Item>,
        keeps_history: bool,
    },
    /// An item was here, and a newer version took over.
    Hole,
    Identity(Arc<VbucketIdentity>),
}

impl Slot {
    pub(super) fn bytes(&self) -> usize {
        const COUNTS_OF_ARC: usize = 2 * size_of::<usize>();
        let behind = match &self.content {
            Content::Item { item, .. } => {
                let user = usize::try_from(item.user_bytes()).unwrap_or(usize::MAX);
                user.saturating_add(size_of::<Item>() + COUNTS_OF_ARC)
            }
            Content::Identity(_) => size_of::<VbucketIdentity>() + COUNTS_OF_ARC,
            Content::Hole => 0,
        };
        behind.saturating_add(size_of::<Slot>())
    }

    pub(super) fn is_item(&self) -> bool {
        matches!(self.content, Content::Item { .. })
    }

    pub(super) fn is_identity(&self) -> bool {
        matches!(self.content, Content::Identity(_))
    }
}

/// What the open checkpoint knows of a seqno.
#[derive(Debug)]
pub(super) enum Found<'a> {
    Item {
        position: usize,
        item: &'a Arc<Item>,
        keeps_history: bool,
    },
    /// Expelled; whether it was one that is never deduplicated.
    Expelled { lasting: bool },
    /// Not of this checkpoint, or a hole already.
    Nothing,
}

/// What lies between the newest item of a snapshot and the end its marker named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing: the snapshot came whole.
    Empty,
    /// What never came. Prepares up to `over` are over all the same, as whoever has what came knows.
    Lost {
        /// That seqno.
        over: Seqno,
    },
}

#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) id: CheckpointId,
    pub(super) kind: CheckpointKind,
    pub(super) history: bool,
    /// Begun by a snapshot of a replica's source, and not by this vbucket.
    pub(super) of_source: bool,
    /// Several of the source's snapshots, taken as one: whole only at the end of the last.
    pub(super) is_extended: bool,
    /// The seqno after the last one when it was opened.
    pub(super) start: Seqno,
    pub(super) snapshot_start: Seqno,
    pub(super) snapshot_end: Seqno,
    pub(super) visible_end: Option<Seqno>,
    pub(super) high_completed: Option<Seqno>,
    pub(super) high_prepared: Seqno,
    /// What `high_prepared` becomes at the end of a disk snapshot.
    pub(super) snapshot_high_prepared: Option<Seqno>,
    pub(super) purge_seqno: Option<Seqno>,
    pub(super) highest_expelled: Option<Seqno>,
    /// Seqnos of expelled items that must never be deduplicated, rising.
    expelled_lasting: Vec<Seqno>,
    /// Lowest item replaced here before it was persisted.
    pub(super) first_hole: Option<Seqno>,
    /// Seqno of the last item queued.
    high: Option<Seqno>,
    /// Items ever queued here.
    pub(super) queued: usize,
    /// Position of the first slot.
    first: usize,
    slots: VecDeque<Slot>,
    identities: usize,
    /// Items here now.
    pub(super) items: usize,
    pub(super) bytes: usize,
}

impl Checkpoint {
    /// Bytes of a checkpoint without entries.
    pub(super) const EMPTY_BYTES: usize = size_of::<Checkpoint>();

    /// A checkpoint of this vbucket's own changes from `start` on.
    pub(super) fn new(id: CheckpointId, start: Seqno, high_prepared: Seqno) -> Checkpoint {
        Checkpoint {
            id,
            kind: CheckpointKind::Memory,
            history: false,
            of_source: false,
            is_extended: false,
            start,
            snapshot_start: start,
            snapshot_end: start,
            visible_end: None,
            high_completed: None,
            high_prepared,
            snapshot_high_prepared: None,
            purge_seqno: None,
            highest_expelled: None,
            expelled_lasting: Vec::new(),
            first_hole: None,
            high: None,
            queued: 0,
            first: 0,
            slots: VecDeque::new(),
            identities: 0,
            items: 0,
            bytes: Self::EMPTY_BYTES,
        }
    }

    /// Position of the first slot still here.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// Position behind the last slot.
    pub(super) fn end(&self) -> usize {
        self.first.saturating_add(self.slots.len())
    }

    /// Seqno of the last item, whether it is still here or not; just below the start without any.
    pub(super) fn high(&self) -> Seqno {
        self.high.unwrap_or(Seqno(self.start.0.saturating_sub(1)))
    }

    /// The snapshot ends here and not where its marker said: what that named behind it is nothing a reader may be told of
    /// this one. What is over the source said of all of it, and what ended a prepare may lie in a rest that is lost: then
    /// no more is said of it than is known here, or a reader would forget a prepare that goes on.
    pub(super) fn end_at(&mut self, end: Seqno, rest: Rest) {
        self.snapshot_end = end;
        let least = |mark: Seqno| mark.min(end);
        self.visible_end = self.visible_end.map(least);
        self.purge_seqno = self.purge_seqno.map(least);
        self.high_completed = self.high_completed.map(|mark| match rest {
            Rest::Empty => mark.min(end),
            Rest::Lost { over } => over.min(end),
        });
    }

    /// Whether the snapshot came to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.high() == self.snapshot_end
    }

    /// Lowest seqno readers may start from without missing what was here; none when all items were expelled.
    pub(super) fn low(&self) -> Option<Seqno> {
        match self.highest_expelled {
            None => Some(self.start),
            Some(_) => self.first_item_from(self.first),
        }
    }

    pub(super) fn slots_from(&self, position: usize) -> impl Iterator<Item = &Slot> {
        let from = position.saturating_sub(self.first).min(self.slots.len());
        self.slots.range(from..)
    }

    pub(super) fn first_item_from(&self, position: usize) -> Option<Seqno> {
        let mut slots = self.slots_from(position);
        slots.find(|slot| slot.is_item()).map(|slot| slot.seqno)
    }

    /// Position of the first slot above `seqno`.
    pub(super) fn position_above(&self, seqno: Seqno) -> usize {
        let index = self.slots.partition_point(|slot| slot.seqno <= seqno);
        self.first.saturating_add(index)
    }

    pub(super) fn push_item(&mut self, item: Arc<Item>, keeps_history: bool) {
        let seqno = item.seqno;
        self.high = Some(seqno);
        self.queued = self.queued.saturating_add(1);
        self.items = self.items.saturating_add(1);
        if is_visible(&item.operation) {
            self.visible_end = self.visible_end.max(Some(seqno));
        }
        let content = Content::Item {
            item,
            keeps_history,
        };
        self.push(Slot { seqno, content });
    }

    pub(super) fn push_identity(&mut self, seqno: Seqno, identity: Arc<VbucketIdentity>) {
        self.identities = self.identities.saturating_add(1);
        let content = Content::Identity(identity);
        self.push(Slot { seqno, content });
    }

    fn push(&mut self, slot: Slot) {
        self.bytes = self.bytes.saturating_add(slot.bytes());
        self.slots.push_back(slot);
    }

    /// What is known of item `seqno`.
    pub(super) fn find(&self, seqno: Seqno) -> Found<'_> {
        if seqno < self.start || seqno > self.high() {
            return Found::Nothing;
        }
        if self.highest_expelled.is_some_and(|high| seqno <= high) {
            let lasting = self.expelled_lasting.binary_search(&seqno).is_ok();
            return Found::Expelled { lasting };
        }
        let Some(index) = self.index_of(seqno) else {
            return Found::Nothing;
        };
        match self.slots.get(index).map(|slot| &slot.content) {
            Some(Content::Item {
                item,
                keeps_history,
            }) => Found::Item {
                position: self.first.saturating_add(index),
                item,
                keeps_history: *keeps_history,
            },
            Some(Content::Hole | Content::Identity(_)) | None => Found::Nothing,
        }
    }

    /// Where item `seqno` lies. Seqnos are nearly dense, so a guess from the front is right but for replicas and
    /// where the identity changed in the middle.
    fn index_of(&self, seqno: Seqno) -> Option<usize> {
        let is_it = |slot: &Slot| slot.seqno == seqno && !slot.is_identity();
        let front = self.slots.front()?.seqno;
        let offset = usize::try_from(seqno.0.checked_sub(front.0)?).ok()?;
        let guess = offset.saturating_add(self.identities);
        if self.slots.get(guess).is_some_and(is_it) {
            return Some(guess);
        }
        let low = self.slots.partition_point(|slot| slot.seqno < seqno);
        let run = self.slots.range(low..).take_while(|s| s.seqno == seqno);
        let behind = run.take_while(|slot| slot.is_identity()).count();
        let index = low.saturating_add(behind);
        self.slots.get(index).is_some_and(is_it).then_some(index)
    }

    /// Turns the item at `position` into a hole. `is_persisted`: the store holds it.
    pub(super) fn remove(&mut self, position: usize, is_persisted: bool) {
        let index = position.saturating_sub(self.first);
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let before = slot.bytes();
        slot.content = Content::Hole;
        let freed = before.saturating_sub(slot.bytes());
        let seqno = slot.seqno;
        self.bytes = self.bytes.saturating_sub(freed);
        self.items = self.items.saturating_sub(1);
        if !is_persisted {
            self.note_hole(seqno);
        }
    }

    fn note_hole(&mut self, seqno: Seqno) {
        let lower = self.first_hole.is_none_or(|first| seqno < first);
        if lower {
            self.first_hole = Some(seqno);
        }
    }

    /// Counts the holes above `seqno` as not persisted again.
    pub(super) fn note_holes_above(&mut self, seqno: Seqno) {
        let is_hole = |slot: &&Slot| matches!(slot.content, Content::Hole);
        let above = self.position_above(seqno);
        let hole = self.slots_from(above).find(is_hole).map(|slot| slot.seqno);
        if let Some(seqno) = hole {
            self.note_hole(seqno);
        }
    }

    /// Takes away up to `slots_max` slots in front of `position`.
    pub(super) fn expel(&mut self, position: usize, slots_max: usize) -> VecDeque<Slot> {
        let count = position.saturating_sub(self.first).min(slots_max);
        let count = count.min(self.slots.len());
        let expelled: VecDeque<Slot> = self.slots.drain(..count).collect();
        self.first = self.first.saturating_add(count);
        for slot in &expelled {
            self.bytes = self.bytes.saturating_sub(slot.bytes());
            match &slot.content {
                Content::Item {
                    item,
                    keeps_history,
                } => {
                    self.items = self.items.saturating_sub(1);
                    self.highest_expelled = Some(slot.seqno);
                    if *keeps_history || !may_be_deduplicated(&item.operation) {
                        self.expelled_lasting.push(slot.seqno);
                        self.bytes = self.bytes.saturating_add(size_of::<Seqno>());
                    }
                }
                Content::Identity(_) => self.identities = self.identities.saturating_sub(1),
                Content::Hole => {}
            }
        }
        expelled
    }

    pub(super) fn into_slots(self) -> VecDeque<Slot> {
        self.slots
    }

    /// Bytes and items, counted anew.
    #[cfg(test)]
    pub(super) fn recount(&self) -> (usize, usize) {
        let slots: usize = self.slots.iter().map(Slot::bytes).sum();
        let lasting = self.expelled_lasting.len() * size_of::<Seqno>();
        let items = self.slots.iter().filter(|slot| slot.is_item()).count();
        (Self::EMPTY_BYTES + slots + lasting, items)
    }
}

/// Whether an item of this kind may give way to a newer version: sync-writes may not, nor system events, because every
/// end of a collection is news to the store, whatever begins behind it.
pub(super) fn may_be_deduplicated(operation: &Operation) -> bool {
    match operation {
        Operation::Mutation | Operation::Deletion { .. } => true,
        Operation::SystemEventBegin
        | Operation::SystemEventEnd
        | Operation::Prepare { .. }
        | Operation::Abort { .. }
        | Operation::CommitMutation { .. }
        | Operation::CommitDeletion { .. } => false,
    }
}

/// Whether readers without sync-writes may see it.
fn is_visible(operation: &Operation) -> bool {
    !matches!(
        operation,
        Operation::Prepare { .. } | Operation::Abort { .. }
    )
}
