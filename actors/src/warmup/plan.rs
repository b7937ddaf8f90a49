//! Who does what next in a warmup, and how far it is: shared by its workers, pure.
//!
//! Invariant: every task is in exactly one place: waiting, claimed by one worker, or ended; what a worker leaves
//! undone goes back. The end is told once, and only when no vbucket waits or is claimed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::warmup::Warmable;
use crate::warmup::clean_shutdown::CleanMark;
use messages::OperationError;
use messages::failure::WarmupPhase;
use storage::{Batch, VbucketId, VbucketPosition};

/// How far a warmup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmupProgress {
    /// What it is doing; of phases that overlap, the first that is not done.
    pub phase: WarmupPhase,
    /// Vbuckets found in the store.
    pub vbuckets: usize,
    /// Of these, completely loaded.
    pub vbuckets_loaded: usize,
    /// Of these, out of service because they could not be read.
    pub vbuckets_down: usize,
    /// New state records that are not on disk yet.
    pub states_unwritten: usize,
    /// Versions read so far, tombstones too.
    pub items: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Everything was read or given up.
    pub is_done: bool,
}

/// How a warmup ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmupEnd {
    /// Whether writes are served. When not, the disk takes none; that is tried on, and writes are served once it
    /// does.
    pub is_writable: bool,
    /// Vbuckets that could not be read.
    pub down: Vec<VbucketId>,
}

/// A vbucket to be read.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) vbucket: VbucketId,
    pub(super) core: Arc<dyn Warmable>,
    pub(super) position: VbucketPosition,
    /// How often a worker panicked with it in hand.
    pub(super) panics: u32,
}

/// What a worker is to do.
#[derive(Debug)]
pub(super) enum Task {
    /// The phase of that name.
    States,
    /// Clear the mark of the clean shutdown, and commit these new state records.
    Persist(Vec<Batch>),
    Load(Load),
    /// Nothing, until woken or that time.
    Wait(Option<Duration>),
    End,
}

type Waiter = oneshot::Sender<Result<WarmupEnd, OperationError>>;

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What the mark of a clean shutdown said, before it was cleared.
    pub(super) mark: Option<CleanMark>,
    /// The first phase: to be done, claimed, done.
    states: Progress,
    /// What makes the disk ready for writes: records to commit, by whom, and not before when.
    persist: Progress,
    unwritten: Vec<Batch>,
    persist_at: Duration,
    /// The disk took no writes when it was tried.
    is_read_only: bool,
    loads: VecDeque<Load>,
    loading: usize,
    /// Loaded, but writes must wait for the records.
    held: Vec<Arc<dyn Warmable>>,
    found: usize,
    loaded: usize,
    down: Vec<VbucketId>,
    items: u64,
    bytes: u64,
    is_stopped: bool,
    ended: Option<WarmupEnd>,
    waiters: Vec<Waiter>,
    /// Who waits for the first phase only.
    states_waiters: Vec<oneshot::Sender<()>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    ToDo,
    Claimed,
    Done,
}

impl Plan {
    /// The next task for a worker.
    pub(super) fn next(&mut self, now: Duration) -> Task {
        if self.is_stopped {
            return Task::End;
        }
        match self.states {
            Progress::ToDo => {
                self.states = Progress::Claimed;
                return Task::States;
            }
            Progress::Claimed => return Task::Wait(None),
            Progress::Done => {}
        }
        let wants_persist = self.persist == Progress::ToDo;
        if wants_persist && self.persist_at <= now {
            self.persist = Progress::Claimed;
            return Task::Persist(std::mem::take(&mut self.unwritten));
        }
        if let Some(load) = self.loads.pop_front() {
            self.loading = self.loading.saturating_add(1);
            return Task::Load(load);
        }
        if self.loading == 0 && self.persist == Progress::Done {
            return Task::End;
        }
        Task::Wait(wants_persist.then(|| self.persist_at.saturating_sub(now)))
    }

    /// The states are read; nothing else begins before.
    pub(super) fn states_done(&mut self, loads: Vec<Load>, unwritten: Vec<Batch>) {
        self.states = Progress::Done;
        self.found = self.found.saturating_add(loads.len());
        self.loads = loads.into();
        self.unwritten = unwritten;
        for waiter in std::mem::take(&mut self.states_waiters) {
            // Whoever went away needs no answer.
            waiter.send(()).unwrap_or_default();
        }
        self.end_if_done();
    }

    /// The states could not be read now; they are read again from the first.
    pub(super) fn states_undone(&mut self) {
        self.states = Progress::ToDo;
        self.found = 0;
        self.down.clear();
    }

    pub(super) fn note_down(&mut self, vbucket: VbucketId) {
        if !self.down.contains(&vbucket) {
            self.down.push(vbucket);
        }
    }

