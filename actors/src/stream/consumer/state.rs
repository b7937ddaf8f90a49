//! The state machine of a replica vbucket's stream: when it asks, what it takes, what follows from how a stream ends.
//!
//! ```text
//! Waiting -> Asking -> Reading --ended, broken--> Waiting
//!    ^         |  |
//!    |         |  +--refused--> Waiting
//!    +--done-- RollingBack <--must roll back          any of them --> Over(why)
//! ```
//!
//! Pure: it says what it [`Want`]s and is told what came of it; time and randomness come in as a [`Moment`]. Invariant:
//! what [`PassiveState::take`] lets through lies in the snapshot its source announced, above everything before, so that
//! nothing is applied twice and nothing is left out; a stream that says anything else is given up with the fault.

use std::sync::Arc;
use std::time::Duration;

use messages::OperationError;
use messages::replication::{ReplicaEnd, ReplicaError, RollbackEnd, StreamFault};
use messages::stream::{
    SnapshotFlags, SnapshotMarker, StreamEndReason, StreamEvent, StreamFlags, StreamOpened,
    StreamOptions, StreamRequest, StreamRequestError, SyncReplication, SystemEventAt,
};
use storage::{
    Document, FailoverEntry, FailoverTable, Item, KeyError, Seqno, SnapshotKind, SnapshotRange,
    VbucketId, VbucketUuid,
};

use crate::backoff::Backoff;
use crate::vbucket::Resume;
use crate::vbucket::checkpoint::ReplicaSnapshot;

/// How long a stream waits before it asks again: a source that restarts is back in milliseconds, one that is gone costs
/// next to nothing.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(10),
    longest: Duration::from_secs(10),
};

/// A moment at which something is to be put off.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The time, monotonic.
    pub now: Duration,
    /// Spreads those who failed together.
    pub random: u64,
}

/// What a stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// To ask its source, at that time (monotonic) or later.
    Ask(Duration),
    /// The answer.
    Answer,
    /// What its source sends.
    Events,
    /// That the vbucket is taken back to there.
    Rollback(Seqno),
    /// Nothing any more.
    Nothing(ReplicaEnd),
}

/// What is to be done with an answer.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The vbucket's items are of these branches from now on; then [`PassiveState::adopted`].
    Adopt(FailoverTable),
    /// Nothing; it is known what comes next.
    Noted,
}

/// What is to be done with an event.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Apply {
    /// A snapshot begins.
    Snapshot {
        /// It.
        snapshot: ReplicaSnapshot,
        /// Whether in a checkpoint of its own.
        begins_checkpoint: bool,
    },
    /// An item.
    Item(Arc<Item>),
    /// The snapshot is whole, though no item lies at its end.
    SnapshotEnd,
    /// Nothing; it is noted.
    Nothing,
    /// The stream is over.
    End(StreamEndReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting(Duration),
    Asking,
    Reading,
    RollingBack(Seqno),
    Over(ReplicaEnd),
}

/// The stream of one replica vbucket.
#[derive(Debug)]
pub struct PassiveState {
    vbucket: VbucketId,
    consumer: Arc<str>,
    node: Arc<str>,
    window: u64,
    phase: Phase,
    /// What the vbucket had when it last asked.
    resume: Option<Resume>,
    /// Which of its branches it asks with: others than the newest where that has no item of its own.
    branch: usize,
    /// Everything up to here was let through.
    position: Seqno,
    /// The last snapshot that came whole ended here.
    whole: Seqno,
    /// The snapshot under way.
    snapshot: Option<SnapshotRange>,
    /// End of the last marker of this stream.
    last_end: Option<Seqno>,
    /// Streams in a row that gave nothing.
    failures: u32,
    rollbacks: u64,
    last_error: Option<ReplicaError>,
}

impl PassiveState {
    /// One that asks at once, as that consumer of that node, with so many bytes under way at most.
    #[must_use]
    pub fn new(
        vbucket: VbucketId,
        consumer: Arc<str>,
        node: Arc<str>,
        window: u64,
    ) -> PassiveState {
        PassiveState {
            vbucket,
            consumer,
            node,
            window,
            phase: Phase::Waiting(Duration::ZERO),
            resume: None,
            branch: 0,
            position: Seqno::ZERO,
            whole: Seqno::ZERO,
            snapshot: None,
            last_end: None,
            failures: 0,
            rollbacks: 0,
            last_error: None,
        }
    }

    /// What it waits for.
    #[must_use]
    pub fn want(&self) -> Want {
        match self.phase {
            Phase::Waiting(at) => Want::Ask(at),
            Phase::Asking => Want::Answer,
            Phase::Reading => Want::Events,
            Phase::RollingBack(to) => Want::Rollback(to),
            Phase::Over(end) => Want::Nothing(end),
        }
    }

    /// Everything of the source up to here was let through.
    #[must_use]
    pub fn received(&self) -> Seqno {
        self.position
    }

    /// End of the last snapshot that came whole.
    #[must_use]
    pub fn received_whole(&self) -> Seqno {
        self.whole
    }

