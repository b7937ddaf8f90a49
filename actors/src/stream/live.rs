//! A stream at work: its state machine, what it holds of vbucket and store, and its consumer.
//!
//! Invariant: it pulls only what it can send, so that a consumer that takes nothing costs no more than a piece; and
//! everything it holds goes with it, whoever drops it, its consumer being told as long as it can be told.

use std::sync::Arc;

use messages::stream::{StreamBatch, StreamEndReason, StreamError, StreamEvent, StreamId};
use storage::{Seqno, VbucketId};

use super::admit::Admitted;
use super::replica::Replica;
use super::sink::{Farewells, Nobody, Offer, StreamSink};
use super::slice::Slice;
use super::state::StreamState;
use super::want::{BackfillRange, Want};
use super::window::Window;
use crate::backfill::{BackfillHandle, BackfillRequest, Backfills, Pipe, Piped};
use crate::durability::NodeName;
use crate::vbucket::checkpoint::{CursorName, TakeLimits};
use crate::vbucket::{DirtyVbuckets, Past, StreamBreak, StreamCursor, StreamWatch, VbucketCore};

/// Pieces a stream sends before others have their turn.
const PIECES_MAX: usize = 4;
/// Items of a piece.
const PIECE_ITEMS_MAX: usize = 1024;

/// What a stream works with.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) core: Arc<VbucketCore>,
    pub(super) edge: Arc<DirtyVbuckets>,
    pub(super) backfills: Backfills,
    pub(super) past: Past,
    pub(super) farewells: Farewells,
}

/// What a look at a stream came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// There is nothing to do until something changes.
    Waits,
    /// There is more to do at once.
    More,
    /// The consumer has no room, and nobody says when it has.
    SinkIsFull,
    /// It is over.
    Over,
}

/// What moving on came to.
enum Moved {
    On,
    /// There was no more in the log: what is written from now on marks the vbucket anew.
    ToTheEnd,
    Nowhere,
}

/// One stream.
pub(super) struct Live {
    id: StreamId,
    vbucket: VbucketId,
    name: CursorName,
    state: StreamState,
    window: Window,
    links: Links,
    sink: Box<dyn StreamSink>,
    /// What the consumer had no room for.
    unsent: Option<StreamBatch>,
    cursor: Option<StreamCursor>,
    backfill: Option<BackfillHandle>,
    /// As long as the stream lives.
    replica: Option<Replica>,
    is_over: bool,
    _watch: StreamWatch,
}

impl Live {
    pub(super) fn new(
        id: StreamId,
        admitted: Admitted,
        links: Links,
        window: Window,
        sink: Box<dyn StreamSink>,
    ) -> Live {
        let node = admitted.node.clone();
        let of_replica = |node| {
            let words = (admitted.start, window.words());
            Replica::new(Arc::clone(&links.core), links.past.role(), node, words)
        };
        Live {
            id,
            replica: node.map(of_replica),
            vbucket: admitted.vbucket,
            name: CursorName::new(&format!("{}/{}", admitted.consumer, admitted.stream_number)),
            state: StreamState::new(admitted),
            window,
            sink,
            unsent: None,
            cursor: None,
            backfill: None,
            is_over: false,
            _watch: links.core.watch(),
            links,
        }
    }

    pub(super) fn id(&self) -> StreamId {
        self.id
    }

    /// Whether it is the stream of that consumer and number, and neither is dead.
    pub(super) fn is_open_as(&self, consumer: &str, number: u16) -> bool {
        let admitted = self.state.admitted();
        let is_alive = !self.state.is_dead() && !self.sink.is_gone();
        is_alive && &*admitted.consumer == consumer && admitted.stream_number == number
    }

    /// Whether nobody takes what it sends any more.
    pub(super) fn is_orphan(&self) -> bool {
        self.sink.is_gone()
    }

    pub(super) fn acknowledge(&self, bytes: u64) -> Result<(), StreamError> {
        self.window.acknowledge(bytes)
    }

    /// The replica at its end holds every prepare up to `seqno`. A dead stream hears nothing more.
    pub(super) fn acknowledge_prepared(&mut self, seqno: Seqno) -> Result<(), StreamError> {
        if self.state.admitted().node.is_none() {
            return Err(StreamError::NotSynchronous(self.id));
        }
        // What ended it may not have been noticed yet.
        self.notice();
        let Some(replica) = &mut self.replica else {
            return Ok(());
        };
        let heard = replica.hear_word(seqno);
        if let Err(error) = &heard {
            self.contradicted(error);
        }
        heard
    }

    /// The monitor hears that this stream is over, if it is or nobody takes anything of it any more: another of the same
    /// node may begin.
    pub(super) fn release_if_over(&mut self) {
        if self.sink.is_gone() || self.state.is_dead() {
            self.replica = None;
        }
    }

