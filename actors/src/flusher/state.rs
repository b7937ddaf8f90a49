//! The flusher's state machine: which vbucket's changes go to which writer, and what follows from each answer.
//!
//! Its life is that of [`Stage`]; each vbucket has a lane of its own with the life of `Phase`: *unplaced*, until the
//! writer said, behind everything sent before, where the vbucket stands in the store; *ready*; *under way*; after
//! a failure *kept* until its retry time; *down*. Invariants: at most one batch of a vbucket is under way; cursors
//! are the vbucket's own (rule R19), so nothing is lost with this state; a refusal by seqno or epoch leads to the
//! store's position, never to a blind retry. Pure: time comes in, effects go out, nothing else is touched but the
//! vbuckets' shared state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::flusher::answers::Ticket;
use crate::flusher::batch::{FlushLimits, Turns, batch_of};
use crate::flusher::flushable::Flushable;
use crate::flusher::lane::{Lane, Phase, Sent};
use crate::flusher::requests::{FlushWaiter, Told, WaiterId, Waiters, Want};
use crate::flusher::stage::Stage;
use messages::flusher::{FlushReport, Unpersisted};
use messages::{DownCause, Generation, OperationError};
use storage::{Batch, StorageError, VbucketId};

mod settle;

/// A vbucket handed to a flusher.
#[derive(Clone, Debug)]
pub struct FlushedVbucket {
    /// Which.
    pub id: VbucketId,
    /// Its core.
    pub vbucket: Arc<dyn Flushable>,
    /// The log it is written to.
    pub log_shard: u16,
}

/// What the flusher wants done.
#[derive(Debug)]
pub enum Effect {
    /// Hand a batch to a writer; when there is no room, call [`FlusherState::unsent`].
    Commit {
        /// Which writer.
        log_shard: u16,
        /// To be carried by the answer.
        ticket: Ticket,
        /// What to write.
        batch: Batch,
        /// Whose.
        vbucket: Arc<dyn Flushable>,
    },
    /// Ask a writer where vbuckets stand; when there is no room, call [`FlusherState::unasked`].
    Ask {
        /// Which writer.
        log_shard: u16,
        /// To be carried by the answer.
        ticket: Ticket,
        /// Which vbuckets.
        vbuckets: Vec<VbucketId>,
    },
    /// Tell of a failure that is one vbucket's own.
    Report {
        /// Which vbucket.
        vbucket: VbucketId,
        /// Why.
        cause: StorageError,
        /// Whether it is out of service now; else it is tried again at once.
        is_down: bool,
    },
    /// Tell somebody who waits.
    Tell(WaiterId, Told),
}

/// What is left to do after a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// There is more to do at once.
    pub is_more: bool,
    /// There will be something to do at that time (monotonic), if nothing comes before.
    pub at: Option<Duration>,
}

/// The state of one life of a flusher.
#[derive(Debug)]
pub struct FlusherState {
    stage: Stage,
    generation: Generation,
    limits: FlushLimits,
    lanes: BTreeMap<VbucketId, Lane>,
    turns: Turns,
    retries: BTreeSet<(Duration, VbucketId)>,
    /// Log shards that were asked for positions.
    asked: BTreeMap<u16, Ticket>,
    /// Log shards not to be asked before that time.
    ask_later: BTreeMap<u16, Duration>,
    under_way: usize,
    number: u64,
    waiters: Waiters,
    effects: Vec<Effect>,
}

impl FlusherState {
    /// A flusher of these vbuckets that knows nothing of them yet.
    #[must_use]
    pub fn new(
        generation: Generation,
        limits: FlushLimits,
        vbuckets: Vec<FlushedVbucket>,
    ) -> FlusherState {
        let lanes = vbuckets.into_iter();
        FlusherState {
            stage: Stage::Initializing,
            generation,
            limits,
            lanes: lanes
                .map(|one| (one.id, Lane::new(one.vbucket, one.log_shard)))
                .collect(),
            turns: Turns::default(),
            retries: BTreeSet::new(),
            asked: BTreeMap::new(),
            ask_later: BTreeMap::new(),
            under_way: 0,
            number: 0,
            waiters: Waiters::default(),
            effects: Vec::new(),
        }
    }

    /// The stage of its life.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// How many batches the writers have.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// What is to be done, in order.
    #[must_use]
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn transition(&mut self, to: Stage) -> bool {
        let can = self.stage.can_transition(to);
        if can {
            tracing::debug!(from = ?self.stage, ?to, "flusher");
            self.stage = to;
        }
        can
    }

    fn ticket(&mut self) -> Ticket {
        self.number = self.number.saturating_add(1);
        Ticket {
            generation: self.generation,
            number: self.number,
        }
    }

    // ---- what happens

