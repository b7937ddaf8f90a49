//! The state machine of one stream: what it waits for, what it says, when it ends.
//!
//! ```text
//! Registering --backfill needed--> Scheduling -> Backfilling --complete--> InMemory --end reached--> Dead(Ok)
//!      |  ^                                          |  |                    |
//!      |  +------------ cursor dropped --------------+--|--------------------+
//!      +--no backfill needed--> InMemory                +--failed, aborted, rolled back, slow--> Dead(why)
//! ```
//!
//! Pure: it says what it [`Want`]s and is told what came of it. Invariant: nothing is sent twice and nothing is left
//! out; a backfill counts as complete only with the proof that it was read to the end its marker told (MB-47790).

mod backfill;
mod telling;

use std::collections::VecDeque;

use messages::stream::{StreamEndReason, StreamEvent};
use storage::Seqno;

use super::admit::Admitted;
use super::filter::Filter;
use super::snapshot::{self, Told};
use super::want::{BackfillRange, Counted, Want};
use crate::vbucket::checkpoint::{Opening, Registered, Taken};

/// So many items in a row may be passed over in a backfill before the consumer is told how far the stream is.
const ANTILAG_ITEMS: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Registering,
    Scheduling(BackfillRange),
    Backfilling {
        first: Seqno,
        /// Up to where it reads, once its snapshot is open.
        last: Option<Seqno>,
        /// The cursor was dropped meanwhile: another backfill follows.
        is_followed: bool,
    },
    InMemory,
    Dead,
}

/// One stream.
#[derive(Debug)]
pub struct StreamState {
    admitted: Admitted,
    filter: Filter,
    phase: Phase,
    /// Everything up to here was sent, or is not for this stream.
    last_read: Seqno,
    told: Option<Told>,
    /// End of the last snapshot whose marker was sent.
    last_end: Option<Seqno>,
    /// The next marker that is sent carries the checkpoint flag.
    begins_checkpoint: bool,
    out: VecDeque<Counted>,
}

impl StreamState {
    /// A stream that was admitted.
    #[must_use]
    pub fn new(admitted: Admitted) -> StreamState {
        let mut state = StreamState {
            filter: admitted.filter.clone(),
            phase: Phase::Registering,
            last_read: admitted.nothing_below,
            told: None,
            last_end: None,
            begins_checkpoint: true,
            out: VecDeque::new(),
            admitted,
        };
        state.begin();
        state
    }

    fn begin(&mut self) {
        if self.last_read >= self.admitted.end {
            self.end(StreamEndReason::Ok);
        } else if self.admitted.is_disk_only {
            self.phase = Phase::Scheduling(BackfillRange {
                first: self.last_read.next(),
                last: self.admitted.end,
            });
        } else if let Some(last) = self.admitted.disk_up_to {
            let first = self.last_read.next();
            self.phase = Phase::Scheduling(BackfillRange { first, last });
        } else {
            self.phase = Phase::Registering;
        }
    }

    /// What was admitted.
    #[must_use]
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// What passes now.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Everything up to here was sent, or is not for this stream.
    #[must_use]
    pub fn last_read(&self) -> Seqno {
        self.last_read
    }

