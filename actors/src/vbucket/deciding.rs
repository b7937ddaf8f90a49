//! What is decided about durable writes is done here: committed, or given up.
//!
//! Invariant: done in the order it was decided, which is that of the prepares, each as one change of the vbucket (rule
//! R16) under its lock; nothing is done while the vbucket may not write, and nothing is lost by that. Called by whoever
//! drives durable writes, never from inside a client's call (MB-34228).

use std::sync::Arc;
use std::time::Duration;

use super::core::VbucketCore;
use super::fault::ChangeStep;
use super::lock::Locked;
use super::moment::Now;
use super::prepares::Newest;
use super::status::Status;
use crate::durability::{Monitor, Prepare, Settled, Verdict};
use messages::OperationError;
use storage::{Item, MemoryToken, Operation, Predecessor, Seqno, VbucketState};

/// How far the work on what is decided is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct DurabilityProgress {
    /// Something is decided and not done yet.
    pub has_more: bool,
    /// When to come back (monotonic), if nothing happens before.
    pub next_tick: Option<Duration>,
}

impl VbucketCore {
    /// Gives up what is overdue at `now` (monotonic), and does up to `max` of what is decided, in order. Clients are answered
    /// outside the lock. Of a vbucket that may not write now nothing is done; it is marked again when it may.
    pub fn do_durability(&self, now: Duration, max: usize) -> DurabilityProgress {
        let mut locked = self.lock();
        let hold_ends = self.end_hold_at(&mut locked, now);
        if !self.may_decide(&locked) {
            let overdue = hold_ends.and_then(|_| locked.answer_overdue(now));
            let next_tick = hold_ends.into_iter().chain(overdue).min();
            locked.durable.armed = next_tick;
            return DurabilityProgress {
                has_more: false,
                next_tick,
            };
        }
        // What the bucket dropped is dropped here before anything of it is committed.
        self.follow_when_writable(&mut locked);
        tick(&mut locked, now);
        for _ in 0..max {
            let Monitor::Active(active) = &locked.durable.monitor else {
                break;
            };
            let Some(decision) = active.next_decision() else {
                break;
            };
            let (prepare, verdict) = (decision.prepare().clone(), decision.verdict());
            self.reached(ChangeStep::Locked);
            if !self.carry_out(&mut locked, &prepare, verdict) {
                locked.suspect();
                break;
            }
        }
        progress(&mut locked)
    }

    fn may_decide(&self, locked: &Locked<'_>) -> bool {
        let hindered = Status::SUSPECT | Status::DOWN | Status::CLOSED;
        let is_hindered = self.status().has(hindered | Status::WARMING | Status::HELD);
        !is_hindered && locked.identity.state == VbucketState::Active
    }

    /// Does what was decided of one prepare; `false` where memory and monitor fell apart.
    fn carry_out(&self, locked: &mut Locked<'_>, prepare: &Prepare, verdict: Verdict) -> bool {
        let is_open = self.collections.read().has(&prepare.key, prepare.seqno);
        if !is_open {
            return self.let_go(locked, prepare);
        }
        let found = self.prepares.open_of(&prepare.key, prepare.seqno);
        let Some(prepared) = found.filter(|item| item.seqno == prepare.seqno) else {
            tracing::error!(vbucket = %self.id, seqno = %prepare.seqno, "no such prepare");
            return false;
        };
        let (settled, older) = match verdict {
            Verdict::Commit { .. } => {
                let place = self.map.place(prepare.key.as_encoded());
                let key = prepare.key.as_encoded();
                let older = self.map.read(place, key, |older| older.meta().seqno);
                (Settled::Committed, older)
            }
            Verdict::Abort => (Settled::Aborted, Some(prepare.seqno)),
        };
        let token = self.memory.charge(super::memory::charged_bytes(&prepared));
        let mut item = completion(&prepared, verdict, self.now(), token);
        item.seqno = locked.log.last_seqno().next();
        let place = self.map.place(prepare.key.as_encoded());
        let Ok(item) = self.commit_active(locked, place, Arc::new(item), older) else {
            return false;
        };
        if !settle(locked, prepare.seqno, settled) {
            return false;
        }
        self.reached(ChangeStep::Tracked);
        let answer = match settled {
            Settled::Committed => Ok(self.mutated(locked, &item)),
            Settled::Aborted | Settled::CollectionGone => Err(OperationError::SyncWriteAmbiguous),
        };
        locked.complete(prepare.seqno, answer);
        true
    }

    /// The collection it was prepared in is gone: nothing is written (MB-43176), and whoever waits is told (MB-72478).
    fn let_go(&self, locked: &mut Locked<'_>, prepare: &Prepare) -> bool {
        let newest = Newest {
            abort: None,
            open_start: locked.log.open_start(),
        };
        let behind = prepare.seqno.next();
        self.prepares
            .end(&prepare.key, behind, newest, &self.memory);
        if !settle(locked, prepare.seqno, Settled::CollectionGone) {
            return false;
        }
        let manifest_uid = self.collections.read().manifest().uid;
        let gone = OperationError::UnknownCollection { manifest_uid };
        locked.complete(prepare.seqno, Err(gone));
        true
    }
}

/// Gives up what is overdue and first in line; who else is overdue has waited long enough.
fn tick(locked: &mut Locked<'_>, now: Duration) {
    let Monitor::Active(active) = &mut locked.durable.monitor else {
        return;
    };
    for overdue in active.tick(now) {
        if let Some(reply) = locked.durable.ledger.answer_early(overdue) {
            locked.answer_later(reply, Err(OperationError::SyncWriteAmbiguous));
        }
    }
}

fn settle(locked: &mut Locked<'_>, seqno: Seqno, settled: Settled) -> bool {
    let Monitor::Active(active) = &mut locked.durable.monitor else {
        return false;
    };
    match active.settle(seqno, settled) {
        Ok(()) => {
            locked.durable.count(settled);
            true
        }
        Err(error) => {
            tracing::error!(%error, "the durability monitor is out of step");
            false
        }
    }
}

fn progress(locked: &mut Locked<'_>) -> DurabilityProgress {
    let Monitor::Active(active) = &locked.durable.monitor else {
        return DurabilityProgress::default();
    };
    let progress = DurabilityProgress {
        has_more: active.next_decision().is_some(),
        next_tick: active.next_tick(),
    };
    locked.durable.armed = progress.next_tick;
    locked.note_progress();
    progress
}

/// The item that ends a prepare: what it prepared, with its version, or its abort.
fn completion(prepared: &Item, verdict: Verdict, now: Now, token: MemoryToken) -> Item {
    let prepare_seqno = prepared.seqno;
    let deletes = matches!(
        prepared.operation,
        Operation::Prepare {
            is_deletion: true,
            ..
        }
    );
    let deleted_at = now.seconds;
    let mut document = prepared.document.clone();
    let operation = match verdict {
        Verdict::Commit { .. } if deletes => Operation::CommitDeletion {
            prepare_seqno,
            deleted_at,
        },
        Verdict::Commit { .. } => Operation::CommitMutation { prepare_seqno },
        Verdict::Abort => {
            document.value.clear();
            Operation::Abort {
                prepare_seqno,
                deleted_at,
            }
        }
    };
    Item {
        seqno: Seqno::ZERO,
        operation,
        predecessor: Predecessor::Unknown,
        document,
        token,
    }
}