    /// A vbucket may have something to write.
    pub fn note_dirty(&mut self, vbucket: VbucketId) {
        if self.lanes.contains_key(&vbucket) {
            self.turns.push(vbucket);
        }
    }

    // ---- what is asked

    /// Answers once nothing is under way.
    pub fn pause(&mut self, waiter: WaiterId) {
        match self.stage {
            Stage::Paused => self.tell(waiter, Told::Done(Ok(()))),
            Stage::Stopping | Stage::Stopped => self.tell_closed(waiter),
            Stage::Initializing | Stage::Running | Stage::Pausing => {
                self.transition(Stage::Pausing);
                self.waiters.pause.push(waiter);
            }
        }
    }

    /// Goes on.
    pub fn resume(&mut self, waiter: WaiterId) {
        match self.stage {
            Stage::Stopping | Stage::Stopped => return self.tell_closed(waiter),
            Stage::Pausing | Stage::Paused => {
                self.transition(Stage::Running);
            }
            Stage::Initializing | Stage::Running => {}
        }
        // Those who still waited for the pause: it is over.
        for paused in std::mem::take(&mut self.waiters.pause) {
            let busy = OperationError::TemporaryFailure(messages::Busy::Queue);
            self.tell(paused, Told::Done(Err(busy)));
        }
        self.tell(waiter, Told::Done(Ok(())));
    }

    /// Answers once everything the vbucket (or each) has now is on disk.
    pub fn flush_now(&mut self, waiter: WaiterId, only: Option<VbucketId>) {
        if self.stage == Stage::Stopped {
            return self.tell_closed(waiter);
        }
        let ids: Vec<VbucketId> = match only {
            Some(id) => vec![id],
            None => self.lanes.keys().copied().collect(),
        };
        let mut wants = BTreeMap::new();
        for id in ids {
            let Some(lane) = self.lanes.get(&id) else {
                let unknown = OperationError::UnknownVbucket(id);
                return self.tell(waiter, Told::Done(Err(unknown)));
            };
            if let Some(cause) = lane.down() {
                let down = vbucket_down(id, &cause);
                return self.tell(waiter, Told::Done(Err(down)));
            }
            if !lane.is_quiet() {
                let (taken, high) = (lane.taken, lane.vbucket.high_seqno());
                wants.insert(id, Want { taken, high });
                self.turns.push(id);
            }
        }
        if wants.is_empty() {
            return self.tell(waiter, Told::Done(Ok(())));
        }
        self.waiters.flush.push(FlushWaiter { id: waiter, wants });
    }

    /// Writes everything there is, at most until that time (monotonic), then does nothing any more.
    pub fn stop(&mut self, waiter: WaiterId, until: Duration) {
        if self.stage == Stage::Stopped {
            let report = self.report();
            return self.tell(waiter, Told::Stopped(report));
        }
        self.transition(Stage::Stopping);
        let until = match self.waiters.stop_until {
            Some(earlier) => earlier.min(until),
            None => until,
        };
        self.waiters.stop_until = Some(until);
        self.waiters.stop.push(waiter);
        for waiter in std::mem::take(&mut self.waiters.pause) {
            self.tell_closed(waiter);
        }
    }

    // ---- what is done

    /// Does a bounded piece of what there is to do.
    #[must_use]
    pub fn slice(&mut self, now: Duration) -> Left {
        if self.stage == Stage::Stopped {
            return Left {
                is_more: false,
                at: None,
            };
        }
        self.ask(now);
        if self.stage.is_sending() {
            self.send_due(now);
            self.send_dirty();
        }
        self.refuse_down();
        self.advance_stage(now);
        self.left()
    }

    fn left(&self) -> Left {
        if self.stage == Stage::Stopped {
            return Left {
                is_more: false,
                at: None,
            };
        }
        let is_sending = self.stage.is_sending();
        let retry = self.retries.first().map(|(at, _)| *at);
        let wakes = [
            retry.filter(|_| is_sending),
            self.ask_later.values().min().copied(),
            self.waiters.stop_until,
        ];
        Left {
            is_more: is_sending && !self.turns.is_empty(),
            at: wakes.into_iter().flatten().min(),
        }
    }

    /// Asks for the positions that are not known, each log shard once at a time.
    fn ask(&mut self, now: Duration) {
        self.ask_later.retain(|_, at| *at > now);
        let mut wanted: BTreeMap<u16, Vec<VbucketId>> = BTreeMap::new();
        for (id, lane) in &self.lanes {
            let shard = lane.log_shard;
            let may = !self.asked.contains_key(&shard) && !self.ask_later.contains_key(&shard);
            if may && matches!(lane.phase, Phase::Unplaced) {
                wanted.entry(shard).or_default().push(*id);
            }
        }
        for (log_shard, vbuckets) in wanted {
            let ticket = self.ticket();
            for id in &vbuckets {
                if let Some(lane) = self.lanes.get_mut(id) {
                    lane.phase = Phase::Asked(ticket);
                }
            }
            self.asked.insert(log_shard, ticket);
            self.effects.push(Effect::Ask {
                log_shard,
                ticket,
                vbuckets,
            });
        }
    }

