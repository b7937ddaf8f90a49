//! What a vbucket knows of durable writes under its lock: the monitor, the ledger, and on a replica the snapshot under way.
//!
//! Invariant: the monitor follows from the table of prepares, the ledger, and how far the vbucket has come; so whatever is
//! done in a panic's middle is put right by making it anew ([`VbucketCore::reconcile`]). Its role is that of the identity. Who
//! waits is answered once the lock is free.

mod roles;

use std::sync::Arc;
use std::time::Duration;

use super::announced::Announced;
use super::core::{Inner, VbucketCore};
use super::dirty::DirtyVbuckets;
use super::durable::Reply;
use super::invariants::Views;
use super::lock::Locked;
use super::prepares::Newest;
use super::replica::StreamEpoch;
use crate::durability::{
    Chains, Ledger, Monitor, NodeName, OutOfOrder, Outstanding, Prepare, Requirements, RoleEpoch,
    Settled, Standing, high_prepared_on_disk,
};
use messages::compactor::PreparesErased;
use messages::durability::DurableWrites;
use messages::{Busy, DurabilityStatus, OperationError};
use storage::{
    CollectionId, DocumentKey, ErasedPrepare, Seqno, Topology, VbucketIdentity, VbucketState,
    Watermarks,
};

/// Monitor, ledger, and what both are of.
#[derive(Debug)]
pub(super) struct Durable {
    pub(super) monitor: Monitor,
    pub(super) ledger: Ledger<Reply>,
    pub(super) announced: Announced,
    requirements: Requirements,
    /// What the vbucket was when monitor and ledger were told last.
    role: VbucketState,
    /// Highest prepare that is over, as the monitor said last.
    high_completed: Seqno,
    /// When whoever drives this comes back (monotonic), if he was told to.
    pub(super) armed: Option<Duration>,
    pub(super) counts: DurableWrites,
    /// Why nobody drives this: nothing is decided any more.
    stopped: Option<OperationError>,
    /// Those copied to be judged.
    pub(super) views: Views,
}

impl Durable {
    /// What the store says, without the prepares it holds.
    pub(super) fn stored(identity: &VbucketIdentity, watermarks: &Watermarks) -> Durable {
        let (ledger, announced) = (Ledger::default(), Announced::stored(watermarks));
        let outstanding = Outstanding {
            high_prepared: high_prepared_on_disk(watermarks),
            high_completed: watermarks.completed_seqno,
            whole: announced.whole(),
            ..Outstanding::default()
        };
        let requirements = Requirements::default();
        let standing = Standing {
            high_seqno: watermarks.high_seqno,
            persisted: watermarks.high_seqno,
            is_behind_disk: false,
            requirements,
        };
        let chains = chains_of(&identity.topology);
        let monitor = Monitor::rebuild(identity.state, chains, outstanding, &standing, &ledger);
        Durable {
            monitor,
            ledger,
            announced,
            requirements,
            role: identity.state,
            high_completed: watermarks.completed_seqno,
            armed: None,
            counts: DurableWrites::default(),
            stopped: None,
            views: Views::default(),
        }
    }

    /// Whether somebody drives this.
    pub(super) fn admit_driven(&self) -> Result<(), OperationError> {
        self.stopped.clone().map_or(Ok(()), Err)
    }

    /// Whether a durable write can be taken on at all.
    pub(super) fn admit(&self) -> Result<(), OperationError> {
        self.admit_driven()?;
        let Monitor::Active(active) = &self.monitor else {
            return Err(OperationError::TemporaryFailure(Busy::NoTopology));
        };
        let chains = active.chains();
        let chains = chains.ok_or(OperationError::TemporaryFailure(Busy::NoTopology))?;
        if chains.is_possible(self.requirements) {
            Ok(())
        } else {
            Err(OperationError::DurabilityImpossible)
        }
    }

    /// What was decided of a write was done.
    pub(super) fn count(&mut self, settled: Settled) {
        if self.role != VbucketState::Active {
            return;
        }
        let counts = &mut self.counts;
        match settled {
            Settled::Committed => counts.committed = counts.committed.saturating_add(1),
            Settled::Aborted => counts.aborted = counts.aborted.saturating_add(1),
            Settled::CollectionGone => {}
        }
    }

    /// A prepare of this vbucket's own is in the log.
    pub(super) fn track(&mut self, prepare: Prepare) -> Result<(), OutOfOrder> {
        let deadline = self.ledger.deadline(prepare.seqno);
        match &mut self.monitor {
            Monitor::Active(active) => active.track(prepare, deadline),
            Monitor::Passive(_) | Monitor::Dead(_) => Err(OutOfOrder {
                seqno: prepare.seqno,
                last: Seqno::MAX,
            }),
        }
    }

