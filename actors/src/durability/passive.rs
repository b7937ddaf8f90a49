//! The passive monitor: how far a replica holds the prepares of its active as strongly as they ask, which is what it may
//! acknowledge.
//!
//! Invariant: the high prepared seqno lies at or below the end of a snapshot that came whole; never behind a prepare that
//! must be on disk here and is not, never inside a disk snapshot that is not on disk: what it left out may have been
//! stronger than what it shows (MB-34873).

use std::collections::VecDeque;

use storage::{CollectionId, DocumentKey, DurabilityLevel, Seqno, SnapshotKind};

use super::active::Inherited;
use super::open::Open;
use super::prepare::{Prepare, Tracked, first_above, pop_front_if, take_out};

/// The end of a snapshot that came whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotEnd {
    /// Its last seqno.
    pub seqno: Seqno,
    /// Where it came from.
    pub kind: SnapshotKind,
    /// The high prepared seqno its marker named, of a disk snapshot.
    pub(super) high_prepared: Option<Seqno>,
    /// The high completed seqno its marker named, of a disk snapshot.
    pub(super) high_completed: Seqno,
}

/// A snapshot's marker contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot ends at {end}, but names {named} as prepared; end the stream")]
pub struct SnapshotEndError {
    /// Its end.
    pub end: Seqno,
    /// What it names.
    pub named: Seqno,
}

impl SnapshotEnd {
    /// Of a snapshot from memory.
    #[must_use]
    pub const fn memory(seqno: Seqno) -> SnapshotEnd {
        SnapshotEnd {
            seqno,
            kind: SnapshotKind::Memory,
            high_prepared: None,
            high_completed: Seqno::ZERO,
        }
    }

    /// Of a disk snapshot, with what its marker named. A high prepared seqno below its start says nothing.
    pub fn disk(
        (start, seqno): (Seqno, Seqno),
        high_prepared: Option<Seqno>,
        high_completed: Seqno,
    ) -> Result<SnapshotEnd, SnapshotEndError> {
        if let Some(named) = high_prepared.filter(|named| *named > seqno) {
            return Err(SnapshotEndError { end: seqno, named });
        }
        Ok(SnapshotEnd {
            seqno,
            kind: SnapshotKind::Disk,
            high_prepared: high_prepared.filter(|named| *named >= start),
            high_completed,
        })
    }
}

impl SnapshotEnd {
    /// What its marker named as prepared, or its last seqno if that said nothing.
    #[must_use]
    pub fn high_prepared(&self) -> Seqno {
        self.high_prepared.unwrap_or(self.seqno)
    }

    /// What its marker named as completed; zero of a snapshot from memory.
    #[must_use]
    pub fn high_completed(&self) -> Seqno {
        self.high_completed
    }

    /// Of a disk snapshot of which nothing more comes: up to where what it holds is prepared, and is over.
    #[must_use]
    pub const fn cut(seqno: Seqno, high_prepared: Seqno, high_completed: Seqno) -> SnapshotEnd {
        SnapshotEnd {
            seqno,
            kind: SnapshotKind::Disk,
            high_prepared: Some(high_prepared),
            high_completed,
        }
    }

    /// The same where the newest item is its last, though its marker named a later one.
    #[must_use]
    pub fn ending_at(self, seqno: Seqno) -> SnapshotEnd {
        SnapshotEnd {
            seqno,
            high_prepared: self.high_prepared.map(|named| named.min(seqno)),
            high_completed: self.high_completed.min(seqno),
            ..self
        }
    }

    /// The same behind a snapshot from disk that is not on disk here.
    #[must_use]
    pub fn as_disk(self) -> SnapshotEnd {
        SnapshotEnd {
            kind: SnapshotKind::Disk,
            high_prepared: None,
            ..self
        }
    }
}

/// How a prepare ended on the active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It was committed.
    Commit,
    /// It was given up.
    Abort,
}