    /// Whether that node is heard here.
    pub(super) fn hears(&self, node: &NodeName) -> bool {
        self.replica.is_some() && self.state.admitted().node.as_ref() == Some(node)
    }

    /// A replica that knows not what it holds is told to begin anew.
    fn contradicted(&mut self, error: &StreamError) {
        tracing::warn!(vbucket = %self.vbucket, stream = self.id.0, %error, "a replica contradicts itself");
        self.state.end(StreamEndReason::Disconnected);
        self.let_go();
    }

    pub(super) fn end(&mut self, reason: StreamEndReason) {
        self.state.end(reason);
    }

    /// Does a bounded piece of what there is to do: one at least, more while there is some of the slice left.
    pub(super) fn look(&mut self, slice: &mut Slice) -> Looked {
        if self.sink.is_gone() {
            self.is_over = true;
            return Looked::Over;
        }
        self.notice();
        let mut is_at_end = false;
        for _ in 0..PIECES_MAX {
            match self.send(slice) {
                Some(looked) => {
                    if looked == Looked::SinkIsFull {
                        self.lag(slice);
                    }
                    return looked;
                }
                None if self.window.room() == 0 => {
                    self.lag(slice);
                    return Looked::Waits;
                }
                None => {}
            }
            if is_at_end && !self.state.has_output() {
                return Looked::Waits;
            }
            match self.move_on(slice) {
                Moved::On => {}
                Moved::ToTheEnd => is_at_end = true,
                Moved::Nowhere => {
                    self.let_go();
                    if !self.state.has_output() {
                        return Looked::Waits;
                    }
                }
            }
            if slice.is_used_up() {
                break;
            }
        }
        Looked::More
    }

    /// What ends a stream whether or not it can send anything, and what its consumer said meanwhile.
    fn notice(&mut self) {
        if let Err(broken) = self.links.core.check_stream(self.links.past) {
            self.broken(broken);
        }
        self.let_go();
        let heard = self.replica.as_mut().map(Replica::hear);
        if let Some(Err(error)) = heard {
            self.contradicted(&error);
        }
        if let Some(backfill) = &self.backfill {
            if let Some(end) = backfill.broken() {
                self.state.backfill_ended(end);
            }
            backfill.note_persisted(self.links.core.persisted_seqno());
        }
        self.let_go();
    }

    fn broken(&mut self, broken: StreamBreak) {
        match broken {
            StreamBreak::StateChanged => self.state.end(StreamEndReason::StateChanged),
            StreamBreak::RolledBack => self.state.end(StreamEndReason::Rollback),
            StreamBreak::Down => self.state.end(StreamEndReason::VbucketDown),
            StreamBreak::CursorGone => {
                self.cursor = None;
                self.state.cursor_dropped();
            }
        }
    }

    /// A dead stream keeps nothing of vbucket and store; one that does not backfill keeps no backfill.
    fn let_go(&mut self) {
        if self.state.is_dead() {
            self.cursor = None;
            self.replica = None;
        }
        if !self.state.is_backfilling() {
            self.backfill = None;
        }
    }

    /// Sends what there is, as far as it may; what the look comes to, if that is decided.
    fn send(&mut self, slice: &mut Slice) -> Option<Looked> {
        if self.unsent.is_none() && self.state.has_output() {
            let (events, bytes) = self.state.take_output(self.window.room());
            if !events.is_empty() {
                self.window.note_sent(bytes);
                slice.spend_bytes(bytes);
                let last = events.iter().filter_map(StreamEvent::seqno).next_back();
                if let (Some(replica), Some(last)) = (&mut self.replica, last) {
                    replica.note_sent(last);
                }
                self.unsent = Some(StreamBatch {
                    vbucket: self.vbucket,
                    stream: self.id,
                    events,
                    bytes,
                });
            }
        }
        if let Some(batch) = self.unsent.take() {
            let is_last = matches!(batch.events.last(), Some(StreamEvent::StreamEnd(_)));
            match self.sink.offer(batch) {
                Offer::Taken => self.is_over = is_last,
                Offer::Full(batch) => {
                    self.unsent = Some(batch);
                    return Some(Looked::SinkIsFull);
                }
                Offer::Gone => self.is_over = true,
            }
        }
        self.is_over.then_some(Looked::Over)
    }

