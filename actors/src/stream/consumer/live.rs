//! A replica vbucket's stream at work: its state machine, its inbox, and what is done to the vbucket.
//!
//! Invariant: whatever goes wrong on the way, the stream is given up whole and asked for again from where the vbucket
//! itself says it stands, so that nothing is kept here that a crash could lose; and what is given back to the source was
//! applied before. Everything goes with it when it is dropped: inbox, right to write, the source being told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::credit::Credit;
use super::follows::{Following, Opening};
use super::inbox::Inbox;
use super::state::{Answered, Apply, Moment, PassiveState, Want};
use crate::environment::Environment;
use crate::executor::WakeWorker;
use crate::rollback::{RollbackTicket, Rollbacks};
use crate::stream::{Acknowledged, OpenStreamInto};
use crate::vbucket::{DirtyVbuckets, StreamEpoch, VbucketCore, VbucketSlot};
use messages::OperationError;
use messages::replication::{ReplicaEnd, ReplicaError, ReplicaState, ReplicaStatus};
use messages::stream::{StreamEvent, StreamOpened, StreamRequestError};
use storage::{Seqno, SnapshotRange, VbucketId};

/// Events applied before others have their turn.
const EVENTS_PER_LOOK: usize = 512;
/// When memory that was used up is looked at again.
const HELD_FOR: Duration = Duration::from_millis(100);

/// What the streams of a thread work with.
#[derive(Clone, Debug)]
pub(super) struct Links {
    pub(super) edge: Arc<DirtyVbuckets>,
    pub(super) rollbacks: Rollbacks,
    pub(super) environment: Environment,
    /// Requests so far, of whichever vbucket and replication: an answer finds the one that asked, or nobody.
    pub(super) attempts: Arc<AtomicU64>,
}

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// There is nothing to do until something changes.
    Waits,
    /// There is more to do at once.
    More,
    /// There is something to do at that time (monotonic).
    At(Duration),
    /// It is over.
    Over,
}

/// A request that is to be sent, its answer given to [`Consumer::answered`](super::Consumer::answered).
pub struct Asked {
    /// Whose.
    pub vbucket: VbucketId,
    /// Which of its requests.
    pub attempt: u64,
    /// The answer.
    pub opening: Opening,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked")
            .field("vbucket", &self.vbucket)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// A batch that is being applied.
#[derive(Debug)]
struct Current {
    events: VecDeque<StreamEvent>,
    bytes: u64,
}

/// One stream of one replica vbucket after the other.
#[derive(Debug)]
pub(super) struct Live {
    following: Arc<Following>,
    slot: Arc<VbucketSlot>,
    links: Links,
    state: PassiveState,
    epoch: Option<StreamEpoch>,
    inbox: Option<Inbox>,
    current: Option<Current>,
    acknowledged: Acknowledged,
    credit: Credit,
    rollback: Option<RollbackTicket>,
    attempt: u64,
    streams: u64,
    is_held: bool,
}

impl Live {
    pub(super) fn new(following: Arc<Following>, slot: Arc<VbucketSlot>, links: Links) -> Live {
        let (consumer, node) = (&following.consumer, &following.node);
        let (consumer, node) = (Arc::clone(consumer), Arc::clone(node));
        let before = following.status();
        Live {
            state: PassiveState::new(following.vbucket, consumer, node, following.window),
            streams: before.streams,
            following,
            slot,
            links,
            epoch: None,
            inbox: None,
            current: None,
            acknowledged: Acknowledged::default(),
            credit: Credit::default(),
            rollback: None,
            attempt: u64::MAX,
            is_held: false,
        }
    }

    pub(super) fn is_of(&self, following: &Arc<Following>) -> bool {
        Arc::ptr_eq(&self.following, following)
    }

    /// Does a bounded piece of what there is to do.
    pub(super) fn look(&mut self, asked: &mut Vec<Asked>) -> Looked {
        let looked = match self.state.want() {
            Want::Ask(at) if at > self.now() => Looked::At(at),
            Want::Ask(_) => self.ask(asked),
            Want::Answer => Looked::Waits,
            Want::Events => self.follow(),
            Want::Rollback(to) => self.roll_back(to),
            Want::Nothing(_) => Looked::Over,
        };
        if looked == Looked::Over {
            self.let_go();
        }
        self.following.publish(self.status());
        looked
    }