    /// Highest prepare this node holds as strongly as it asks; to be stored only as far as whole snapshots are.
    pub(super) fn high_prepared(&self) -> Seqno {
        self.ledger.high_prepared()
    }

    /// Notes how far the monitor is.
    fn note_progress(&mut self) {
        self.ledger
            .raise_high_prepared(self.monitor.high_prepared());
        let completed = self.monitor.high_completed();
        self.high_completed = completed.max(self.high_completed);
    }

    /// Whether whoever drives this has something to do that he was not told of; `before` is how far it was.
    fn wants_attention(&self, before: Seqno) -> bool {
        match &self.monitor {
            Monitor::Active(active) => {
                let tick = active.next_tick();
                let is_sooner = |tick| self.armed.is_none_or(|armed| tick < armed);
                active.next_decision().is_some() || tick.is_some_and(is_sooner)
            }
            Monitor::Passive(passive) => {
                let prepared = passive.high_prepared();
                prepared > before && self.announced.has_word(prepared)
            }
            Monitor::Dead(_) => false,
        }
    }
}

/// What a stored topology says; one that says nothing is as none.
fn chains_of(topology: &Topology) -> Option<Chains> {
    Chains::of(topology).unwrap_or_else(|error| {
        // Looked at before it was taken over.
        tracing::error!(%error, "a topology that cannot be is stored");
        None
    })
}

impl Locked<'_> {
    /// The monitor was told something: what it came to is noted, and who drives it learns of what is to be done.
    pub(super) fn after_monitor(&mut self) {
        let before = self.durable.high_prepared();
        self.note_progress();
        if self.durable.wants_attention(before) {
            self.note_decided();
        }
    }

    /// What the monitor came to is noted where it outlives it.
    pub(super) fn note_progress(&mut self) {
        self.since().is_told = true;
        let inner: &mut Inner = self;
        inner.durable.note_progress();
        let prepared = inner.durable.high_prepared();
        inner.log.raise_high_prepared(prepared);
    }

    /// Everything up to `settled` is on disk.
    pub(super) fn tell_persisted(&mut self, settled: Seqno) {
        let inner: &mut Inner = self;
        let stored = inner.flushed.persisted();
        inner.durable.announced.note_stored(stored);
        let monitor = &mut inner.durable.monitor;
        monitor.note_persisted(settled);
        monitor.note_stored(stored.high_prepared_seqno);
        self.after_monitor();
    }

    /// Whoever waits for this prepare is told, once the lock is free.
    pub(super) fn complete(&mut self, seqno: Seqno, answer: super::durable::Answer) {
        if let Some(reply) = self.durable.ledger.complete(seqno) {
            self.answer_later(reply, answer);
        }
    }

    fn answer_ambiguous(&mut self, replies: Vec<Reply>) {
        for reply in replies {
            self.answer_later(reply, Err(OperationError::SyncWriteAmbiguous));
        }
    }

    /// Everybody who waits is told that the outcome is not known: nothing is decided for now. Nothing else changes.
    pub(super) fn answer_all(&mut self) {
        let replies = self.durable.ledger.answer_all();
        self.answer_ambiguous(replies);
    }

    /// Where nothing is decided for now: whoever has waited long enough is told so. When (monotonic) the next has.
    pub(super) fn answer_overdue(&mut self, now: Duration) -> Option<Duration> {
        let replies = self.durable.ledger.answer_overdue(now);
        self.answer_ambiguous(replies);
        self.durable.ledger.next_overdue()
    }
}

impl VbucketCore {
    /// From now on this is marked when something is to be decided, done or acknowledged here.
    pub fn set_durability_edge(&self, edge: Arc<DirtyVbuckets>) {
        *self.durability_edge.write() = Some(edge);
        self.mark_durability();
    }

    pub(super) fn mark_durability(&self) {
        let edge = self.durability_edge.read().clone();
        if let Some(edge) = edge {
            edge.mark(self.id);
        }
    }

    /// Nobody drives durable writes here any more: they are refused with this, and whoever waits is told that the outcome is
    /// not known.
    pub fn stop_durability(&self, why: OperationError) {
        let mut locked = self.lock();
        locked.durable.stopped = Some(why);
        locked.answer_all();
        self.end_any_hold(&mut locked);
    }

    /// Somebody drives them again.
    pub fn resume_durability(&self) {
        self.lock().durable.stopped = None;
        self.mark_durability();
    }

