//! All changes of a bucket as one stream, resumable by one token.
//!
//! Invariant: the changes of one vbucket come in order; every change that a token does not cover comes (again) to who
//! begins with it; whoever takes nothing holds a bounded amount of memory. A stream of one vbucket that broke through no
//! fault of its disk (a producer that crashed, a store that was opened anew) is taken up again where it was.

mod inbox;
mod reopening;
mod token;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream, StreamExt};

use actors::stream::Acknowledged;
use messages::OperationError;
use messages::stream::{
    StreamBatch, StreamEndReason, StreamEvent, StreamFilter, StreamFlags, StreamRequestError,
};
use storage::{Seqno, SnapshotRange, VbucketId};

use crate::running::{Held, Running};
use inbox::{Attempt, Inbox};
use reopening::{Answer, Opening};
pub(crate) use token::Position;
pub use token::{ChangesToken, TokenError};

/// Where the changes begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Since {
    /// With the oldest: every document there is comes once at least.
    #[default]
    Beginning,
    /// Behind what this covers.
    Token(ChangesToken),
    /// Behind what there is now.
    Now,
}

/// Where they end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// Nowhere.
    #[default]
    Forever,
    /// With what is the newest of each vbucket at the beginning.
    Now,
}

/// What is wanted of the changes of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesOptions {
    /// Where they begin.
    pub since: Since,
    /// Where they end.
    pub until: Until,
    /// Which.
    pub filter: StreamFilter,
    /// Every version that the bucket's history holds, and not only the newest of each document.
    pub history: bool,
    /// Name of the consumer; two of one name are refused. `None`: one of its own.
    pub consumer: Option<String>,
    /// Bytes that may wait here for the consumer, over all vbuckets (of each some 64 KiB at least).
    pub buffer_bytes: u64,
}

impl Default for ChangesOptions {
    fn default() -> ChangesOptions {
        ChangesOptions {
            since: Since::default(),
            until: Until::default(),
            filter: StreamFilter::default(),
            history: false,
            consumer: None,
            buffer_bytes: 16 << 20,
        }
    }
}

/// Least that may wait of one vbucket.
const BUFFER_BYTES_MIN: u64 = 64 << 10;
/// So often a stream of a vbucket is taken up again without a single change in between.
const ATTEMPTS_MAX: u32 = 16;

/// Why there are no changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangesError {
    /// The token was not taken.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// What was asked for was refused.
    #[error(transparent)]
    Request(StreamRequestError),
    /// The bucket does not serve.
    #[error(transparent)]
    Bucket(#[from] OperationError),
}

/// A change, or a word about the stream, of one vbucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of which.
    pub vbucket: VbucketId,
    /// The change. A `StreamEnd` is the last of its vbucket.
    pub event: StreamEvent,
}

/// One vbucket's stream.
#[derive(Debug)]
struct Follower {
    attempt: Attempt,
    is_opening: bool,
    is_over: bool,
    /// What is asked for until it was opened once.
    flags: StreamFlags,
    acknowledged: Acknowledged,
    /// The snapshot that is under way.
    snapshot: SnapshotRange,
    /// Where it ends; known once it was opened.
    end: Seqno,
    /// Attempts in a row that brought nothing.
    in_vain: u32,
}

/// A batch that is being handed out.
#[derive(Debug)]
struct Current {
    vbucket: VbucketId,
    events: std::vec::IntoIter<StreamEvent>,
    bytes: u64,
}

/// The changes of a bucket: a [`Stream`] of [`Change`], on any runtime or none. It ends when the stream of every vbucket
/// has ended.
#[derive(Debug)]
pub struct Changes {
    // A handle of the bucket: it stays open.
    held: Arc<Held>,
    filter: StreamFilter,
    has_history: bool,
    consumer: Arc<str>,
    window: u64,
    token: ChangesToken,
    followers: BTreeMap<VbucketId, Follower>,
    inbox: Inbox,
    openings: FuturesUnordered<Opening>,
    current: Option<Current>,
    /// What is told beside what the streams say.
    said: VecDeque<Change>,
    next_attempt: u64,
}

impl Changes {
    /// Opens the streams of all vbuckets.
    pub(crate) async fn open(
        held: Arc<Held>,
        options: ChangesOptions,
    ) -> Result<Changes, ChangesError> {
        let running = &held.0;
        let vbuckets = u16::try_from(running.table.slots.len()).unwrap_or(u16::MAX);
        let ChangesOptions {
            since,
            until,
            filter,
            history,
            consumer,
            buffer_bytes,
        } = options;
        let mut token = ChangesToken::new(vbuckets, &filter);
        let is_from_now = since == Since::Now;
        if let Since::Token(given) = since {
            given.check(vbuckets, &filter)?;
            token = given;
        }
        let share = buffer_bytes.checked_div(u64::from(vbuckets)).unwrap_or(0);
        let name = consumer.unwrap_or_else(|| running.streaming.name("changes"));
        let ids: Vec<VbucketId> = running.table.slots.iter().map(|slot| slot.id()).collect();
        let mut changes = Changes {
            filter,
            has_history: history,
            consumer: name.into(),
            window: share.max(BUFFER_BYTES_MIN),
            token,
            followers: BTreeMap::new(),
            inbox: Inbox::default(),
            openings: FuturesUnordered::new(),
            current: None,
            said: VecDeque::new(),
            next_attempt: 0,
            held,
        };
        for id in ids {
            changes.begin(id, is_from_now, until);
        }
        while let Some((vbucket, attempt, answer)) = changes.openings.next().await {
            changes.first_answer(vbucket, attempt, answer)?;
        }
        Ok(changes)
    }