    /// The source answered.
    pub(super) fn answered(
        &mut self,
        attempt: u64,
        answer: Result<StreamOpened, StreamRequestError>,
    ) {
        if attempt != self.attempt || self.state.want() != Want::Answer {
            return;
        }
        let moment = self.moment();
        match self.state.answered(answer, moment) {
            Answered::Noted => self.note_broken(),
            Answered::Adopt(table) => {
                let adopted = self
                    .writable()
                    .and_then(|(core, epoch)| core.apply_failover_table(epoch, table));
                match adopted {
                    Ok(()) => {
                        self.streams = self.streams.saturating_add(1);
                        self.state.adopted();
                    }
                    Err(error) => self.give_up(error.into()),
                }
            }
        }
    }

    fn ask(&mut self, asked: &mut Vec<Asked>) -> Looked {
        self.let_go();
        let core = self.slot.core();
        let resume = match core.and_then(|core| core.resume_stream()) {
            Ok(resume) => resume,
            Err(error) => return self.broke(error.into()),
        };
        self.epoch = Some(resume.epoch);
        let request = self.state.ask(resume);
        self.attempt = self.links.attempts.fetch_add(1, Ordering::Relaxed);
        let vbucket = self.following.vbucket;
        let (inbox, sink) = Inbox::new(vbucket, Arc::clone(&self.links.edge));
        self.inbox = Some(inbox);
        self.acknowledged = Acknowledged::default();
        let opening = self.following.source.open(OpenStreamInto {
            request,
            sink: Box::new(sink),
            acknowledged: self.acknowledged.clone(),
        });
        asked.push(Asked {
            vbucket,
            attempt: self.attempt,
            opening,
        });
        Looked::Waits
    }

    /// Applies what came.
    fn follow(&mut self) -> Looked {
        let mut looked = Looked::More;
        for _ in 0..EVENTS_PER_LOOK {
            let Some(event) = self.next_event() else {
                looked = Looked::Waits;
                break;
            };
            if let Err(why) = self.apply(event) {
                return self.broke(why);
            }
            if self.state.want() != Want::Events {
                return self.after_end();
            }
        }
        self.acknowledge();
        if let Err(why) = self.acknowledge_prepared() {
            return self.broke(why.into());
        }
        if self.is_held && looked == Looked::Waits {
            return Looked::At(self.now().saturating_add(HELD_FOR));
        }
        looked
    }