/// In what order completions come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionOrder {
    /// In the order of the prepares, this being the one that ends: in a snapshot from memory.
    Ordered(Seqno),
    /// In any, the prepare not named: in a disk snapshot.
    Unordered,
}

/// What the active sent does not fit what it sent before; the stream is to be ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassiveError {
    /// A prepare does not follow the last one.
    #[error("prepare {seqno} does not follow prepare {last}; end the stream")]
    OutOfOrder {
        /// The prepare's.
        seqno: Seqno,
        /// The last one's.
        last: Seqno,
    },
    /// The key has a prepare already that is not over, and is not the one said to be replaced.
    #[error("prepare {seqno} of a key whose prepare {before} is not over; end the stream")]
    StillPrepared {
        /// The prepare's.
        seqno: Seqno,
        /// The one there is.
        before: Seqno,
    },
    /// Another prepare is first in line.
    #[error("the end of prepare {seqno} came before that of prepare {next}; end the stream")]
    CompletedOutOfOrder {
        /// What was said to end.
        seqno: Seqno,
        /// What is first in line.
        next: Seqno,
    },
    /// Nothing of that key is prepared.
    #[error("a prepare ended that is not here; end the stream")]
    NothingPrepared,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct PassiveMonitor {
    tracked: VecDeque<Tracked>,
    /// Those of them that go on.
    open: Open,
    /// Not passed yet, as they came.
    snapshot_ends: VecDeque<SnapshotEnd>,
    last_end: Option<SnapshotEnd>,
    pub(super) high_prepared: Seqno,
    pub(super) high_completed: Seqno,
    persisted: Seqno,
}

impl PassiveMonitor {
    /// A monitor that goes on with what is there. `whole` is the end of the last snapshot that came whole; what it holds
    /// already may be acknowledged.
    pub(super) fn new(inherited: Inherited, whole: Option<SnapshotEnd>) -> PassiveMonitor {
        let Inherited {
            tracked,
            high_prepared,
            high_completed,
            persisted,
        } = inherited;
        let mut open = Open::default();
        let goes_on = |one: &&Tracked| !one.is_completed && !one.is_dropped;
        for one in tracked.iter().filter(goes_on) {
            open.insert(&one.prepare);
        }
        let mut monitor = PassiveMonitor {
            tracked,
            open,
            snapshot_ends: whole.into_iter().collect(),
            last_end: whole,
            high_prepared,
            high_completed,
            persisted,
        };
        monitor.advance();
        monitor
    }

    /// A prepare came. `replaces` is the one of the same key that the vbucket held and a disk snapshot may replace: its
    /// end was left out (MB-37205).
    pub fn prepare(
        &mut self,
        prepare: Prepare,
        replaces: Option<Seqno>,
    ) -> Result<(), PassiveError> {
        let seqno = prepare.seqno;
        let last = self.tracked.back().map_or(Seqno::ZERO, Tracked::seqno);
        if seqno <= last {
            return Err(PassiveError::OutOfOrder { seqno, last });
        }
        // One of an ended collection is in nobody's way: the collection began anew.
        if let Some(before) = self.open.of(&prepare.key) {
            if replaces != Some(before) {
                return Err(PassiveError::StillPrepared { seqno, before });
            }
            self.open.remove(&prepare.key, before);
            drop(take_out(&mut self.tracked, &prepare.key, before));
        }
        self.open.insert(&prepare);
        self.tracked.push_back(Tracked::inherited(prepare));
        self.drop_passed();
        Ok(())
    }

    /// A snapshot came whole. To be told of each that held a prepare, of each from disk, and of the first on a stream,
    /// whatever it held (MB-51805).
    pub fn snapshot_end(&mut self, end: SnapshotEnd) {
        self.snapshot_ends.push_back(end);
        self.last_end = Some(end);
        self.advance();
        self.high_completed = self.high_completed.max(end.high_completed);
    }

    /// Everything up to `seqno` is on this node's disk. To be told after every batch.
    pub fn note_persisted(&mut self, seqno: Seqno) {
        self.persisted = self.persisted.max(seqno);
        self.advance();
    }

