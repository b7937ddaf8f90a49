//! Cursors: where the readers of the log stand.
//!
//! Invariant: a cursor names the next slot to read, never the last one read, so an entry that is deduplicated away
//! moves no cursor. All that must follow is the figure of what it has yet to read.

use std::fmt::{Display, Formatter};
use std::sync::Arc;

use storage::Seqno;

use super::chain::Place;

/// Name of a cursor, unique in its log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorName(Arc<str>);

impl CursorName {
    /// The cursor called `name`.
    #[must_use]
    pub fn new(name: &str) -> CursorName {
        CursorName(name.into())
    }
}

impl Display for CursorName {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One registration of a cursor; never used twice in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorId(pub(super) u64);

impl CursorId {
    /// The flush cursor, which every log has from its beginning to its end.
    pub const FLUSH: CursorId = CursorId(0);
}

impl Display for CursorId {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Who reads through a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorKind {
    /// The flusher: sees changes of identity, and may be taken back to what the store holds. Never dropped.
    Flush,
    /// The durability monitor. Never dropped.
    DurabilityMonitor,
    /// A stream: what it was told of a snapshot stays true until it has read it.
    Stream {
        /// Whether its client allowed that it be dropped to free memory.
        droppable: bool,
    },
}

/// A reader's place and what it knows.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) id: CursorId,
    pub(super) name: CursorName,
    pub(super) kind: CursorKind,
    /// The next slot to read.
    pub(super) at: Place,
    /// Of the flush cursor: the first slot not known to be persisted.
    pub(super) held: Place,
    /// Whether it read an item of the checkpoint it stands in, or was registered past its beginning.
    pub(super) begun: bool,
    /// Everything up to here the reader holds.
    pub(super) seen: Seqno,
    /// The snapshot a stream was last told; it is inside of it while `seen` lies below the end.
    pub(super) told: Told,
    /// Of all items ever queued, how many it has not to read any more.
    pub(super) items_done: u64,
    /// The same of the changes of identity.
    pub(super) identities_done: u64,
}

/// A snapshot as told to a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) start: Seqno,
    pub(super) end: Seqno,
    /// The source gave the snapshot up; `end` was higher when the stream was told.
    pub(super) was_cut: bool,
}

impl Cursor {
    /// The first slot this reader may still ask for.
    pub(super) fn needs(&self) -> Place {
        match self.kind {
            CursorKind::Flush => self.held,
            CursorKind::DurabilityMonitor | CursorKind::Stream { .. } => self.at,
        }
    }

    pub(super) fn is_flush(&self) -> bool {
        self.kind == CursorKind::Flush
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self.kind, CursorKind::Stream { .. })
    }

    pub(super) fn is_droppable(&self) -> bool {
        matches!(self.kind, CursorKind::Stream { droppable: true })
    }

    pub(super) fn is_inside_told(&self) -> bool {
        self.seen < self.told.end
    }

    /// Whether the reader was told of a snapshot that holds `seqno` and has yet to read it.
    pub(super) fn was_promised(&self, seqno: Seqno) -> bool {
        self.seen < seqno && seqno <= self.told.end
    }
}

/// All cursors of a log.
#[derive(Debug)]
pub(super) struct Cursors {
    pub(super) flush: Cursor,
    pub(super) readers: Vec<Cursor>,
}

impl Cursors {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Cursor> {
        std::iter::once(&self.flush).chain(&self.readers)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Cursor> {
        std::iter::once(&mut self.flush).chain(&mut self.readers)
    }

    pub(super) fn get(&self, id: CursorId) -> Option<&Cursor> {
        self.iter().find(|cursor| cursor.id == id)
    }

    pub(super) fn get_mut(&mut self, id: CursorId) -> Option<&mut Cursor> {
        self.iter_mut().find(|cursor| cursor.id == id)
    }
}