    fn next_event(&mut self) -> Option<StreamEvent> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some(event) = current.events.pop_front() {
                    return Some(event);
                }
                self.credit.done(current.bytes);
            }
            let batch = self.inbox.as_ref()?.take();
            self.current = batch.map(|batch| Current {
                events: batch.events.into(),
                bytes: batch.bytes,
            });
            self.current.as_ref()?;
        }
    }

    fn apply(&mut self, event: StreamEvent) -> Result<(), ReplicaError> {
        let at = event.seqno();
        match self.state.take(event)? {
            Apply::Snapshot {
                snapshot,
                begins_checkpoint,
            } => {
                let (core, epoch) = self.writable()?;
                core.apply_marker(epoch, &snapshot, begins_checkpoint)?;
                self.state.begun(SnapshotRange {
                    start: snapshot.start,
                    end: snapshot.end,
                });
            }
            Apply::Item(item) => {
                let (core, epoch) = self.writable()?;
                core.apply_item(epoch, item)?;
            }
            Apply::SnapshotEnd => {
                let (core, epoch) = self.writable()?;
                core.apply_snapshot_end(epoch)?;
            }
            Apply::Nothing => {}
            Apply::End(reason) => {
                let moment = self.moment();
                self.state.ended(reason, moment);
            }
        }
        if let Some(seqno) = at {
            self.state.applied(seqno);
        }
        Ok(())
    }

    /// The vbucket, and this stream's right to write to it.
    fn writable(&self) -> Result<(&Arc<VbucketCore>, StreamEpoch), OperationError> {
        let epoch = self.epoch.ok_or(OperationError::StaleStream)?;
        Ok((self.slot.core()?, epoch))
    }

    /// Gives the source room back for what was applied, as far as memory goes (rule R15).
    fn acknowledge(&mut self) {
        let is_full = self.slot.core().is_ok_and(|core| core.is_memory_full());
        let bytes = self.credit.release(is_full);
        self.is_held = self.credit.owed() > 0;
        if bytes > 0 {
            self.acknowledged.add(bytes);
            self.following.source.nudge(self.following.vbucket);
        }
    }

    /// Says how far it holds prepares as strongly as they ask, if that is news to this stream: on one that was just accepted
    /// it is, since the last word on the one before may be lost (MB-35361).
    fn acknowledge_prepared(&self) -> Result<(), OperationError> {
        let (core, epoch) = self.writable()?;
        if let Some(seqno) = core.prepared_to_acknowledge(epoch)? {
            self.acknowledged.prepared_up_to(seqno);
            self.following.source.nudge(self.following.vbucket);
        }
        Ok(())
    }

    fn roll_back(&mut self, to: Seqno) -> Looked {
        let Some(ticket) = &self.rollback else {
            let (edge, vbucket) = (Arc::clone(&self.links.edge), self.following.vbucket);
            let wake = WakeWorker::new(move || edge.mark(vbucket));
            let rollbacks = &self.links.rollbacks;
            let core = self.slot.core();
            return match core.and_then(|core| rollbacks.ask(core, to, wake)) {
                Ok(ticket) => {
                    self.rollback = Some(ticket);
                    Looked::Waits
                }
                Err(error) => self.broke(error.into()),
            };
        };
        let Some(end) = ticket.end() else {
            return Looked::Waits;
        };
        self.rollback = None;
        let moment = self.moment();
        self.state.rolled_back(end, moment);
        Looked::More
    }

    /// The stream is given up.
    fn give_up(&mut self, why: ReplicaError) {
        let moment = self.moment();
        tracing::warn!(vbucket = %self.following.vbucket, %why, "a replica's stream broke");
        self.state.broke(why, moment);
        self.note_broken();
    }

    fn broke(&mut self, why: ReplicaError) -> Looked {
        self.give_up(why);
        self.after_end()
    }

    fn after_end(&mut self) -> Looked {
        self.note_broken();
        match self.state.want() {
            Want::Ask(at) => Looked::At(at),
            Want::Nothing(_) => Looked::Over,
            Want::Answer | Want::Events | Want::Rollback(_) => Looked::More,
        }
    }

    /// No stream is under way: what was held for it goes, and a source that is gone is asked no more.
    fn note_broken(&mut self) {
        self.let_go();
        let waits = matches!(self.state.want(), Want::Ask(_));
        if waits && self.following.source.is_over() {
            self.state.stop(ReplicaEnd::SourceClosed);
        }
    }

    fn let_go(&mut self) {
        self.current = None;
        self.credit = Credit::default();
        self.is_held = false;
        if self.inbox.take().is_some() {
            self.following.source.nudge(self.following.vbucket);
        }
        if let (Some(epoch), Ok(core)) = (self.epoch.take(), self.slot.core()) {
            core.end_stream(epoch);
        }
    }

    fn status(&self) -> ReplicaStatus {
        let waiting = self.inbox.as_ref().map_or(0, Inbox::bytes);
        let in_hand = self.current.as_ref().map_or(0, |current| current.bytes);
        let bytes = waiting.saturating_add(in_hand);
        ReplicaStatus {
            vbucket: self.following.vbucket,
            state: match self.state.want() {
                Want::Ask(_) => ReplicaState::Waiting,
                Want::Answer => ReplicaState::Asking,
                Want::Events if self.is_held => ReplicaState::Held,
                Want::Events => ReplicaState::Following,
                Want::Rollback(_) => ReplicaState::RollingBack,
                Want::Nothing(end) => ReplicaState::Over(end),
            },
            received: self.state.received(),
            received_whole: self.state.received_whole(),
            unacknowledged_bytes: bytes.saturating_add(self.credit.owed()),
            streams: self.streams,
            rollbacks: self.state.rollbacks(),
            last_error: self.state.last_error().cloned(),
        }
    }

    fn now(&self) -> Duration {
        self.links.environment.clock.monotonic()
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.now(),
            random: self.links.environment.random.next_u64(),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.let_go();
        if let Some(ticket) = self.rollback.take() {
            self.links.rollbacks.cancel(&ticket);
        }
    }
}
