//! What one step of a backfill reads: each item is judged, and told as its stream is to tell it, or passed over.
//!
//! Invariant: nothing of a collection's life that is over is told, nor a prepare that is; the value of a document that is
//! for others is not copied. Made by a step of a [`Backfill`](super::Backfill), which looks at what came of it.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::BackfillRequest;
use crate::backfill::pipe::Chunk;
use crate::stream::as_written;
use messages::FailureCause;
use storage::{DroppedCollection, Item, ItemView, Namespace, Operation, Seqno, StorageError};

/// What is read in one step.
pub(super) struct Reading<'r> {
    request: &'r mut BackfillRequest,
    /// Prepares up to here are over.
    completed: Seqno,
    /// What is nobody's any more.
    dropped: &'r [DroppedCollection],
    pub(super) chunk: Chunk,
    /// Items the scan gave.
    pub(super) items: u64,
    /// Why one of them could not be taken.
    pub(super) bad: Option<FailureCause>,
}

impl<'r> Reading<'r> {
    pub(super) fn new(
        request: &'r mut BackfillRequest,
        completed: Seqno,
        dropped: &'r [DroppedCollection],
    ) -> Reading<'r> {
        Reading {
            request,
            completed,
            dropped,
            chunk: Chunk::default(),
            items: 0,
            bad: None,
        }
    }

    pub(super) fn visit(&mut self, view: ItemView<'_>) -> ControlFlow<()> {
        self.items = self.items.saturating_add(1);
        self.chunk.read.up_to = view.seqno;
        let mut item = match view.to_item(Bytes::new()) {
            Ok(item) => item,
            Err(cause) => {
                self.bad = Some(StorageError::Key(cause).into());
                return ControlFlow::Break(());
            }
        };
        // What tells the end of a prepare may be purged, or lie in another snapshot: one that is over is told to nobody
        // (MB-35695, MB-44079, MB-49767). Its abort is: who has the prepare waits for that.
        let is_over =
            matches!(item.operation, Operation::Prepare { .. }) && view.seqno <= self.completed;
        // The value of a document that is for others is not copied; an event's says whose it is.
        let is_event = view.namespace() == Namespace::SystemEvent;
        if !is_event && self.was_dropped(&item) {
            self.skip(false);
            return ControlFlow::Continue(());
        }
        let filter = &self.request.filter;
        let is_hidden = view.namespace() == Namespace::Prepared
            && (is_over || !filter.is_synchronous())
            && filter.has(item.document.key.collection());
        if is_hidden {
            self.skip(true);
            return ControlFlow::Continue(());
        }
        // On disk a commit is the document it left.
        item.operation = as_written(item.operation);
        if is_event || self.request.filter.passes(&item) {
            item.document.value = Bytes::copy_from_slice(view.value);
        }
        if !self.request.filter.passes(&item) {
            self.skip(false);
            return ControlFlow::Continue(());
        }
        self.request.filter.follow_item(&item);
        self.chunk.bytes = self.chunk.bytes.saturating_add(item.user_bytes());
        let item = self.request.core.charged_for_stream(item);
        if let Some(event) = self.request.filter.event_of(item) {
            let read = &mut self.chunk.read;
            read.last = view.seqno;
            read.events.push(event.into());
        }
        ControlFlow::Continue(())
    }

    fn was_dropped(&self, item: &Item) -> bool {
        let (collection, seqno) = (item.document.key.collection(), item.seqno);
        let mut dropped = self.dropped.iter();
        dropped.any(|one| one.collection == collection && one.start <= seqno && seqno < one.end)
    }

    fn skip(&mut self, is_invisible: bool) {
        let skipped = &mut self.chunk.read.skipped;
        skipped.items = skipped.items.saturating_add(1);
        skipped.has_invisible |= is_invisible;
    }
}
