//! The bucket's vbuckets: a slot for each number, and how a core for it is made.
//!
//! Invariant: slots and cores are owned by the bucket, not by any actor, so that they outlive every restart.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use actors::compactor::{Compactable, CompactionTable};
use actors::environment::{Environment, FailureReport, Random};
use actors::executor::WakeWorker;
use actors::maintenance::{MemoryUse, Paged, Pager, Shortage, Side, Sweepable};
use actors::panics::caught;
use actors::vbucket::checkpoint::CheckpointLimits;
use actors::vbucket::{
    BucketManifest, DirtyVbuckets, Evicted, EvictionWalk, ExpiryWalk, Swept, VbucketConfig,
    VbucketCore, VbucketSlot,
};
use actors::warmup::{VbucketTable, Warmable};
use messages::{
    Busy, ChildName, CompactError, DownCause, FailureCause, FailureKind, Generation, NextStep,
    OperationError,
};
use storage::{
    Eviction, KvStore, LogStore, MemoryAccount, MemoryPool, VbucketId, VbucketIdentity,
    VbucketPosition, VbucketState, VbucketStateRecord,
};

use crate::background;
use crate::durability::Durable;
use crate::restart::OutOfService;
use crate::tree::Child;
use crate::wiring;

/// A slot for each vbucket of a bucket.
pub(crate) struct Table {
    pub(crate) slots: Vec<Arc<VbucketSlot>>,
    pub(crate) memory: Arc<MemoryPool>,
    /// One edge to a flusher for each actor thread; vbuckets are dealt in turns.
    edges: Vec<Arc<DirtyVbuckets>>,
    first_edge: Arc<DirtyVbuckets>,
    environment: Environment,
    keeps_history: bool,
    eviction: Eviction,
    pager: Mutex<Pager>,
    /// The pager found hardly anything that could leave.
    waits_for_seals: AtomicBool,
    /// The manifest the active vbuckets follow.
    pub(crate) manifest: Arc<BucketManifest>,
    checkpoints: CheckpointLimits,
    pub(crate) durable: Durable,
    /// Told when a panic left a core suspect: somebody must look for it and have it repaired.
    pub(crate) suspects: Arc<Notify>,
    /// The whole bucket is out of service.
    pub(crate) is_given_up: AtomicBool,
    /// The engine is down: nothing is served any more, reads neither.
    is_over: AtomicBool,
    /// Those the supervisor took out of service, and nobody else had.
    given_up: Mutex<BTreeSet<VbucketId>>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("vbuckets", &self.slots.len())
            .finish_non_exhaustive()
    }
}

impl Table {
    /// Empty slots for `vbuckets`, dealt to `threads` actor threads (at least one).
    pub(crate) fn new(
        vbuckets: u16,
        threads: usize,
        memory: Arc<MemoryPool>,
        environment: Environment,
        durable: Durable,
    ) -> Table {
        let edge = || Arc::new(DirtyVbuckets::new(vbuckets));
        let first_edge = edge();
        let others = (1..threads).map(|_| edge());
        let edges = std::iter::once(Arc::clone(&first_edge)).chain(others);
        let ids = (0..vbuckets).filter_map(VbucketId::new);
        Table {
            slots: ids.map(|id| Arc::new(VbucketSlot::new(id))).collect(),
            checkpoints: CheckpointLimits::within(memory.quota_bytes(), vbuckets),
            memory,
            edges: edges.collect(),
            first_edge,
            environment,
            keeps_history: false,
            eviction: Eviction::None,
            pager: Mutex::default(),
            waits_for_seals: AtomicBool::new(false),
            manifest: Arc::default(),
            durable,
            suspects: Arc::new(Notify::new()),
            is_given_up: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            given_up: Mutex::default(),
        }
    }

    /// The same, as it was chosen when the store was made: whether every version is kept for a while, and what leaves memory.
    pub(crate) fn of_store(self, store: &LogStore) -> Table {
        Table {
            keeps_history: store.retention().is_some(),
            eviction: store.shape().eviction,
            ..self
        }
    }

    /// What leaves memory when it is short.
    pub(crate) fn eviction(&self) -> Eviction {
        self.eviction
    }

    /// How often the pager went round all vbuckets.
    pub(crate) fn pager_rounds(&self) -> u64 {
        self.pager.lock().rounds()
    }

    /// Has whoever gives memory back woken when a client was refused some, though it may not be short.
    pub(crate) fn when_memory_is_wanted(&self, wake: WakeWorker) {
        self.memory.when_wanted(move || wake.wake());
    }

