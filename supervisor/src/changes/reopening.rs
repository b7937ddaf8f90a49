//! Opening the stream of a vbucket, and opening it again where it was.
//!
//! Invariant: an attempt has one answer, and what comes by an earlier attempt no longer counts. A stream is taken up
//! again only when asking again may help: what a disk failed to read, and what was rolled back, is told.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actors::stream::{Acknowledged, OpenStreamInto};
use messages::OperationError;
use messages::stream::{
    StreamEndReason, StreamFlags, StreamOpened, StreamOptions, StreamRequest, StreamRequestError,
};
use storage::{Seqno, SnapshotRange, VbucketId, VbucketUuid};

use super::inbox::Attempt;
use super::token::Position;
use super::{ATTEMPTS_MAX, Changes, Follower, Until};

/// What a producer answers.
pub(super) type Answer = Result<StreamOpened, StreamRequestError>;
/// A request under way.
pub(super) type Opening = Pin<Box<dyn Future<Output = (VbucketId, Attempt, Answer)> + Send>>;

impl Changes {
    /// Opens the stream of a vbucket for the first time.
    pub(super) fn begin(&mut self, vbucket: VbucketId, is_from_now: bool, until: Until) {
        let mut flags = StreamFlags::default();
        if is_from_now {
            flags = flags.with(StreamFlags::FROM_LATEST);
        }
        if until == Until::Now {
            flags = flags.with(StreamFlags::TO_LATEST);
        }
        self.followers.insert(
            vbucket,
            Follower {
                attempt: Attempt(0),
                is_opening: true,
                is_over: false,
                flags,
                acknowledged: Acknowledged::default(),
                snapshot: SnapshotRange::default(),
                end: Seqno::MAX,
                in_vain: 0,
            },
        );
        self.ask(vbucket);
    }

    /// The stream of a vbucket ended so: what is told of it, or none if it is opened again.
    pub(super) fn after_end(
        &mut self,
        vbucket: VbucketId,
        reason: StreamEndReason,
    ) -> Option<StreamEndReason> {
        match reason {
            StreamEndReason::StateChanged
            | StreamEndReason::Disconnected
            | StreamEndReason::Slow => {}
            StreamEndReason::Ok
            | StreamEndReason::Closed
            | StreamEndReason::BackfillFail
            | StreamEndReason::Rollback
            | StreamEndReason::FilterEmpty
            | StreamEndReason::LostPrivileges
            | StreamEndReason::VbucketDown => return Some(reason),
        }
        let Some(follower) = self.followers.get_mut(&vbucket) else {
            return Some(reason);
        };
        let position = self.token.position(vbucket);
        if position.seqno >= last_wanted(&position, follower.end) {
            // Only the word that it was all is missing.
            return Some(StreamEndReason::Ok);
        }
        follower.in_vain = follower.in_vain.saturating_add(1);
        if follower.in_vain > ATTEMPTS_MAX {
            return Some(reason);
        }
        follower.is_opening = true;
        // What was sent by the last attempt needs no acknowledging in this one.
        follower.acknowledged = Acknowledged::default();
        self.current = None;
        self.ask(vbucket);
        None
    }

