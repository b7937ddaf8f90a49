//! One change of one key, in the order of rule R16: noted, appended to the checkpoint log, put in the map, note cleared.
//!
//! Invariant: appending is the moment the change happens. Before it, a panic leaves nothing behind; after it, the note
//! and the log say what is missing in the map.

use std::sync::Arc;

use super::checkpoint::QueueError;
use super::core::{Inner, VbucketCore};
use super::document_map::Place;
use super::fault::ChangeStep;
use super::kept::Held;
use super::lock::Locked;
use super::prepares::Newest;
use super::status::Status;
use messages::OperationError;
use storage::{Item, Namespace, Operation, Predecessor, Seqno, VbucketState};

impl VbucketCore {
    /// Does a change of this vbucket's own. `item` has everything but its predecessor; the map holds `older` of its key.
    pub(super) fn commit_active(
        &self,
        locked: &mut Locked<'_>,
        place: Place,
        mut item: Arc<Item>,
        older: Option<Seqno>,
    ) -> Result<Arc<Item>, OperationError> {
        let disposition = locked.log.disposition(&item.operation, older);
        let predecessor = disposition.predecessor(older, self.predecessor_of_new(&item));
        Arc::make_mut(&mut item).predecessor = predecessor;
        self.note(locked, &item);
        let queued = locked.log.queue(Arc::clone(&item), older).map(drop);
        self.finish(locked, place, item, queued)
            .map_err(|error| self.out_of_step(locked, &error))
    }

    /// Does a change that came from the active vbucket.
    pub(super) fn commit_replica(
        &self,
        locked: &mut Locked<'_>,
        place: Place,
        mut item: Arc<Item>,
        older: Option<Seqno>,
    ) -> Result<(), QueueError> {
        let disposition = locked.log.disposition_of_replica(&item.operation, older);
        let predecessor = disposition.predecessor(older, self.predecessor_of_new(&item));
        Arc::make_mut(&mut item).predecessor = predecessor;
        self.note(locked, &item);
        let queued = locked.log.queue_replica(Arc::clone(&item), older);
        self.finish(locked, place, item, queued.map(drop)).map(drop)
    }

    /// What a key that is not in the map replaces in the store (rule R8). No system event is in the map, and of prepares
    /// only those that are not over.
    fn predecessor_of_new(&self, item: &Item) -> Predecessor {
        let is_known = item.namespace() == Namespace::Committed && self.map.is_complete();
        if is_known && !self.status().has(Status::WARMING) {
            Predecessor::Absent
        } else {
            Predecessor::Unknown
        }
    }

    fn note(&self, locked: &mut Locked<'_>, item: &Item) {
        locked.in_flight = Some(item.seqno);
        // A flusher that is told in vain finds nothing; one that is not told would wait.
        locked.note_change();
        self.reached(ChangeStep::Noted);
    }

    fn finish(
        &self,
        locked: &mut Locked<'_>,
        place: Place,
        item: Arc<Item>,
        queued: Result<(), QueueError>,
    ) -> Result<Arc<Item>, QueueError> {
        if let Err(error) = queued {
            locked.in_flight = None;
            return Err(error);
        }
        self.reached(ChangeStep::Appended);
        self.publish_high(locked);
        self.enter(locked, place, &item);
        self.reached(ChangeStep::Mapped);
        locked.in_flight = None;
        self.reached(ChangeStep::Cleared);
        Ok(item)
    }

    /// Puts an item that is in the log in the map, or among the prepares; a system event says what is open.
    pub(super) fn enter(&self, inner: &mut Inner, place: Place, item: &Arc<Item>) {
        self.cas.observe(item.document.cas);
        let abort = match item.operation {
            Operation::SystemEventBegin | Operation::SystemEventEnd => {
                return self.enter_event(inner, item);
            }
            Operation::Prepare { .. } => {
                let is_own = inner.identity.state == VbucketState::Active;
                return self.prepares.put(item, !is_own);
            }
            Operation::Abort { .. } => Some(item.seqno),
            Operation::Mutation
            | Operation::Deletion { .. }
            | Operation::CommitMutation { .. }
            | Operation::CommitDeletion { .. } => {
                self.enter_document(inner, place, item);
                None
            }
        };
        // Behind the document, so that no reader of a prepare that is over sees what was before it.
        let newest = Newest {
            abort,
            open_start: deduplicated_from(inner),
        };
        let key = &item.document.key;
        self.prepares.end(key, item.seqno, newest, &self.memory);
    }

    fn enter_document(&self, inner: &mut Inner, place: Place, item: &Arc<Item>) {
        if item.operation.is_tombstone() {
            inner.tombstones.note(item);
        }
        let before = self.map.put(place, Arc::clone(item));
        if let Some(before) = &before {
            before.hand_on_uses(item);
        }
        self.count_document(Held::Whole(item), before.as_ref());
        self.note_high(&item.document.key, item.seqno);
    }

    /// The log refused what this vbucket itself made: nothing was changed, and nothing more may be, until its memory
    /// was compared with its log.
    fn out_of_step(&self, locked: &mut Locked<'_>, error: &QueueError) -> OperationError {
        tracing::error!(vbucket = %self.id, %error, "the checkpoint log refused an own change");
        locked.suspect();
        OperationError::Crashed { vbucket: self.id }
    }
}

/// From where on the log must know the newest of a key. Nothing in a disk snapshot takes the place of anything.
fn deduplicated_from(inner: &Inner) -> Seqno {
    let (_, _, _, kind) = inner.log.open_snapshot();
    if kind.is_disk() {
        Seqno::MAX
    } else {
        inner.log.open_start()
    }
}