    fn shortage(&self) -> Shortage {
        Shortage {
            is_short: self.is_short(),
            bytes: self.memory.above_low_mark().max(self.memory.lacks_bytes()),
            worth_bytes: self.memory.high_mark_bytes() / WORTH_DIVISOR,
        }
    }

    /// Has some documents of a vbucket leave; first, what its checkpoint log keeps of them, where that is worth it.
    fn evict_from(&self, number: u16, of: Side, walk: &mut EvictionWalk) -> Option<Evicted> {
        let core = self.slots.get(usize::from(number))?.core().ok()?;
        let side = match core.state() {
            VbucketState::Active => Side::Read,
            VbucketState::Replica | VbucketState::Pending | VbucketState::Dead => Side::Unread,
        };
        if side != of {
            return None;
        }
        if *walk == EvictionWalk::default() {
            let worth = self.memory.high_mark_bytes() / WORTH_DIVISOR;
            let share = worth / u64::from(self.count().max(1));
            if core.checkpoint_bytes() >= share {
                core.shrink_log();
            }
        }
        Some(core.evict(walk))
    }

    /// What time it is, in milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        let since_epoch = self.environment.clock.since_epoch();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    /// What the bucket draws its numbers from.
    pub(crate) fn random(&self) -> &dyn Random {
        &*self.environment.random
    }

    /// How many vbuckets there are: at most 1,024.
    pub(crate) fn count(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    /// How many actor threads the vbuckets are dealt to.
    pub(crate) fn threads(&self) -> usize {
        self.edges.len()
    }

    /// The number of the actor thread a vbucket was dealt to.
    pub(crate) fn thread_of(&self, vbucket: VbucketId) -> usize {
        vbucket.index().checked_rem(self.edges.len()).unwrap_or(0)
    }

    /// The edge to the flusher of an actor thread.
    pub(crate) fn edge(&self, thread: usize) -> &Arc<DirtyVbuckets> {
        self.edges.get(thread).unwrap_or(&self.first_edge)
    }

    /// The core of a vbucket, for a client, or why there is none.
    pub(crate) fn core(&self, vbucket: VbucketId) -> Result<&Arc<VbucketCore>, OperationError> {
        if self.is_over.load(Ordering::Acquire) {
            return Err(OperationError::Closed);
        }
        match self.slots.get(vbucket.index()) {
            Some(slot) => slot.core(),
            None => Err(OperationError::UnknownVbucket(vbucket)),
        }
    }

    /// Every core there is, in the order of the vbuckets.
    pub(crate) fn cores(&self) -> impl Iterator<Item = (VbucketId, &Arc<VbucketCore>)> {
        self.slots
            .iter()
            .filter_map(|slot| Some((slot.id(), slot.core().ok()?)))
    }

    /// The engine is down: clients are answered `Closed` from now on, those who wait already, too.
    pub(crate) fn close(&self) {
        self.is_over.store(true, Ordering::Release);
        for (_, core) in self.cores() {
            core.close();
        }
    }

    /// Takes the vbuckets out of service that the supervisor gave up.
    pub(crate) fn take_down(&self, what: &OutOfService) {
        let cause = DownCause::Escalated(what.why.clone());
        for (id, core) in self.cores() {
            if (what.is_whole_tree || what.vbuckets.contains(&id)) && core.down().is_none() {
                core.take_down(cause.clone());
                self.given_up.lock().insert(id);
            }
        }
        if what.is_whole_tree {
            self.is_given_up.store(true, Ordering::Release);
        }
    }

    /// Puts the vbucket of that child back into service, if it was the supervisor who took it out.
    pub(crate) fn bring_back(&self, child: &ChildName) {
        let is_of_child = |id: &&VbucketId| wiring::vbucket_child(**id) == *child;
        let id = self.given_up.lock().iter().find(is_of_child).copied();
        let slot = id.and_then(|id| self.slots.get(id.index()));
        if let Some(Ok(core)) = slot.map(|slot| slot.core())
            && self.reconcile(core)
        {
            self.given_up.lock().remove(&core.id());
            core.bring_up();
        }
    }

    /// Repairs vbuckets that a panic left half changed; the caller who panicked is told by its own panic. One that was
    /// given up waits until it is brought back.
    pub(crate) fn repair(&self) {
        for (id, core) in self.cores() {
            if core.is_suspect() && !self.given_up.lock().contains(&id) {
                tracing::warn!(vbucket = %id, "repairing what a panic left half done");
                self.reconcile(core);
            }
        }
    }

    /// Repairs a vbucket, or takes it out of service when that panics again and again; whether it is repaired.
    fn reconcile(&self, core: &VbucketCore) -> bool {
        let mut panics = 0u32;
        while let Err(text) = caught(|| core.reconcile()) {
            panics = panics.saturating_add(1);
            let cause = FailureCause::Panic(text.clone());
            if panics < Child::PANICS_IN_A_ROW_MAX {
                let at_ms = background::after(&*self.environment.clock, Duration::ZERO);
                self.tell(
                    core,
                    FailureKind::ChildPanicked,
                    cause,
                    NextStep::RetryAt { at_ms },
                );
                continue;
            }
            let too_often = FailureCause::PoisonedRequest {
                request: "reconcile".to_owned(),
                times: panics,
                last: text,
            };
            self.given_up.lock().insert(core.id());
            core.take_down(DownCause::Escalated(too_often.to_string()));
            self.tell(
                core,
                FailureKind::ChildPanicked,
                cause,
                NextStep::OutOfService,
            );
            self.tell(
                core,
                FailureKind::Escalated,
                too_often,
                NextStep::OutOfService,
            );
            return false;
        }
        true
    }

    fn tell(&self, core: &VbucketCore, kind: FailureKind, cause: FailureCause, next: NextStep) {
        self.environment.failures.report(FailureReport {
            child: ChildName::new(background::REPAIR),
            generation: Generation::default(),
            vbucket: Some(core.id()),
            kind,
            cause,
            next,
        });
    }

    fn make_core(
        &self,
        id: VbucketId,
        state: VbucketStateRecord,
        position: VbucketPosition,
    ) -> VbucketCore {
        let thread = self.thread_of(id);
        let edge = self.edge(thread);
        let suspects = Arc::clone(&self.suspects);
        let core = VbucketCore::new(VbucketConfig {
            id,
            state,
            position,
            environment: self.environment.clone(),
            memory: Arc::new(MemoryAccount::new(Arc::clone(&self.memory))),
            dirty: Arc::clone(edge),
            checkpoints: self.checkpoints,
            on_suspect: Arc::new(move |_| suspects.notify_one()),
        })
        .of_bucket(Arc::clone(&self.manifest))
        .evicting(self.eviction);
        if self.keeps_history {
            core.keep_history();
        }
        self.durable.tell(&core, thread);
        core
    }
}

impl MemoryUse for Table {
    fn is_short(&self) -> bool {
        let is_wanted = || self.eviction != Eviction::None && self.memory.lacks_bytes() > 0;
        self.memory.is_above_high_mark() || is_wanted()
    }