    /// Gets more to send.
    fn move_on(&mut self, slice: &mut Slice) -> Moved {
        if self.state.has_output() {
            return Moved::On;
        }
        match self.state.want() {
            Want::Register { held } => {
                let core = Arc::clone(&self.links.core);
                match core.register_stream(&self.name, held, self.links.past) {
                    Ok((cursor, registered)) => {
                        self.cursor = Some(cursor);
                        self.state.registered(registered);
                    }
                    Err(broken) => self.broken(broken),
                }
            }
            Want::Backfill(range) => {
                let request = self.request(range);
                self.backfill = Some(self.links.backfills.schedule(request));
                self.state.scheduled();
            }
            Want::Backfilled => return self.take_backfilled(slice),
            Want::Log => return self.take_logged(PIECE_ITEMS_MAX, slice),
            Want::Nothing => return Moved::Nowhere,
        }
        self.let_go();
        Moved::On
    }

    fn request(&self, range: BackfillRange) -> BackfillRequest {
        let admitted = self.state.admitted();
        let (edge, vbucket) = (Arc::clone(&self.links.edge), self.vbucket);
        BackfillRequest {
            core: Arc::clone(&self.links.core),
            consumer: Arc::clone(&admitted.consumer),
            range,
            start: admitted.start,
            nothing_below: admitted.nothing_below,
            purged: admitted.purged,
            filter: self.state.filter().clone(),
            has_history: admitted.has_history,
            pipe: Arc::new(Pipe::new(move || edge.mark(vbucket))),
        }
    }

    fn take_backfilled(&mut self, slice: &mut Slice) -> Moved {
        let Some(backfill) = &self.backfill else {
            self.state.end(StreamEndReason::Disconnected);
            return Moved::On;
        };
        match backfill.take() {
            Piped::Nothing => return Moved::Nowhere,
            Piped::Ended(end) => self.state.backfill_ended(end),
            Piped::Chunk(chunk) => {
                slice.spend_items(chunk.read.events.len());
                self.state.backfilled(chunk.read);
            }
            Piped::Opened(watermarks) => {
                let is_disk_only = self.state.admitted().is_disk_only;
                let (core, held) = (Arc::clone(&self.links.core), watermarks.high_seqno);
                let mut registered = None;
                if !is_disk_only {
                    match core.register_stream(&self.name, held, self.links.past) {
                        Ok((cursor, made)) => {
                            self.cursor = Some(cursor);
                            registered = Some(made);
                        }
                        Err(broken) => self.broken(broken),
                    }
                }
                self.state.opened(&watermarks, registered);
            }
        }
        self.let_go();
        Moved::On
    }

    fn take_logged(&mut self, items_max: usize, slice: &mut Slice) -> Moved {
        let Some(cursor) = &self.cursor else {
            self.state.cursor_dropped();
            return Moved::On;
        };
        let bytes_max = usize::try_from(self.window.room()).unwrap_or(usize::MAX);
        let limits = TakeLimits {
            items_max,
            bytes_max,
        };
        let taken = self
            .links
            .core
            .take_for_stream(cursor, self.links.past, limits);
        match taken {
            Ok(taken) if taken.items.is_empty() => return Moved::Nowhere,
            Ok(taken) => {
                // Those it is not for cost time, too.
                slice.spend_items(taken.items.len());
                let is_all = !taken.more;
                self.state.taken(taken);
                self.let_go();
                if is_all && self.state.want() == Want::Log {
                    return Moved::ToTheEnd;
                }
                return Moved::On;
            }
            Err(broken) => self.broken(broken),
        }
        self.let_go();
        Moved::On
    }

    /// Nothing can be sent: if much waits behind the cursor, the cursor goes, and with it what it keeps in memory.
    fn lag(&mut self, slice: &mut Slice) {
        let is_behind = |cursor: &StreamCursor| self.links.core.is_far_behind(cursor);
        if !self.cursor.as_ref().is_some_and(is_behind) {
            return;
        }
        if self.state.is_backfilling() {
            // Another backfill follows this one.
            return self.drop_cursor();
        }
        // The end that was told must be delivered: at most the rest of one checkpoint is kept for that.
        while !self.state.may_drop_cursor() && self.state.want() == Want::Log {
            if let Moved::Nowhere = self.take_logged(1, slice) {
                return;
            }
        }
        if self.state.may_drop_cursor() {
            self.drop_cursor();
        }
    }

    fn drop_cursor(&mut self) {
        self.cursor = None;
        self.links.core.note_cursors_dropped(1);
        self.state.cursor_dropped();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.is_over {
            self.state.disconnect();
            let (events, bytes) = self.state.take_output(0);
            // What it was not told, it asks for when it comes back.
            let batch = StreamBatch {
                vbucket: self.vbucket,
                stream: self.id,
                events,
                bytes,
            };
            let sink = std::mem::replace(&mut self.sink, Box::new(Nobody));
            self.links.farewells.say(sink, batch);
        }
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live")
            .field("id", &self.id)
            .field("vbucket", &self.vbucket)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