    /// Sends kept batches whose time has come.
    fn send_due(&mut self, now: Duration) {
        while let Some((at, id)) = self.retries.first().copied()
            && at <= now
        {
            self.retries.pop_first();
            let Some(lane) = self.lanes.get_mut(&id) else {
                continue;
            };
            match std::mem::replace(&mut lane.phase, Phase::Ready) {
                Phase::Kept(batch, sent, kept_until) if kept_until == at => {
                    self.send(id, *batch, sent);
                }
                changed @ (Phase::Unplaced
                | Phase::Asked(_)
                | Phase::Ready
                | Phase::UnderWay(..)
                | Phase::Kept(..)
                | Phase::Down(_)) => lane.phase = changed,
            }
        }
    }

    /// Takes from the vbuckets whose turn it is.
    fn send_dirty(&mut self) {
        for _ in 0..self.limits.batches_per_slice.max(1) {
            let Some(id) = self.turns.pop() else { return };
            self.take(id);
        }
    }

    fn take(&mut self, id: VbucketId) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        let (Phase::Ready, Some(place)) = (&lane.phase, lane.place) else {
            // It comes back to the turns with its answer.
            return;
        };
        let FlushLimits {
            items_max,
            bytes_max,
            ..
        } = self.limits;
        match lane.vbucket.take_for_flush(items_max, bytes_max) {
            Some(take) => {
                lane.taken = lane.taken.saturating_add(1);
                let sent = Sent {
                    taken: lane.taken,
                    has_more: take.has_more,
                };
                self.send(id, batch_of(id, place, take), sent);
            }
            None => self.note_flushed(id, None),
        }
    }

    fn send(&mut self, id: VbucketId, batch: Batch, sent: Sent) {
        let ticket = self.ticket();
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        lane.phase = Phase::UnderWay(ticket, sent);
        self.under_way = self.under_way.saturating_add(1);
        self.effects.push(Effect::Commit {
            log_shard: lane.log_shard,
            ticket,
            batch,
            vbucket: Arc::clone(&lane.vbucket),
        });
    }

    fn advance_stage(&mut self, now: Duration) {
        match self.stage {
            Stage::Initializing => {
                let is_unknown =
                    |lane: &Lane| matches!(lane.phase, Phase::Unplaced | Phase::Asked(_));
                if !self.lanes.values().any(is_unknown) {
                    self.transition(Stage::Running);
                }
            }
            Stage::Pausing if self.under_way == 0 => {
                self.transition(Stage::Paused);
                for waiter in std::mem::take(&mut self.waiters.pause) {
                    self.tell(waiter, Told::Done(Ok(())));
                }
            }
            Stage::Stopping => {
                let is_done = |lane: &Lane| lane.is_quiet() || lane.down().is_some();
                let is_late = self.waiters.stop_until.is_some_and(|until| until <= now);
                if is_late || self.lanes.values().all(is_done) {
                    self.end();
                }
            }
            Stage::Running | Stage::Pausing | Stage::Paused | Stage::Stopped => {}
        }
    }

    fn end(&mut self) {
        self.transition(Stage::Stopped);
        let report = self.report();
        for waiter in std::mem::take(&mut self.waiters.stop) {
            self.tell(waiter, Told::Stopped(report.clone()));
        }
        for waiter in std::mem::take(&mut self.waiters.flush) {
            self.tell_closed(waiter.id);
        }
    }

    /// What is in memory only.
    fn report(&self) -> FlushReport {
        let unpersisted = self.lanes.iter().filter_map(|(id, lane)| {
            let (persisted, high) = (lane.vbucket.persisted_seqno(), lane.vbucket.high_seqno());
            let is_behind = persisted < high || !(lane.is_quiet() || lane.down().is_some());
            is_behind.then_some(Unpersisted {
                vbucket: *id,
                persisted,
                high,
            })
        });
        FlushReport {
            unpersisted: unpersisted.collect(),
        }
    }

    fn tell(&mut self, waiter: WaiterId, told: Told) {
        self.effects.push(Effect::Tell(waiter, told));
    }

    fn tell_closed(&mut self, waiter: WaiterId) {
        self.tell(waiter, Told::Done(Err(OperationError::Closed)));
    }
}

fn vbucket_down(vbucket: VbucketId, cause: &DownCause) -> OperationError {
    OperationError::VbucketDown {
        vbucket,
        cause: cause.clone(),
    }
}