    /// The store says that this is prepared, which a monitor that is made anew would begin with: one that was, in the middle
    /// of snapshots whose ends nobody knows any more, holds no less.
    pub fn note_stored(&mut self, high_prepared: Seqno) {
        if high_prepared > self.high_prepared {
            self.high_prepared = high_prepared;
            self.drop_passed();
        }
    }

    /// The active ended a prepare of this key. In a disk snapshot a commit is told of only if the vbucket holds the
    /// prepare; an abort always, which says nothing if its prepare never came (MB-36735).
    pub fn complete(
        &mut self,
        key: &DocumentKey,
        completion: Completion,
        order: CompletionOrder,
    ) -> Result<(), PassiveError> {
        let seqno = match order {
            CompletionOrder::Ordered(seqno) => Some(self.check_next(key, seqno)?),
            CompletionOrder::Unordered => self.open.of(key),
        };
        match (seqno, completion) {
            (Some(seqno), _) => self.end(key, seqno),
            (None, Completion::Abort) => {}
            (None, Completion::Commit) => return Err(PassiveError::NothingPrepared),
        }
        Ok(())
    }

    /// Whether the active may end a prepare of this key so, before anything is done about it.
    pub fn check(&self, key: &DocumentKey, order: CompletionOrder) -> Result<(), PassiveError> {
        match order {
            CompletionOrder::Ordered(seqno) => self.check_next(key, seqno).map(drop),
            CompletionOrder::Unordered => Ok(()),
        }
    }

    /// Whether this is the next to end. Not the first above the high completed seqno: a disk snapshot that shows a
    /// collection only in its last life may have raised that over prepares that go on.
    fn check_next(&self, key: &DocumentKey, seqno: Seqno) -> Result<Seqno, PassiveError> {
        let next = self.open.first().ok_or(PassiveError::NothingPrepared)?;
        if next != seqno || self.open.of(key) != Some(seqno) {
            return Err(PassiveError::CompletedOutOfOrder { seqno, next });
        }
        Ok(seqno)
    }

    fn end(&mut self, key: &DocumentKey, seqno: Seqno) {
        self.open.remove(key, seqno);
        let at = self.tracked.binary_search_by_key(&seqno, Tracked::seqno);
        if let Some(found) = at.ok().and_then(|at| self.tracked.get_mut(at)) {
            found.is_completed = true;
        }
        self.high_completed = self.high_completed.max(seqno);
        self.drop_passed();
    }

    /// A collection ended at `end`: nobody completes its prepares. They stay until they are erased, or passed over.
    pub fn note_collection_dropped(&mut self, collection: CollectionId, end: Seqno) {
        for one in &mut self.tracked {
            one.note_dropped(collection, end);
            if one.is_dropped {
                self.open.remove(&one.prepare.key, one.prepare.seqno);
            }
        }
        self.drop_passed();
    }

    /// The prepare is erased from the disk, with its collection; whether it was there.
    pub fn erase(&mut self, key: &DocumentKey, seqno: Seqno) -> bool {
        self.open.remove(key, seqno);
        let was_there = take_out(&mut self.tracked, key, seqno).is_some();
        // What is over may have stood behind it.
        self.drop_passed();
        was_there
    }

    /// What this node may acknowledge.
    #[must_use]
    pub fn high_prepared(&self) -> Seqno {
        self.high_prepared
    }

    /// Highest prepare that is over.
    #[must_use]
    pub fn high_completed(&self) -> Seqno {
        self.high_completed
    }

    /// Highest prepare that is tracked: what lies at or below it may be replaced by a disk snapshot that begins now.
    #[must_use]
    pub fn last_tracked(&self) -> Seqno {
        self.tracked.back().map_or(Seqno::ZERO, Tracked::seqno)
    }