    fn short_from_bytes(&self) -> u64 {
        self.memory.high_mark_bytes()
    }

    fn spare_bytes(&self) -> u64 {
        self.cores().map(|(_, core)| core.spare_bytes()).sum()
    }

    fn expel(&self, from_bytes: u64) {
        for (_, core) in self.cores() {
            if core.checkpoint_bytes() >= from_bytes {
                core.shrink_log();
            }
        }
    }

    fn drop_cursors(&self, from_bytes: u64) -> usize {
        let kept = self.cores();
        let kept = kept.map(|(_, core)| (core.bytes_kept_for_streams(), core));
        let mut slow: Vec<_> = kept.filter(|(bytes, _)| *bytes >= from_bytes).collect();
        slow.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
        let needed = slow.into_iter().take_while(|_| self.is_short());
        needed.map(|(_, core)| core.drop_stream_cursors()).sum()
    }

    fn vbuckets(&self) -> u16 {
        CompactionTable::vbuckets(self)
    }

    fn is_urgent(&self) -> bool {
        self.memory.is_urgent()
    }

    fn evict(&self) -> Paged {
        match self.eviction {
            Eviction::None => return Paged::Enough,
            Eviction::Documents | Eviction::Values => {}
        }
        let evict = |number, of, walk: &mut EvictionWalk| self.evict_from(number, of, walk);
        let mut pager = self.pager.lock();
        let came_to = pager.step(self.count(), || self.shortage(), evict);
        let is_nothing = came_to == Paged::Nothing;
        let waits_for_seals = is_nothing && pager.waits_for_seals();
        drop(pager);
        self.waits_for_seals
            .store(waits_for_seals, Ordering::Relaxed);
        if is_nothing {
            // There is no room for what was refused; who comes again says so again.
            self.memory.forget_refused();
        }
        came_to
    }

    fn waits_for_seals(&self) -> bool {
        self.waits_for_seals.load(Ordering::Relaxed)
    }

    fn count_stored(&self, store: &LogStore) -> bool {
        let lacking = self.cores().filter(|(_, core)| core.lacks_documents());
        // All of them, whatever the first comes to.
        let inexact = lacking.filter(|(id, core)| !count_stored(store, *id, core));
        inexact.count() == 0
    }
}

impl Sweepable for Table {
    fn places(&self) -> u16 {
        self.count()
    }