    fn ask(&mut self, vbucket: VbucketId) {
        self.next_attempt = self.next_attempt.saturating_add(1);
        let attempt = Attempt(self.next_attempt);
        let position = self.token.position(vbucket);
        let Position {
            vbucket_uuid,
            seqno,
            snapshot,
        } = position;
        let Some(follower) = self.followers.get_mut(&vbucket) else {
            return;
        };
        follower.attempt = attempt;
        let flags = follower.flags;
        let open = OpenStreamInto {
            request: StreamRequest {
                vbucket,
                consumer: Arc::clone(&self.consumer),
                stream_number: 0,
                flags,
                start: seqno,
                end: last_wanted(&position, follower.end),
                vbucket_uuid: VbucketUuid(vbucket_uuid),
                snapshot,
                filter: self.filter.clone(),
                options: StreamOptions {
                    buffer_bytes: Some(self.window),
                    history: self.has_history,
                    ..StreamOptions::default()
                },
            },
            sink: Box::new(self.inbox.sink(attempt)),
            acknowledged: follower.acknowledged.clone(),
        };
        let running = self.running();
        let producing = running.streaming.producer(&running.table, vbucket);
        // A sender of its own: one that found a full mailbox once may wait for ever.
        let address = producing.map(|producing| producing.address.clone());
        self.openings.push(Box::pin(async move {
            let closed = || Err(OperationError::Closed.into());
            let answer = match address {
                Some(address) => address.send(open).await.unwrap_or_else(|_| closed()),
                None => closed(),
            };
            (vbucket, attempt, answer)
        }));
    }

    pub(super) fn answered(&mut self, vbucket: VbucketId, attempt: Attempt, answer: Answer) {
        let Some(follower) = self.followers.get_mut(&vbucket) else {
            return;
        };
        if follower.attempt != attempt {
            return;
        }
        let opened = match answer {
            Ok(opened) => opened,
            Err(crashed) if is_crash(&crashed) && follower.in_vain < ATTEMPTS_MAX => {
                follower.in_vain = follower.in_vain.saturating_add(1);
                return self.ask(vbucket);
            }
            Err(refused) => return self.end(vbucket, as_end(&refused)),
        };
        follower.is_opening = false;
        follower.flags = StreamFlags::default();
        follower.end = opened.end;
        let newest = opened.failover_log.first();
        let mut position = self.token.position(vbucket);
        position.vbucket_uuid = newest.map_or(0, |entry| entry.uuid.0);
        if opened.start > position.seqno {
            position.seqno = opened.start;
            position.snapshot = SnapshotRange {
                start: opened.start,
                end: opened.start,
            };
        }
        self.token.set(vbucket, position);
    }
}

/// Up to where a consumer at this position needs the changes, which were to end at `end`: a snapshot is consistent only
/// when it came whole.
fn last_wanted(position: &Position, end: Seqno) -> Seqno {
    end.max(position.snapshot.end)
}

/// Whether nobody said anything of the request itself.
fn is_crash(refused: &StreamRequestError) -> bool {
    matches!(
        refused,
        StreamRequestError::Vbucket(
            OperationError::ActorCrashed { .. } | OperationError::Crashed { .. }
        )
    )
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else is refused, the vbucket is not what it was; refusals will be added to"
)]
/// As what a refusal is told of one vbucket among many.
fn as_end(refused: &StreamRequestError) -> StreamEndReason {
    match refused {
        StreamRequestError::Rollback { .. } => StreamEndReason::Rollback,
        StreamRequestError::UnknownCollection(_) | StreamRequestError::UnknownScope(_) => {
            StreamEndReason::FilterEmpty
        }
        StreamRequestError::Vbucket(
            OperationError::VbucketDown { .. } | OperationError::ActorDown { .. },
        ) => StreamEndReason::VbucketDown,
        StreamRequestError::Vbucket(OperationError::Closed) => StreamEndReason::Disconnected,
        _ => StreamEndReason::StateChanged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changes_end_with_a_snapshot_and_never_in_it() {
        let at = |seqno, start, end| Position {
            vbucket_uuid: 1,
            seqno: Seqno(seqno),
            snapshot: SnapshotRange {
                start: Seqno(start),
                end: Seqno(end),
            },
        };
        // The end wanted was 5, the snapshot that holds it goes on to 9.
        assert_eq!(last_wanted(&at(6, 1, 9), Seqno(5)), Seqno(9));
        assert_eq!(last_wanted(&at(9, 9, 9), Seqno(5)), Seqno(9));
        assert_eq!(last_wanted(&at(3, 3, 3), Seqno(5)), Seqno(5));
    }
}