    /// What is left when this node is no replica any more, and the end of the last snapshot that came whole. If one of
    /// those that are not passed came from disk, it counts as such.
    pub(super) fn retire(self) -> (Inherited, Option<SnapshotEnd>) {
        let is_disk = |end: &SnapshotEnd| end.kind == SnapshotKind::Disk;
        let from_disk = self.snapshot_ends.iter().any(is_disk);
        let last_end = self.last_end.map(|end| SnapshotEnd {
            kind: if from_disk {
                SnapshotKind::Disk
            } else {
                end.kind
            },
            high_prepared: None,
            ..end
        });
        let inherited = Inherited {
            tracked: self.tracked,
            high_prepared: self.high_prepared,
            high_completed: self.high_completed,
            persisted: self.persisted,
        };
        (inherited, last_end)
    }

    fn advance(&mut self) {
        let before = self.high_prepared;
        while let Some(end) = self.snapshot_ends.front().copied() {
            if !self.pass(end) {
                break;
            }
            self.snapshot_ends.pop_front();
        }
        if self.high_prepared > before {
            self.drop_passed();
        }
    }

    /// Moves the high prepared seqno over the snapshot as far as may be; whether that is all of it.
    fn pass(&mut self, end: SnapshotEnd) -> bool {
        let is_persisted = self.persisted >= end.seqno;
        let strongest = match end.kind {
            _ if is_persisted => Some(DurabilityLevel::PersistToMajority),
            SnapshotKind::Memory => Some(DurabilityLevel::MajorityAndPersistOnActive),
            SnapshotKind::Disk => None,
        };
        let from = first_above(&self.tracked, self.high_prepared);
        for one in self.tracked.range(from..) {
            if one.seqno() > end.seqno {
                break;
            }
            if Some(one.prepare.level) > strongest {
                return false;
            }
            self.high_prepared = one.seqno();
        }
        if end.kind == SnapshotKind::Disk {
            if !is_persisted {
                return false;
            }
            // Its prepares may be left out, having ended; they are held all the same (MB-51639).
            let named = end.high_prepared.unwrap_or(end.seqno);
            self.high_prepared = self.high_prepared.max(named);
        }
        true
    }

    /// Forgets what is over and passed, up to the first that is not over (MB-36262). Nobody ends what is dropped.
    fn drop_passed(&mut self) {
        let passed = self.high_prepared;
        let is_over = |one: &Tracked| one.is_completed || one.is_dropped;
        let is_passed = |one: &Tracked| is_over(one) && one.seqno() <= passed;
        while pop_front_if(&mut self.tracked, is_passed).is_some() {}
    }
}

/// What was acknowledged on one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledger {
    sent: Seqno,
}

impl Acknowledger {
    /// Whether there is anything to be sent.
    #[must_use]
    pub fn is_due(&self, high_prepared: Seqno) -> bool {
        high_prepared > self.sent
    }

    /// The last that was.
    #[must_use]
    pub fn said(&self) -> Seqno {
        self.sent
    }

    /// What is to be sent now, if anything: rising values, each once; on a stream that was just accepted what was reached
    /// before it, since the last word on the stream before may be lost (MB-35361).
    #[must_use]
    pub fn due(&mut self, high_prepared: Seqno) -> Option<Seqno> {
        if high_prepared <= self.sent {
            return None;
        }
        self.sent = high_prepared;
        Some(high_prepared)
    }
}

/// For tests and the predicates they check.
impl PassiveMonitor {
    /// How far it was told the disk is.
    #[must_use]
    pub fn persisted(&self) -> Seqno {
        self.persisted
    }

    /// What is tracked and not over.
    pub fn incomplete(&self) -> impl Iterator<Item = &Prepare> {
        let incomplete = self.tracked.iter().filter(|one| !one.is_completed);
        incomplete.map(|one| &one.prepare)
    }

    /// Seqnos of all that is tracked, over or not.
    #[must_use]
    pub fn tracked_seqnos(&self) -> Vec<u64> {
        self.tracked.iter().map(|one| one.seqno().0).collect()
    }

    /// Ends of snapshots that came whole and are not passed.
    pub fn waiting_ends(&self) -> impl Iterator<Item = &SnapshotEnd> {
        self.snapshot_ends.iter()
    }
}
