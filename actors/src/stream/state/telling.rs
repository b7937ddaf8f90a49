//! What a stream says: markers before what they tell of, events in their order, and how far it is.
//!
//! Invariant: a snapshot of which nothing is said has no marker; markers rise; whoever waits for a snapshot's end is told it.

use std::sync::Arc;

use messages::stream::{SnapshotFlags, SnapshotMarker, StreamEndReason, StreamEvent};
use storage::{Item, Seqno};

use super::{ANTILAG_ITEMS, StreamState};
use crate::stream::filter::Sight;
use crate::stream::snapshot::Told;
use crate::stream::want::{Counted, Skipped};

impl StreamState {
    /// A snapshot begins; nothing is said before there is something in it.
    pub(super) fn tell(&mut self, marker: SnapshotMarker) {
        self.told = Some(Told::new(marker));
    }

    /// What comes now is every version there is, if that was asked for.
    pub(super) fn turn_to_history(&mut self) {
        if let Some(told) = self.told.as_mut().filter(|_| self.admitted.has_history) {
            told.turn_to_history();
        }
    }

    pub(super) fn note_sent(&mut self, seqno: Seqno) {
        if let Some(told) = &mut self.told {
            told.sent_up_to = seqno;
            told.skipped = 0;
        }
    }

    /// Queues an event of the snapshot; the filter follows it, which may be the end.
    pub(super) fn say(&mut self, one: Counted) {
        let follows = if let StreamEvent::SystemEvent(system) = &one.event {
            self.filter.follow(&system.event);
            self.filter.is_empty().then_some(system.seqno)
        } else {
            None
        };
        self.out.push_back(one);
        if let Some(seqno) = follows {
            self.last_read = self.last_read.max(seqno);
            self.end(StreamEndReason::FilterEmpty);
        }
    }

    pub(super) fn see(&mut self, item: Arc<Item>) {
        let seqno = item.seqno;
        match self.filter.sees(item) {
            Sight::Event(event) => {
                self.turn_to_history();
                if !self.send_marker() {
                    return;
                }
                self.note_sent(seqno);
                self.say(event.into());
            }
            Sight::Invisible => self.note_skipped(Skipped {
                items: 1,
                has_invisible: true,
            }),
            Sight::Other => self.note_skipped(Skipped {
                items: 1,
                has_invisible: false,
            }),
        }
    }

    pub(super) fn note_skipped(&mut self, skipped: Skipped) {
        if let Some(told) = &mut self.told {
            told.skipped = told.skipped.saturating_add(skipped.items);
            told.has_invisible |= skipped.has_invisible;
        }
    }

    /// Sends the marker of the snapshot, if it was not sent; whether the stream goes on.
    pub(super) fn send_marker(&mut self) -> bool {
        let Some(told) = &mut self.told else {
            tracing::error!(vbucket = %self.admitted.vbucket, "an item came outside of any snapshot");
            self.end(StreamEndReason::Disconnected);
            return false;
        };
        if told.is_sent {
            return true;
        }
        told.is_sent = true;
        if std::mem::take(&mut self.begins_checkpoint) {
            told.marker.flags = told.marker.flags.with(SnapshotFlags::CHECKPOINT);
        }
        let is_first = self.last_end.is_none();
        if is_first {
            told.marker.start = told.marker.start.min(self.admitted.snapshot.start);
        }
        let marker = told.marker;
        // A history is told under the range of what there was when it began.
        let is_history = marker.flags.has(SnapshotFlags::HISTORY);
        let is_above = |end| end < marker.start || (is_history && end == marker.end);
        let goes_back = self.last_end.is_some_and(|end| !is_above(end));
        if goes_back || marker.end < marker.start {
            tracing::error!(vbucket = %self.admitted.vbucket, ?marker, last = ?self.last_end, "a snapshot marker goes back");
            self.end(StreamEndReason::Disconnected);
            return false;
        }
        self.last_end = Some(marker.end);
        self.out
            .push_back(StreamEvent::SnapshotMarker(Box::new(marker)).into());
        true
    }

    /// The snapshot is whole: its end is told, if anybody may wait for it.
    pub(super) fn close_snapshot(&mut self) {
        let Some(told) = self.told else { return };
        // A consumer in the middle of a snapshot of before waits for its end.
        let resumes = self.last_end.is_none() && self.admitted.start < self.admitted.snapshot.end;
        let is_awaited =
            told.is_sent || resumes || told.has_invisible || told.skipped >= ANTILAG_ITEMS;
        if is_awaited && told.sent_up_to < told.marker.end {
            if !told.is_sent {
                self.turn_to_history();
            }
            self.advance(told.marker.end);
        }
        self.told = None;
    }

    pub(super) fn advance(&mut self, seqno: Seqno) {
        if !self.send_marker() {
            return;
        }
        self.note_sent(seqno);
        self.last_read = self.last_read.max(seqno);
        self.out.push_back(StreamEvent::SeqnoAdvanced(seqno).into());
    }
}
