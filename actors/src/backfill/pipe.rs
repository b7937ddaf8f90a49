//! Between the reader of a backfill and its stream: what was read, and how it ended.
//!
//! Invariant: a reader puts, a stream takes, neither waits for the other; the end is seen behind everything that was
//! read before it, but for an end that is not a completion, behind which nothing that was read counts any more. The first
//! end counts, unless it is a completion whose end nobody comes for.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::stream::{BackfillEnd, Read};
use storage::{Seqno, Watermarks};

/// Some of what was read.
#[derive(Debug, Default)]
pub struct Chunk {
    /// What its stream sends of it.
    pub read: Read,
    /// What the items count in the consumer's buffer.
    pub bytes: u64,
}

/// What a stream finds.
#[derive(Debug)]
pub enum Piped {
    /// The snapshot was opened: it stands at these watermarks.
    Opened(Box<Watermarks>),
    /// Something was read.
    Chunk(Chunk),
    /// It is over.
    Ended(BackfillEnd),
    /// Nothing yet.
    Nothing,
}

/// The pipe.
pub struct Pipe {
    inner: Mutex<Inner>,
    is_cancelled: AtomicBool,
    /// Tells the stream to look.
    nudge: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug, Default)]
struct Inner {
    opened: Option<Box<Watermarks>>,
    chunks: VecDeque<Chunk>,
    end: Option<BackfillEnd>,
    waits_for: Option<Seqno>,
}

impl Pipe {
    /// An empty pipe; `nudge` has its stream look at it, from any thread, and never blocks.
    #[must_use]
    pub fn new(nudge: impl Fn() + Send + Sync + 'static) -> Pipe {
        Pipe {
            inner: Mutex::default(),
            is_cancelled: AtomicBool::new(false),
            nudge: Box::new(nudge),
        }
    }

    /// The next thing in it.
    #[must_use]
    pub fn take(&self) -> Piped {
        let mut inner = self.inner.lock();
        match inner.end {
            Some(BackfillEnd::Complete(_)) | None => {}
            // What was read no longer counts; it is freed by `drain`.
            Some(end) => return Piped::Ended(end),
        }
        if let Some(watermarks) = inner.opened.take() {
            return Piped::Opened(watermarks);
        }
        if let Some(chunk) = inner.chunks.pop_front() {
            return Piped::Chunk(chunk);
        }
        inner.end.map_or(Piped::Nothing, Piped::Ended)
    }

    /// How it ended, if that was no completion.
    #[must_use]
    pub fn broken(&self) -> Option<BackfillEnd> {
        let end = self.inner.lock().end;
        end.filter(|end| !matches!(end, BackfillEnd::Complete(_)))
    }

    /// Throws away what is in it; how many bytes that were.
    #[must_use]
    pub fn drain(&self) -> u64 {
        let chunks = std::mem::take(&mut self.inner.lock().chunks);
        chunks.iter().map(|chunk| chunk.bytes).sum()
    }

    /// Its stream needs nothing more.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
    }

    /// Whether nobody needs what is read.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.lock().chunks.is_empty()
    }

    /// The seqno that must be on disk before it can begin, if it waits for one.
    #[must_use]
    pub fn waits_for(&self) -> Option<Seqno> {
        self.inner.lock().waits_for
    }

    pub(super) fn wait_for(&self, seqno: Option<Seqno>) {
        self.inner.lock().waits_for = seqno;
    }

    pub(super) fn open(&self, watermarks: &Watermarks) {
        self.inner.lock().opened = Some(Box::new(*watermarks));
        (self.nudge)();
    }

    pub(super) fn put(&self, chunk: Chunk) {
        self.inner.lock().chunks.push_back(chunk);
        (self.nudge)();
    }

    /// Nothing was taken for too long: what is left in it is not waited for any longer, also when it is all there is.
    pub(super) fn give_up(&self) {
        let mut inner = self.inner.lock();
        if let None | Some(BackfillEnd::Complete(_)) = inner.end
            && !inner.chunks.is_empty()
        {
            inner.end = Some(BackfillEnd::Slow);
        }
        drop(inner);
        (self.nudge)();
    }

    /// It is over; what was said first stays.
    pub(super) fn end(&self, end: BackfillEnd) {
        self.inner.lock().end.get_or_insert(end);
        (self.nudge)();
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe")
            .field("inner", &self.inner.lock())
            .field("is_cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}