    /// How often the vbucket was rolled back.
    #[must_use]
    pub fn rollbacks(&self) -> u64 {
        self.rollbacks
    }

    /// What broke last, if no stream gave anything since.
    #[must_use]
    pub fn last_error(&self) -> Option<&ReplicaError> {
        self.last_error.as_ref()
    }

    /// The vbucket stands so: what its source is asked.
    pub fn ask(&mut self, resume: Resume) -> StreamRequest {
        let SnapshotRange { start, end } = resume.snapshot;
        self.phase = Phase::Asking;
        self.position = resume.high;
        self.whole = if end == resume.high { end } else { start };
        self.snapshot = None;
        self.last_end = None;
        let has_nothing = resume.high == Seqno::ZERO;
        let branch = resume.branches.get(self.branch).copied();
        let uuid = branch.map_or(VbucketUuid(0), |entry| entry.uuid);
        let request = StreamRequest {
            start: resume.high,
            snapshot: resume.snapshot,
            flags: StreamFlags::ACTIVE_VB_ONLY,
            vbucket_uuid: if has_nothing { VbucketUuid(0) } else { uuid },
            options: StreamOptions {
                purge_seqno: resume.purge_seqno,
                buffer_bytes: Some(self.window),
                sync_replication: Some(SyncReplication {
                    node: Arc::clone(&self.node),
                    is_in_disk_snapshot: resume.is_in_disk_snapshot,
                }),
                history: false,
            },
            ..StreamRequest::new(self.vbucket, &self.consumer)
        };
        self.resume = Some(resume);
        request
    }

    /// The source's answer.
    pub fn answered(
        &mut self,
        answer: Result<StreamOpened, StreamRequestError>,
        moment: Moment,
    ) -> Answered {
        if self.phase != Phase::Asking {
            return Answered::Noted;
        }
        match answer {
            Ok(opened) => match FailoverTable::try_from(opened.failover_log) {
                Ok(table) => return Answered::Adopt(table),
                Err(_) => self.broke(StreamFault::BadFailoverLog.into(), moment),
            },
            Err(StreamRequestError::Rollback { seqno }) => self.roll_back(seqno, moment),
            Err(refused) => self.broke(ReplicaError::Refused(refused), moment),
        }
        Answered::Noted
    }

    /// The failover table was taken over: what the source sends is read from now on.
    pub fn adopted(&mut self) {
        if self.phase == Phase::Asking {
            self.phase = Phase::Reading;
            self.branch = 0;
        }
    }

    /// A branch that began where the vbucket stands has no item here: what the source does not know of it may be of the
    /// branch before (MB-50620, only then).
    fn roll_back(&mut self, to: Seqno, moment: Moment) {
        let Some(resume) = &self.resume else { return };
        let high = resume.high;
        let entries: &[FailoverEntry] = &resume.branches;
        let is_empty_branch = |entry: &FailoverEntry| entry.seqno >= high;
        let has_older = self.branch.saturating_add(1) < entries.len();
        if to == Seqno::ZERO && has_older && entries.get(self.branch).is_some_and(is_empty_branch) {
            self.branch = self.branch.saturating_add(1);
            self.phase = Phase::Waiting(Duration::ZERO);
        } else if to >= high {
            self.broke(StreamFault::RollbackAhead { to, high }.into(), moment);
        } else {
            self.branch = 0;
            self.phase = Phase::RollingBack(to);
        }
    }

    /// How the rollback ended.
    pub fn rolled_back(&mut self, end: RollbackEnd, moment: Moment) {
        if !matches!(self.phase, Phase::RollingBack(_)) {
            return;
        }
        match end {
            RollbackEnd::Complete(_) => {
                self.rollbacks = self.rollbacks.saturating_add(1);
                self.phase = Phase::Waiting(Duration::ZERO);
            }
            RollbackEnd::Aborted => self.phase = Phase::Over(ReplicaEnd::TargetClosed),
            RollbackEnd::Failed(cause) => self.broke(ReplicaError::Rollback(cause), moment),
        }
    }

    /// What is to be done with this event. A fault gives the stream up: [`PassiveState::broke`].
    pub fn take(&mut self, event: StreamEvent) -> Result<Apply, StreamFault> {
        match event {
            StreamEvent::SnapshotMarker(marker) => self.marker(&marker),
            StreamEvent::Mutation(item)
            | StreamEvent::Deletion(item)
            | StreamEvent::Expiration(item)
            | StreamEvent::Prepare(item)
            | StreamEvent::Commit(item)
            | StreamEvent::Abort(item) => {
                self.check(item.seqno)?;
                Ok(Apply::Item(item))
            }
            StreamEvent::SystemEvent(event) => {
                self.check(event.seqno)?;
                let item = item_of(&event);
                let bad = StreamFault::BadEvent { seqno: event.seqno };
                Ok(Apply::Item(Arc::new(item.map_err(|_| bad)?)))
            }
            StreamEvent::SeqnoAdvanced(seqno) => {
                let snapshot = self.check(seqno)?;
                Ok(if seqno == snapshot.end {
                    Apply::SnapshotEnd
                } else {
                    Apply::Nothing
                })
            }
            StreamEvent::StreamEnd(reason) => Ok(Apply::End(reason)),
        }
    }

