//! What a change of role, a panic or a rollback means for durable writes.
//!
//! Invariant: the monitor is of the role the vbucket has; whoever waits for what nobody decides any more is answered once the
//! lock is free. Called by whoever changes what the vbucket is, and by whoever repairs it.

use std::collections::BTreeMap;

use super::{chains_of, has_prepares};
use crate::durability::{
    Monitor, Outstanding, Settled, SnapshotEnd, Standing, high_prepared_on_disk,
};
use crate::vbucket::announced::Announced;
use crate::vbucket::core::{Inner, VbucketCore};
use crate::vbucket::durability::Durable;
use crate::vbucket::lock::Locked;
use messages::OperationError;
use storage::{CollectionId, Item, Operation, Seqno, VbucketState, Watermarks};

impl VbucketCore {
    /// Does what a change of identity means for durable writes. Nothing, if neither state nor topology is another.
    pub(in crate::vbucket) fn follow_role(&self, locked: &mut Locked<'_>) {
        let state = locked.identity.state;
        if locked.durable.role != state {
            let standing = standing(locked);
            self.change_role(locked);
            locked.durable.monitor.become_state(state, &standing);
            locked.durable.role = state;
        }
        let topology = chains_of(&locked.identity.topology);
        let Durable {
            monitor, ledger, ..
        } = &mut locked.durable;
        if let Monitor::Active(active) = monitor
            && active.chains() != topology.as_ref()
        {
            ledger.set_chains(topology.as_ref());
            active.set_chains(topology);
        }
        locked.after_monitor();
    }

    /// Whoever waits is answered, and what is prepared may be committed elsewhere from now on. Nobody holds a lock any more.
    fn change_role(&self, locked: &mut Locked<'_>) {
        self.locks.clear();
        if locked.durable.role == VbucketState::Active {
            self.prepares.make_maybe_visible();
            let high = locked.log.last_seqno();
            locked.durable.announced.end_own(high);
            if self.had_an_end() {
                // What it had yet to decide of a collection that ended nobody decides now.
                self.ask_for_erasing();
            }
        }
        self.end_source(locked);
        let replies = locked.durable.ledger.begin_role();
        locked.answer_ambiguous(replies);
        locked.durable.armed = None;
    }

    /// Of an active vbucket whose prepares are known: nothing more comes of its source.
    pub(in crate::vbucket) fn end_source(&self, locked: &mut Locked<'_>) {
        if locked.identity.state == VbucketState::Active && !self.prepares.is_unloaded() {
            let end = self.end_of_source(locked);
            locked.durable.announced.end_source(end);
        }
    }

    /// Where this vbucket stands when nothing more comes from its source.
    fn end_of_source(&self, inner: &Inner) -> SnapshotEnd {
        let high = inner.log.last_seqno();
        SnapshotEnd::cut(high, inner.durable.high_prepared(), self.over(inner))
    }

    /// Every prepare up to here is over.
    pub(in crate::vbucket) fn over(&self, inner: &Inner) -> Seqno {
        if self.prepares.is_unloaded() {
            return Seqno::ZERO;
        }
        let high = inner.log.last_seqno();
        let going_on = self.prepares.first_open().unwrap_or(high.next());
        Seqno(going_on.0.saturating_sub(1))
    }

    /// Makes the monitor anew from what outlives it, and answers whoever waits for what is not under way.
    pub(in crate::vbucket) fn rebuild_monitor(&self, locked: &mut Locked<'_>) {
        let state = locked.identity.state;
        if locked.durable.role != state {
            self.change_role(locked);
            locked.durable.role = state;
        }
        let outstanding = self.outstanding(locked);
        let standing = standing(locked);
        let chains = chains_of(&locked.identity.topology);
        let Durable {
            monitor, ledger, ..
        } = &mut locked.durable;
        let in_vain = ledger.complete_all_but(&outstanding.prepares);
        *monitor = Monitor::rebuild(state, chains, outstanding, &standing, ledger);
        locked.durable.armed = None;
        locked.answer_ambiguous(in_vain);
        locked.after_monitor();
    }

    /// The store went back to this: what was prepared since is not, and what it holds is to be loaded anew. Whatever is
    /// prepared in memory goes, on disk or not (MB-36423).
    pub(in crate::vbucket) fn reset_durability(
        &self,
        locked: &mut Locked<'_>,
        watermarks: &Watermarks,
    ) {
        self.prepares.clear(has_prepares(watermarks));
        let durable = &mut locked.durable;
        durable.views.forget();
        durable.ledger.roll_back(high_prepared_on_disk(watermarks));
        durable.high_completed = watermarks.completed_seqno;
        durable.announced = Announced::stored(watermarks);
        self.rebuild_monitor(locked);
    }

    /// A completion is in the log that nobody told the monitor of: a panic came between.
    pub(in crate::vbucket) fn note_unfinished(&self, locked: &mut Locked<'_>, item: &Item) {
        let (prepare, answer) = match item.operation {
            Operation::CommitMutation { prepare_seqno }
            | Operation::CommitDeletion { prepare_seqno, .. } => {
                locked.durable.count(Settled::Committed);
                (prepare_seqno, Ok(self.mutated(locked, item)))
            }
            Operation::Abort { prepare_seqno, .. } => {
                locked.durable.count(Settled::Aborted);
                (prepare_seqno, Err(OperationError::SyncWriteAmbiguous))
            }
            Operation::Mutation
            | Operation::Deletion { .. }
            | Operation::Prepare { .. }
            | Operation::SystemEventBegin
            | Operation::SystemEventEnd => return,
        };
        let completed = &mut locked.durable.high_completed;
        *completed = prepare.max(*completed);
        locked.complete(prepare, answer);
    }

    fn outstanding(&self, inner: &Inner) -> Outstanding {
        let prepares = self.prepares.outstanding();
        let mut dropped: BTreeMap<CollectionId, Seqno> = BTreeMap::new();
        let collections = self.collections.read();
        for prepare in &prepares {
            let id = prepare.key.collection();
            if !collections.has(&prepare.key, prepare.seqno) {
                let anew = collections.opened(id);
                dropped.insert(id, anew.map_or(Seqno::MAX, |opened| opened.start));
            }
        }
        Outstanding {
            prepares,
            high_prepared: high_prepared_on_disk(inner.flushed.persisted()),
            high_completed: inner.durable.high_completed,
            whole: inner.durable.announced.whole(),
            dropped,
        }
    }
}

fn standing(inner: &Inner) -> Standing {
    Standing {
        high_seqno: inner.log.last_seqno(),
        persisted: inner.flushed.settled(),
        is_behind_disk: inner.durable.announced.is_behind_disk(),
        requirements: inner.durable.requirements,
    }
}