    /// A vbucket is there but cannot be read.
    pub(super) fn found_down(&mut self, vbucket: VbucketId) {
        self.found = self.found.saturating_add(1);
        self.note_down(vbucket);
    }

    /// The records are on disk: writes are served.
    pub(super) fn persisted(&mut self) {
        self.persist = Progress::Done;
        self.is_read_only = false;
        if let Some(end) = &mut self.ended {
            end.is_writable = true;
        }
        for core in std::mem::take(&mut self.held) {
            core.hold_writes(false);
        }
        self.end_if_done();
    }

    /// They were not tried, and are then.
    pub(super) fn persist_undone(&mut self, unwritten: Vec<Batch>, at: Duration) {
        self.persist = Progress::ToDo;
        self.unwritten = unwritten;
        self.persist_at = at;
    }

    /// The disk took no writes; they are tried again then.
    pub(super) fn unpersisted(&mut self, unwritten: Vec<Batch>, at: Duration) {
        self.persist_undone(unwritten, at);
        self.is_read_only = true;
        self.end_if_done();
    }

    pub(super) fn note_read(&mut self, items: u64, bytes: u64) {
        self.items = self.items.saturating_add(items);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Everything of a vbucket was read.
    pub(super) fn loaded(&mut self, load: &Load) {
        self.loading = self.loading.saturating_sub(1);
        self.loaded = self.loaded.saturating_add(1);
        if self.persist != Progress::Done {
            // Before it is warm: no write may slip in between.
            load.core.hold_writes(true);
            self.held.push(Arc::clone(&load.core));
        }
        load.core.warm_done();
        self.end_if_done();
    }

    /// A vbucket could not be read.
    pub(super) fn load_failed(&mut self, vbucket: VbucketId) {
        self.loading = self.loading.saturating_sub(1);
        self.note_down(vbucket);
        self.end_if_done();
    }

    /// A vbucket must be read from its beginning again.
    pub(super) fn load_undone(&mut self, load: Load) {
        self.loading = self.loading.saturating_sub(1);
        self.loads.push_back(load);
    }

    fn end_if_done(&mut self) {
        let is_loaded = self.states == Progress::Done && self.loads.is_empty() && self.loading == 0;
        let is_settled = self.persist == Progress::Done || self.is_read_only;
        if !is_loaded || !is_settled || self.is_stopped || self.ended.is_some() {
            return;
        }
        self.down.sort_unstable();
        let end = WarmupEnd {
            is_writable: self.persist == Progress::Done,
            down: self.down.clone(),
        };
        for waiter in std::mem::take(&mut self.waiters) {
            // Whoever went away needs no answer.
            drop(waiter.send(Ok(end.clone())));
        }
        self.ended = Some(end);
    }

    pub(super) fn wait(&mut self, waiter: Waiter) {
        let answer = match &self.ended {
            Some(end) => Ok(end.clone()),
            None if self.is_stopped => Err(OperationError::Closed),
            None => {
                self.waiters.retain(|waiter| !waiter.is_closed());
                return self.waiters.push(waiter);
            }
        };
        drop(waiter.send(answer));
    }

    /// Answered when every vbucket there is has its place; dropped when the warmup is stopped.
    pub(super) fn wait_for_states(&mut self, waiter: oneshot::Sender<()>) {
        if self.states == Progress::Done {
            waiter.send(()).unwrap_or_default();
        } else if !self.is_stopped {
            self.states_waiters.push(waiter);
        }
    }

    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
        self.states_waiters.clear();
        for waiter in std::mem::take(&mut self.waiters) {
            drop(waiter.send(Err(OperationError::Closed)));
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    pub(super) fn progress(&self) -> WarmupProgress {
        let phase = match (self.states, self.persist) {
            (Progress::ToDo | Progress::Claimed, _) => WarmupPhase::State,
            (Progress::Done, Progress::Done) => WarmupPhase::Documents,
            (Progress::Done, _) if self.is_read_only => WarmupPhase::Documents,
            (Progress::Done, _) => WarmupPhase::Persist,
        };
        WarmupProgress {
            phase,
            vbuckets: self.found,
            vbuckets_loaded: self.loaded,
            vbuckets_down: self.down.len(),
            states_unwritten: self.unwritten.len(),
            items: self.items,
            bytes: self.bytes,
            is_done: self.ended.is_some(),
        }
    }
}

/// Batches by the log they are written to.
pub(super) fn by_shard(
    batches: Vec<Batch>,
    shard_of: impl Fn(VbucketId) -> u16,
) -> BTreeMap<u16, Vec<Batch>> {
    let mut shards: BTreeMap<u16, Vec<Batch>> = BTreeMap::new();
    for batch in batches {
        shards
            .entry(shard_of(batch.vbucket))
            .or_default()
            .push(batch);
    }
    shards
}