    /// What was let through was applied, or noted; up to `seqno`.
    pub fn applied(&mut self, seqno: Seqno) {
        self.position = self.position.max(seqno);
        self.note_progress();
        if self.snapshot.is_some_and(|snapshot| snapshot.end == seqno) {
            self.snapshot = None;
            self.whole = seqno;
        }
    }

    /// A snapshot that was let through was begun.
    pub fn begun(&mut self, snapshot: SnapshotRange) {
        self.snapshot = Some(snapshot);
        self.last_end = Some(snapshot.end);
    }

    /// The source ended the stream.
    pub fn ended(&mut self, reason: StreamEndReason, moment: Moment) {
        self.broke(ReplicaError::Ended(reason), moment);
    }

    /// The stream is given up, or was not to be had: it asks again later, unless that can never help.
    pub fn broke(&mut self, why: ReplicaError, moment: Moment) {
        if let Phase::Over(_) = self.phase {
            return;
        }
        if let Some(end) = end_of(&why) {
            return self.phase = Phase::Over(end);
        }
        self.failures = self.failures.saturating_add(1);
        let wait = BACKOFF.wait(self.failures, moment.random);
        self.phase = Phase::Waiting(moment.now.saturating_add(wait));
        self.last_error = Some(why);
    }

    /// It is over for good.
    pub fn stop(&mut self, end: ReplicaEnd) {
        if !matches!(self.phase, Phase::Over(_)) {
            self.phase = Phase::Over(end);
        }
    }

    fn note_progress(&mut self) {
        self.failures = 0;
        self.last_error = None;
    }

    fn marker(&self, marker: &SnapshotMarker) -> Result<Apply, StreamFault> {
        let SnapshotMarker {
            start, end, flags, ..
        } = *marker;
        let snapshot = SnapshotRange { start, end };
        if start > end {
            return Err(StreamFault::Inverted(snapshot));
        }
        if let Some(open) = self.snapshot {
            let end = open.end;
            return Err(StreamFault::CutShort { start, end });
        }
        let overlaps = |last| StreamFault::Overlaps { snapshot, last };
        match (self.last_end, &self.resume) {
            (Some(last), _) if start <= last => return Err(overlaps(last)),
            (None, Some(resume)) if start < resume.snapshot.start => {
                return Err(overlaps(resume.snapshot.start));
            }
            (Some(_) | None, _) => {}
        }
        // What ends where we are has nothing for us.
        if end <= self.position {
            return Err(overlaps(self.position));
        }
        let is_disk = flags.has(SnapshotFlags::DISK);
        let above = |mark: Option<Seqno>| mark.is_some_and(|mark| mark > end);
        let (visible, completed) = (marker.max_visible_seqno, marker.high_completed_seqno);
        if (is_disk && (completed.is_none() || above(marker.high_prepared_seqno)))
            || above(visible)
            || above(completed)
            || above(marker.purge_seqno)
        {
            return Err(StreamFault::BadWatermarks { end });
        }
        Ok(Apply::Snapshot {
            snapshot: ReplicaSnapshot {
                start,
                end,
                kind: if is_disk {
                    SnapshotKind::Disk
                } else {
                    SnapshotKind::Memory
                },
                history: flags.has(SnapshotFlags::MAY_CONTAIN_DUPLICATES),
                visible_end: visible,
                high_completed: completed,
                high_prepared: marker.high_prepared_seqno,
                purge_seqno: marker.purge_seqno,
            },
            begins_checkpoint: flags.has(SnapshotFlags::CHECKPOINT),
        })
    }

    /// Whether something may come at this seqno; the snapshot it lies in.
    fn check(&self, seqno: Seqno) -> Result<SnapshotRange, StreamFault> {
        let Some(snapshot) = self.snapshot else {
            return Err(StreamFault::NoSnapshot { seqno });
        };
        if seqno <= self.position {
            let last = self.position;
            return Err(StreamFault::GoesBack { seqno, last });
        }
        if seqno < snapshot.start || seqno > snapshot.end {
            return Err(StreamFault::OutsideSnapshot { seqno, snapshot });
        }
        Ok(snapshot)
    }
}

/// Why asking again can never help, if it cannot.
fn end_of(why: &ReplicaError) -> Option<ReplicaEnd> {
    if let ReplicaError::Refused(StreamRequestError::Vbucket(OperationError::Closed)) = why {
        Some(ReplicaEnd::SourceClosed)
    } else if let ReplicaError::Vbucket(OperationError::Closed) = why {
        Some(ReplicaEnd::TargetClosed)
    } else if let ReplicaError::Vbucket(OperationError::NotMyVbucket { state, .. }) = why {
        Some(ReplicaEnd::NotReplica(*state))
    } else {
        None
    }
}

/// The item a system event came from.
fn item_of(at: &SystemEventAt) -> Result<Item, KeyError> {
    let document = Document::new(at.event.key()?, at.event.value(), at.cas);
    let mut item = Item::mutation(at.seqno, document);
    item.operation = at.event.operation();
    Ok(item)
}
