//! Durable writes of the active vbucket, as they come to a replica: prepared, ended, and acknowledged as far as they are
//! held.
//!
//! Invariant: what does not fit what came before is refused before anything is done about it; what fits is in the log, in
//! memory and with the monitor in one step. From memory prepares end in their order, each named; from disk in any, a
//! commit as the document it made (MB-34946).

use std::sync::Arc;

use super::core::{Inner, VbucketCore};
use super::fault::ChangeStep;
use super::lock::Locked;
use super::prepares::prepare_of;
use super::replica::bad_replication;
use crate::durability::{
    Completion, CompletionOrder, Monitor, PassiveMonitor, Prepare, SnapshotEnd,
};
use messages::OperationError;
use storage::{DocumentKey, Item, Operation, Seqno, VbucketState};

/// What the monitor is to be told of an item.
#[derive(Debug)]
pub(super) enum Told {
    Nothing,
    Prepare {
        prepare: Prepare,
        replaces: Option<Seqno>,
    },
    End {
        key: DocumentKey,
        completion: Completion,
        order: CompletionOrder,
    },
}

impl Told {
    /// The end of the prepare of this item's key.
    fn end(item: &Item, completion: Completion, order: CompletionOrder) -> Told {
        Told::End {
            key: item.document.key.clone(),
            completion,
            order,
        }
    }
}

impl VbucketCore {
    /// Whether an item fits the prepares there are, and what the monitor is to be told once it is in the log.
    pub(super) fn fits_prepares(&self, inner: &Inner, item: &Item) -> Result<Told, OperationError> {
        let key = &item.document.key;
        let announced = &inner.durable.announced;
        match item.operation {
            Operation::Prepare { .. } => {
                let before = self.prepare_in_force(key).map(|item| item.seqno);
                if let Some(before) = before.filter(|before| !announced.may_replace(*before)) {
                    let why = format!("the prepare {before} of the key is not over");
                    return Err(bad_replication(&why));
                }
                let prepare = prepare_of(item);
                Ok(prepare.map_or(Told::Nothing, |prepare| Told::Prepare {
                    prepare,
                    replaces: before,
                }))
            }
            Operation::Abort { prepare_seqno, .. } => {
                let order = self.order_of(inner, key, prepare_seqno)?;
                Ok(Told::end(item, Completion::Abort, order))
            }
            Operation::CommitMutation { prepare_seqno }
            | Operation::CommitDeletion { prepare_seqno, .. }
                if !announced.is_disk() =>
            {
                let order = self.order_of(inner, key, prepare_seqno)?;
                Ok(Told::end(item, Completion::Commit, order))
            }
            Operation::Mutation
            | Operation::Deletion { .. }
            | Operation::CommitMutation { .. }
            | Operation::CommitDeletion { .. } => self.fits_document(inner, item),
            Operation::SystemEventBegin | Operation::SystemEventEnd => Ok(Told::Nothing),
        }
    }

    /// A document over a prepare that is not over is its commit, in a disk snapshot; elsewhere there is none.
    fn fits_document(&self, inner: &Inner, item: &Item) -> Result<Told, OperationError> {
        match self.prepare_in_force(&item.document.key) {
            None => Ok(Told::Nothing),
            Some(_) if inner.durable.announced.is_disk() => {
                let order = CompletionOrder::Unordered;
                Ok(Told::end(item, Completion::Commit, order))
            }
            Some(prepare) => {
                let why = format!("the prepare {} of the key is not over", prepare.seqno);
                Err(bad_replication(&why))
            }
        }
    }

    /// In what order a prepare that is named may end here.
    fn order_of(
        &self,
        inner: &Inner,
        key: &DocumentKey,
        prepare: Seqno,
    ) -> Result<CompletionOrder, OperationError> {
        if inner.durable.announced.is_disk() {
            return Ok(CompletionOrder::Unordered);
        }
        let order = CompletionOrder::Ordered(prepare);
        let Monitor::Passive(passive) = &inner.durable.monitor else {
            return Err(OperationError::Crashed { vbucket: self.id });
        };
        let fits = passive.check(key, order);
        fits.map_err(|error| bad_replication(&error))?;
        Ok(order)
    }

    /// The prepare of this key that is not over, of the life its collection has now.
    fn prepare_in_force(&self, key: &DocumentKey) -> Option<Arc<Item>> {
        if self.prepares.open() == 0 {
            return None;
        }
        let opened = self.collections.read().opened(key.collection());
        let start = opened.map_or(Seqno::ZERO, |opened| opened.start);
        self.prepares.open_of(key, start)
    }

    /// An item is in the log that was looked at before.
    pub(super) fn tell_passive(
        &self,
        locked: &mut Locked<'_>,
        told: Told,
    ) -> Result<(), OperationError> {
        let Monitor::Passive(passive) = &mut locked.durable.monitor else {
            return Ok(());
        };
        let is_prepare = matches!(told, Told::Prepare { .. });
        let done = match told {
            Told::Nothing => return Ok(()),
            Told::Prepare { prepare, replaces } => passive.prepare(prepare, replaces),
            Told::End {
                key,
                completion,
                order,
            } => passive.complete(&key, completion, order),
        };
        if let Err(error) = done {
            // It is in the log: whoever makes the monitor anew finds it there.
            tracing::error!(vbucket = %self.id, %error, "the durability monitor is out of step");
            locked.suspect();
            return Err(OperationError::Crashed { vbucket: self.id });
        }
        if is_prepare {
            locked.durable.announced.note_prepare();
        }
        self.reached(ChangeStep::Tracked);
        locked.after_monitor();
        Ok(())
    }
}

impl Locked<'_> {
    /// An item of the source came; it may complete its snapshot.
    pub(super) fn note_received(&mut self, seqno: Seqno) {
        self.snapshots.note_received(seqno);
        let end = self.durable.announced.received(seqno);
        tell_end(self, end);
    }

    /// The newest item of the source may have completed its snapshot without anybody noting that. The monitor is not told:
    /// it is to be made anew.
    pub(super) fn note_last_received(&mut self) {
        match self.identity.state {
            VbucketState::Replica | VbucketState::Pending => {
                let high = self.log.last_seqno();
                self.snapshots.note_received(high);
                let _end = self.durable.announced.received(high);
            }
            VbucketState::Active | VbucketState::Dead => {}
        }
    }

    /// The snapshot under way came to its end, which is no item.
    pub(super) fn note_snapshot_end(&mut self) {
        let high = self.log.last_seqno();
        self.snapshots.end_source(high);
        let end = self.durable.announced.end_at(high);
        tell_end(self, end);
    }
}

fn tell_end(locked: &mut Locked<'_>, end: Option<SnapshotEnd>) {
    let Some(end) = end else { return };
    if let Monitor::Passive(passive) = &mut locked.durable.monitor {
        passive.snapshot_end(end);
        locked.after_monitor();
    }
}

/// Newest prepare a replica knows.
pub(super) fn last_tracked(monitor: &Monitor) -> Seqno {
    match monitor {
        Monitor::Passive(passive) => PassiveMonitor::last_tracked(passive),
        Monitor::Active(_) | Monitor::Dead(_) => Seqno::ZERO,
    }
}