    fn sweep(&self, vbucket: u16, walk: &mut ExpiryWalk) -> Option<Swept> {
        let core = self.slots.get(usize::from(vbucket))?.core().ok()?;
        Some(core.sweep_expired(walk))
    }
}

/// Has the store count the documents of a vbucket; whether they are all there are. What cannot be read now stays as it is.
fn count_stored(store: &LogStore, vbucket: VbucketId, core: &VbucketCore) -> bool {
    let persisted = core.persisted_seqno();
    let Ok(counts) = store.counts(vbucket) else {
        return true;
    };
    let manifest = core.collections_manifest();
    let open = counts.collections.iter();
    let open = open.filter(|(id, _)| manifest.collections.contains_key(id));
    let documents = open.map(|(_, counts)| u64::try_from(counts.documents).unwrap_or(0));
    core.note_stored_documents(documents.sum());
    core.high_seqno() <= persisted
}

/// What is to be freed in one go must be this part of the quota to be worth it.
const WORTH_DIVISOR: u64 = 64;

impl VbucketTable for Table {
    fn make(
        &self,
        vbucket: VbucketId,
        state: VbucketStateRecord,
        position: VbucketPosition,
    ) -> Arc<dyn Warmable> {
        let make = || Arc::new(self.make_core(vbucket, state.clone(), position));
        let slot = self.slots.get(vbucket.index());
        let core = slot.and_then(|slot| slot.core_or_make(make).cloned());
        // A number beyond the table, or a slot that is known to be down, gets a core that serves nobody.
        core.unwrap_or_else(|| Arc::new(self.make_core(vbucket, state, position)))
    }

    fn identity(&self, vbucket: VbucketId) -> Option<Arc<VbucketIdentity>> {
        let core = self.slots.get(vbucket.index())?.core().ok()?;
        Some(core.identity())
    }

    fn note_down(&self, vbucket: VbucketId, cause: DownCause) {
        if let Some(slot) = self.slots.get(vbucket.index()) {
            slot.note_down(cause.clone());
            // It is served from memory already, but its branch cannot be written.
            if let Ok(core) = slot.core() {
                core.take_down(cause);
            }
        }
    }
}

impl CompactionTable for Table {
    fn vbuckets(&self) -> u16 {
        self.count()
    }

    fn vbucket(&self, vbucket: VbucketId) -> Result<Arc<dyn Compactable>, CompactError> {
        if self.is_over.load(Ordering::Acquire) {
            return Err(CompactError::Closed);
        }
        let slot = self.slots.get(vbucket.index());
        let slot = slot.ok_or(CompactError::UnknownVbucket(vbucket))?;
        let Ok(core) = slot.core() else {
            let down = slot.down().cloned();
            return Err(match down {
                Some(cause) => CompactError::VbucketDown { vbucket, cause },
                None => CompactError::TemporaryFailure(Busy::WarmingUp),
            });
        };
        if let Some(cause) = core.down() {
            return Err(CompactError::VbucketDown { vbucket, cause });
        }
        match core.state() {
            VbucketState::Dead => Err(CompactError::VbucketDead(vbucket)),
            VbucketState::Active | VbucketState::Replica | VbucketState::Pending => {
                Ok(Arc::clone(core) as _)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;
    use storage::{Incarnation, RollbackEpoch, Seqno, VbucketUuid};

    #[test]
    fn a_vbucket_that_is_noted_down_serves_no_more() {
        World::run(1, |world| async move {
            let memory = Arc::new(MemoryPool::new(1 << 20));
            let durable = Durable::new(&world.config(), 2, 1);
            let table = Table::new(2, 1, memory, world.environment(), durable);
            let position = VbucketPosition {
                incarnation: Incarnation(1),
                epoch: RollbackEpoch(0),
                high_seqno: Seqno::ZERO,
            };
            let state = VbucketStateRecord::new(VbucketUuid(7));
            let second = VbucketId::new(1).unwrap();
            let made = table.make(VbucketId::FIRST, state.clone(), position);
            drop(made);
            let identity = table.identity(VbucketId::FIRST);
            assert_eq!(identity, Some(state.identity));
            let cause = DownCause::Escalated("planted".to_owned());
            for id in [VbucketId::FIRST, second] {
                table.note_down(id, cause.clone());
            }
            assert_eq!(table.core(VbucketId::FIRST).unwrap().down(), Some(cause));
            assert!(table.core(second).is_err());
            assert_eq!(table.identity(second), None);
        })
        .unwrap();
    }
}