    /// What the bucket asks of its chains from now on.
    pub fn set_requirements(&self, requirements: Requirements) {
        let mut locked = self.lock();
        locked.durable.requirements = requirements;
        if let Monitor::Active(active) = &mut locked.durable.monitor {
            active.set_requirements(requirements);
        }
        locked.after_monitor();
    }

    /// The role of now: what nodes acknowledge counts in the role it was said in.
    #[must_use]
    pub fn role(&self) -> RoleEpoch {
        self.lock().durable.ledger.role()
    }

    /// A node holds everything up to `seqno`, each prepare as strongly as it asks. Of a stream that lives, checked by the
    /// caller: `seqno` is not above what that stream sent. Where nothing is decided nothing of it is kept.
    pub fn acknowledge_prepared(&self, role: RoleEpoch, node: &NodeName, seqno: Seqno) {
        let mut locked = self.lock();
        let Durable {
            monitor, ledger, ..
        } = &mut locked.durable;
        if let Monitor::Active(active) = monitor
            && ledger.role() == role
        {
            ledger.acknowledge(node, seqno);
            active.acknowledge(node, seqno);
            locked.after_monitor();
        }
    }

    /// The stream to a node ended.
    pub fn end_node_stream(&self, role: RoleEpoch, node: &NodeName) {
        let mut locked = self.lock();
        let Durable {
            monitor, ledger, ..
        } = &mut locked.durable;
        if let Monitor::Active(active) = monitor
            && ledger.role() == role
        {
            ledger.end_stream(node, active.chains());
            active.end_stream(node);
        }
    }

    /// Of a replica: what the consumer of that stream has to acknowledge to its source now, if anything. A stream that may not
    /// write any more is told so: nothing else may come that would.
    pub fn prepared_to_acknowledge(
        &self,
        epoch: StreamEpoch,
    ) -> Result<Option<Seqno>, OperationError> {
        let mut locked = self.lock();
        if locked.stream != epoch {
            return Err(OperationError::StaleStream);
        }
        if self.is_suspect() {
            // Its repair ends this stream, and says so.
            return Ok(None);
        }
        let Durable {
            monitor, announced, ..
        } = &mut locked.durable;
        let Monitor::Passive(passive) = monitor else {
            return Ok(None);
        };
        Ok(announced.acknowledge(passive.high_prepared()))
    }

    /// A compaction erased these prepares, with their collections; told after that is on disk, and perhaps twice.
    pub fn forget_erased(&self, erased: &PreparesErased) {
        let mut locked = self.lock();
        if (erased.incarnation, erased.epoch) != (self.incarnation, locked.least_epoch) {
            return;
        }
        for ErasedPrepare { key, seqno } in &erased.prepares {
            self.forget_prepare(&mut locked, key, *seqno);
            locked.complete(*seqno, Err(OperationError::SyncWriteAmbiguous));
        }
        locked.after_monitor();
    }

    /// Nobody ends this prepare.
    pub(super) fn forget_prepare(&self, locked: &mut Locked<'_>, key: &DocumentKey, seqno: Seqno) {
        let newest = Newest {
            abort: None,
            open_start: locked.log.open_start(),
        };
        self.prepares.end(key, seqno.next(), newest, &self.memory);
        locked.since().is_erased = true;
        // Of one that is not there nothing is said.
        let _was_there = locked.durable.monitor.erase(key, seqno);
    }

    /// How it stands with durable writes.
    #[must_use]
    pub fn durability_figures(&self) -> DurabilityStatus {
        let locked = self.lock();
        DurabilityStatus {
            vbucket: self.id,
            high_prepared: locked.durable.monitor.high_prepared(),
            high_completed: locked.durable.monitor.high_completed(),
            prepares: self.prepares.open(),
            maybe_visible: self.prepares.maybe_visible(),
            waiting: locked.durable.ledger.waiting(),
            bytes: self.prepares.bytes(),
            counts: locked.durable.counts,
        }
    }

    /// The monitor as it is.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        self.lock().durable.monitor.clone()
    }
}

/// Whether a store that is so far holds prepares that may go on.
pub(super) fn has_prepares(watermarks: &Watermarks) -> bool {
    watermarks.prepared_seqno > watermarks.completed_seqno
}

impl Inner {
    /// A collection ended, or began anew, at `end`: nobody completes what was prepared in it.
    pub(super) fn note_collection_dropped(&mut self, collection: CollectionId, end: Seqno) {
        let monitor = &mut self.durable.monitor;
        monitor.note_collection_dropped(collection, end);
        self.durable.note_progress();
    }
}