    /// The token of everything that was handed out so far: who begins with it gets everything else.
    #[must_use]
    pub fn token(&self) -> ChangesToken {
        self.token.clone()
    }

    /// The next change, as a future of its own; `None` once every vbucket's stream has ended.
    pub async fn next(&mut self) -> Option<Change> {
        StreamExt::next(self).await
    }

    fn running(&self) -> &Running {
        &self.held.0
    }

    /// What may be wrong with the request as a whole is told by whichever vbucket says it first.
    fn first_answer(
        &mut self,
        vbucket: VbucketId,
        attempt: Attempt,
        answer: Answer,
    ) -> Result<(), ChangesError> {
        match answer {
            Err(
                refused @ (StreamRequestError::UnknownCollection(_)
                | StreamRequestError::UnknownScope(_)
                | StreamRequestError::EmptyFilter
                | StreamRequestError::NoHistory { .. }
                | StreamRequestError::HistoryOfScope
                | StreamRequestError::ConsumerName { .. }
                | StreamRequestError::StreamExists { .. }),
            ) => Err(ChangesError::Request(refused)),
            Err(StreamRequestError::Vbucket(
                error @ (OperationError::Closed
                | OperationError::ActorDown { .. }
                | OperationError::TemporaryFailure(_)),
            )) => Err(ChangesError::Bucket(error)),
            answer => {
                self.answered(vbucket, attempt, answer);
                Ok(())
            }
        }
    }

    /// Takes the next batch in hand; whether it may be looked at yet.
    fn accept(&mut self, attempt: Attempt, batch: StreamBatch) -> bool {
        let vbucket = batch.vbucket;
        match self.followers.get(&vbucket) {
            Some(follower) if follower.attempt != attempt => return true,
            Some(follower) if follower.is_opening => {
                // Its answer was sent before, and comes next.
                self.inbox.put_back(attempt, batch);
                return false;
            }
            Some(_) => {}
            None => return true,
        }
        self.current = Some(Current {
            vbucket,
            events: batch.events.into_iter(),
            bytes: batch.bytes,
        });
        true
    }

    /// The next event of the batch in hand.
    fn hand_out(&mut self) -> Option<Change> {
        loop {
            let current = self.current.as_mut()?;
            let vbucket = current.vbucket;
            let Some(event) = current.events.next() else {
                let bytes = current.bytes;
                self.current = None;
                self.acknowledge(vbucket, bytes);
                return None;
            };
            let mut event = event;
            if let StreamEvent::StreamEnd(reason) = &mut event {
                match self.after_end(vbucket, *reason) {
                    Some(told) => *reason = told,
                    None => continue,
                }
            }
            self.note(vbucket, &event);
            return Some(Change { vbucket, event });
        }
    }

    fn acknowledge(&self, vbucket: VbucketId, bytes: u64) {
        if let Some(follower) = self.followers.get(&vbucket) {
            follower.acknowledged.add(bytes);
            self.nudge(vbucket);
        }
    }

    /// Has the producer look at the stream of this vbucket.
    fn nudge(&self, vbucket: VbucketId) {
        let running = self.running();
        if let Some(producing) = running.streaming.producer(&running.table, vbucket) {
            producing.edge.mark(vbucket);
        }
    }

    /// Keeps the token in step with what is handed out.
    fn note(&mut self, vbucket: VbucketId, event: &StreamEvent) {
        let Some(follower) = self.followers.get_mut(&vbucket) else {
            return;
        };
        match event {
            StreamEvent::SnapshotMarker(marker) => {
                follower.snapshot = SnapshotRange {
                    start: marker.start,
                    end: marker.end,
                };
            }
            StreamEvent::StreamEnd(_) => follower.is_over = true,
            StreamEvent::Mutation(_)
            | StreamEvent::Deletion(_)
            | StreamEvent::Expiration(_)
            | StreamEvent::Prepare(_)
            | StreamEvent::Commit(_)
            | StreamEvent::Abort(_)
            | StreamEvent::SystemEvent(_)
            | StreamEvent::SeqnoAdvanced(_) => {
                let seqno = event.seqno().unwrap_or_default();
                let is_whole = seqno >= follower.snapshot.end;
                let whole = SnapshotRange {
                    start: seqno,
                    end: seqno,
                };
                let position = Position {
                    seqno,
                    snapshot: if is_whole { whole } else { follower.snapshot },
                    ..self.token.position(vbucket)
                };
                follower.in_vain = 0;
                self.token.set(vbucket, position);
            }
        }
    }

    fn end(&mut self, vbucket: VbucketId, reason: StreamEndReason) {
        if let Some(follower) = self.followers.get_mut(&vbucket) {
            follower.is_opening = false;
            follower.is_over = true;
        }
        self.said.push_back(Change {
            vbucket,
            event: StreamEvent::StreamEnd(reason),
        });
    }

    fn is_over(&self) -> bool {
        self.followers.values().all(|follower| follower.is_over)
    }
}

impl Stream for Changes {
    type Item = Change;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change>> {
        let this = &mut *self;
        loop {
            if let Some(change) = this.hand_out().or_else(|| this.said.pop_front()) {
                return Poll::Ready(Some(change));
            }
            while let Poll::Ready(Some((vbucket, attempt, answer))) =
                this.openings.poll_next_unpin(context)
            {
                this.answered(vbucket, attempt, answer);
            }
            if !this.said.is_empty() {
                continue;
            }
            if this.is_over() {
                return Poll::Ready(None);
            }
            match this.inbox.take(context) {
                Some((attempt, batch)) => {
                    if !this.accept(attempt, batch) {
                        // Whoever sends the answer has his turn first.
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                None => return Poll::Pending,
            }
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.inbox.close();
        for vbucket in self.followers.keys() {
            self.nudge(*vbucket);
        }
    }
}
