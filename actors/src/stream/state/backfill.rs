//! What a backfill read, and how it ended.
//!
//! Invariant: a backfill that is not under way says nothing; one counts as complete only with the proof that it was read to the
//! end its marker told.

use messages::stream::StreamEndReason;
use storage::Watermarks;

use super::{ANTILAG_ITEMS, Phase, StreamState};
use crate::stream::snapshot;
use crate::stream::want::{BackfillEnd, Read};
use crate::vbucket::checkpoint::Registered;

impl StreamState {
    /// The backfill that was wanted is under way.
    pub fn scheduled(&mut self) {
        if let Phase::Scheduling(range) = self.phase {
            self.phase = Phase::Backfilling {
                first: range.first,
                last: None,
                is_followed: false,
            };
        }
    }

    /// The backfill reads a snapshot with these watermarks. `registered`: the cursor anew, behind the snapshot's end;
    /// none is needed for a stream of the disk alone.
    pub fn opened(&mut self, watermarks: &Watermarks, registered: Option<Registered>) {
        let Phase::Backfilling {
            first, is_followed, ..
        } = self.phase
        else {
            return;
        };
        let is_behind = registered.is_some_and(|one| one.backfill_needed);
        let high = watermarks.high_seqno;
        self.phase = Phase::Backfilling {
            first,
            last: Some(high),
            is_followed: is_followed || is_behind,
        };
        self.tell(snapshot::of_disk(first, watermarks, registered.is_some()));
        if let Some(told) = &mut self.told {
            told.is_in_part = told.marker.end > high;
        }
    }

    /// The backfill read this.
    pub fn backfilled(&mut self, read: Read) {
        let Phase::Backfilling { last: Some(_), .. } = self.phase else {
            return;
        };
        let Read {
            events,
            last,
            up_to,
            skipped,
            is_history,
        } = read;
        if !events.is_empty() {
            if is_history {
                self.turn_to_history();
            }
            if !self.send_marker() {
                return;
            }
            self.note_sent(last);
        }
        self.out.reserve(events.len());
        for one in events {
            self.say(one);
            if self.is_dead() {
                return;
            }
        }
        self.note_skipped(skipped);
        self.last_read = self.last_read.max(up_to);
        let lags = self.told.is_some_and(|told| {
            // Of the seqno of an item that was sent there is no more to say.
            let is_news = told.sent_up_to < up_to && up_to < told.marker.end;
            told.skipped >= ANTILAG_ITEMS && is_news
        });
        if lags {
            // Nothing of the history was for this stream so far: its marker is due all the same.
            if is_history {
                self.turn_to_history();
            }
            self.advance(up_to);
        }
    }

    /// The backfill is over.
    pub fn backfill_ended(&mut self, end: BackfillEnd) {
        let Phase::Backfilling {
            is_followed, last, ..
        } = self.phase
        else {
            return;
        };
        let read = match end {
            BackfillEnd::Complete(read) => read,
            BackfillEnd::Aborted => return self.end(StreamEndReason::StateChanged),
            BackfillEnd::Purged => return self.end(StreamEndReason::Rollback),
            BackfillEnd::Failed => return self.end(StreamEndReason::BackfillFail),
            BackfillEnd::Slow => return self.end(StreamEndReason::Slow),
            BackfillEnd::Panicked => return self.end(StreamEndReason::Disconnected),
        };
        if self.told.is_none() || last != Some(read) {
            tracing::error!(vbucket = %self.admitted.vbucket, %read, "a backfill ended where it was not to end");
            return self.end(StreamEndReason::BackfillFail);
        }
        self.last_read = self.last_read.max(read);
        if self.told.is_some_and(|told| told.is_in_part) {
            return self.go_on_in_memory(is_followed);
        }
        self.close_snapshot();
        if self.last_read >= self.admitted.end || self.admitted.is_disk_only {
            self.end(StreamEndReason::Ok);
        } else if is_followed {
            self.phase = Phase::Registering;
        } else {
            self.enter_memory();
        }
    }

    /// The rest of what was read in part lies behind the cursor; without one its end could not be delivered as it was told.
    fn go_on_in_memory(&mut self, is_followed: bool) {
        if !is_followed {
            self.begins_checkpoint = true;
            self.phase = Phase::InMemory;
        } else if self.told.is_some_and(|told| told.is_sent) {
            self.end(StreamEndReason::StateChanged);
        } else {
            self.told = None;
            self.phase = Phase::Registering;
        }
    }
}