    /// Whether nothing more will be added to what is to be sent. Cursor and backfill can go.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.phase == Phase::Dead
    }

    /// Whether a backfill is wanted or under way.
    #[must_use]
    pub fn is_backfilling(&self) -> bool {
        matches!(self.phase, Phase::Scheduling(_) | Phase::Backfilling { .. })
    }

    /// Whether there is something to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// What it needs to go on.
    pub fn want(&self) -> Want {
        match self.phase {
            Phase::Registering => Want::Register {
                held: self.last_read,
            },
            Phase::Scheduling(range) => Want::Backfill(range),
            Phase::Backfilling { .. } => Want::Backfilled,
            Phase::InMemory => Want::Log,
            Phase::Dead => Want::Nothing,
        }
    }

    /// The cursor stands.
    pub fn registered(&mut self, registered: Registered) {
        if self.phase != Phase::Registering {
            return;
        }
        if !registered.backfill_needed {
            return self.enter_memory();
        }
        let below = Seqno(registered.next.0.saturating_sub(1));
        let (first, last) = (self.last_read.next(), below.min(self.admitted.end));
        if first > last {
            tracing::error!(vbucket = %self.admitted.vbucket, %first, %last, "a backfill of nothing was asked for");
            return self.end(StreamEndReason::StateChanged);
        }
        self.phase = Phase::Scheduling(BackfillRange { first, last });
    }

    /// The cursor was dropped to free memory: what is queued goes out, then the disk is read.
    pub fn cursor_dropped(&mut self) {
        match &mut self.phase {
            Phase::Backfilling { is_followed, .. } => *is_followed = true,
            // In the middle of a snapshot its end could no longer be delivered as it was told.
            Phase::InMemory if self.told.is_some_and(|told| told.is_sent) => {
                self.end(StreamEndReason::StateChanged);
            }
            Phase::InMemory => {
                self.told = None;
                self.phase = Phase::Registering;
            }
            Phase::Registering | Phase::Scheduling(_) | Phase::Dead => {}
        }
    }

    /// Whether the cursor may be dropped without ending the stream.
    #[must_use]
    pub fn may_drop_cursor(&self) -> bool {
        self.phase == Phase::InMemory && self.told.is_none_or(|told| !told.is_sent)
    }

    /// What lay behind the cursor.
    pub fn taken(&mut self, taken: Taken) {
        if self.phase != Phase::InMemory {
            return;
        }
        // The pieces lie behind each other.
        let mut items = taken.items.into_iter();
        for piece in &taken.pieces {
            let goes_on = self.told.is_some_and(|told| told.goes_on_with(piece));
            let is_inside = self
                .told
                .is_some_and(|told| told.is_in_part && told.is_sent);
            match piece.opening {
                Opening::Checkpoint | Opening::Snapshot if goes_on => {}
                // Its source gave up what was read in part.
                Opening::Checkpoint | Opening::Snapshot if is_inside => {
                    return self.end(StreamEndReason::StateChanged);
                }
                Opening::Continues if self.told.is_some() => {}
                Opening::AfterCut if self.told.is_some_and(|told| told.is_sent) => {
                    return self.end(StreamEndReason::StateChanged);
                }
                Opening::Checkpoint
                | Opening::Snapshot
                | Opening::Continues
                | Opening::AfterCut => {
                    self.begins_checkpoint |= piece.opening == Opening::Checkpoint;
                    self.tell(snapshot::of_piece(piece));
                }
            }
            for item in items.by_ref().take(piece.items.len()) {
                let seqno = item.seqno;
                self.see(item);
                if self.is_dead() {
                    return;
                }
                self.last_read = self.last_read.max(seqno);
            }
            if piece.completes {
                self.close_snapshot();
                if self.last_read >= self.admitted.end {
                    return self.end(StreamEndReason::Ok);
                }
            }
        }
    }

    /// Ends the stream, if it did not end already. What waits to be sent goes out before an `Ok` only.
    pub fn end(&mut self, reason: StreamEndReason) {
        if self.is_dead() {
            return;
        }
        self.phase = Phase::Dead;
        match reason {
            StreamEndReason::Ok | StreamEndReason::FilterEmpty => {}
            StreamEndReason::Closed
            | StreamEndReason::StateChanged
            | StreamEndReason::Disconnected
            | StreamEndReason::Slow
            | StreamEndReason::BackfillFail
            | StreamEndReason::Rollback
            | StreamEndReason::LostPrivileges
            | StreamEndReason::VbucketDown => self.out.clear(),
        }
        self.out.push_back(StreamEvent::StreamEnd(reason).into());
    }

    /// The producer goes: whatever there was, this is the last thing that is said.
    pub fn disconnect(&mut self) {
        self.phase = Phase::Dead;
        self.out.clear();
        let end = StreamEvent::StreamEnd(StreamEndReason::Disconnected);
        self.out.push_back(end.into());
    }

    /// What may be sent now: events of about `bytes_max`, one at least; the end of a stream always.
    #[must_use]
    pub fn take_output(&mut self, bytes_max: u64) -> (Vec<StreamEvent>, u64) {
        let (mut events, mut bytes) = (Vec::with_capacity(self.out.len()), 0u64);
        while let Some(one) = self.out.pop_front() {
            let is_end = matches!(one.event, StreamEvent::StreamEnd(_));
            if bytes >= bytes_max && !is_end {
                self.out.push_front(one);
                break;
            }
            bytes = bytes.saturating_add(one.bytes);
            events.push(one.event);
        }
        (events, bytes)
    }

    fn enter_memory(&mut self) {
        if self.last_read >= self.admitted.end {
            return self.end(StreamEndReason::Ok);
        }
        self.begins_checkpoint = true;
        self.phase = Phase::InMemory;
    }
}
