//! Durable writes and panics at every step of them: what is in the log is tracked and in the table, whoever waits is
//! answered once, and everything goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::model::Ended;
use super::support::durable::{MAJORITY, acknowledge, answer, lead, leader, prepare};
use super::support::{Bench, become_state, id, key, set, value};
use super::{ChangeStep, Wanted, World, crashing};
use crate::durability::{Monitor, Prepare};
use crate::vbucket::{DurableWait, VbucketCore};
use messages::OperationError;
use messages::vbucket::Mutated;
use storage::{Namespace, Operation, Seqno, Snapshot, VbucketState};

/// What the monitor tracks and what the table has is the same.
pub(super) fn check(core: &VbucketCore) {
    let tracked: Vec<Prepare> = match core.monitor() {
        Monitor::Active(active) => {
            let decided = active.decisions().map(|one| one.prepare().clone());
            let undecided = active.undecided().cloned();
            let all: Vec<_> = decided.chain(undecided).collect();
            assert!(all.is_sorted_by_key(|one| one.seqno));
            assert!(active.last_committed() <= active.high_prepared());
            all
        }
        Monitor::Passive(passive) => passive.incomplete().cloned().collect(),
        Monitor::Dead(dead) => dead.incomplete().cloned().collect(),
    };
    let mut table = core.prepares.outstanding();
    table.sort_by_key(|one| one.seqno);
    assert_eq!(tracked, table);
    assert!(core.prepares.maybe_visible() <= core.prepares.open());
    assert_eq!(core.prepares.open(), table.len());
    assert!(core.lock().durable.ledger.waiting() <= table.len());
}

impl World {
    pub(super) fn write_durably(&mut self, wanted: Wanted, fault: Option<ChangeStep>) {
        let write = self.write(wanted);
        let core = &self.bench.core;
        let answer = crashing(core, fault, || core.write_durably(write.clone(), MAJORITY));
        let now = self.bench.clock.seconds();
        let mut after = self.model.clone();
        let expected = after.write_durably(wanted.name, &write, now);
        let is_changed = after.high != self.model.high;
        if let Some(answer) = answer {
            self.model = after;
            assert_eq!(answer.as_ref().err(), expected.as_ref().err());
            if let Ok(wait) = answer {
                self.waits.insert(self.model.high, wait);
            }
            return;
        }
        if is_changed && fault.is_some_and(happened) {
            self.model = after;
            self.learn_cas(wanted.name);
        }
        self.model.rebuild();
    }

    pub(super) fn acknowledge(&mut self, hundredths: u64) {
        let seqno = self.model.high.0 * hundredths / 100;
        acknowledge(&self.bench.core, "b", seqno);
        self.model.acknowledge(Seqno(seqno));
    }

    pub(super) fn decide(&mut self, max: usize, fault: Option<ChangeStep>) {
        let (core, now) = (&self.bench.core, self.bench.now());
        let crashed = crashing(core, fault, || core.do_durability(now, max)).is_none();
        let mut ended: Vec<_> = self
            .model
            .tick(self.bench.clock.seconds())
            .into_iter()
            .map(|seqno| (seqno, Ended::Unknown))
            .collect();
        let done = match (crashed, fault) {
            (true, Some(ChangeStep::Locked | ChangeStep::Noted)) => 0,
            (true, _) => 1,
            (false, _) => max,
        };
        for _ in 0..done {
            let Some((seqno, how)) = self.model.end_next() else {
                break;
            };
            ended.push((seqno, unless_told(how, crashed)));
        }
        if crashed {
            self.model.rebuild();
        }
        for (seqno, how) in ended {
            self.is_told(seqno, how);
        }
        let names: Vec<u8> = self.model.slots.keys().copied().collect();
        for name in names {
            self.learn_cas(name);
        }
    }

    pub(super) fn bounce(&mut self) {
        become_state(&self.bench.core, VbucketState::Replica);
        become_state(&self.bench.core, VbucketState::Active);
        lead(&self.bench.core, &["a", "b"]);
        self.model.bounce();
        let waiting: Vec<Seqno> = self.waits.keys().copied().collect();
        for seqno in waiting {
            self.is_told(seqno, Ended::Unknown);
        }
    }

    /// Whoever waits for this prepare, if somebody still does, is told that.
    fn is_told(&mut self, seqno: Seqno, how: Ended) {
        let Some(mut wait) = self.waits.remove(&seqno) else {
            return;
        };
        let told = answer(&mut wait).expect("told");
        let committed = told.as_ref().ok().map(|mutated| mutated.token.seqno);
        let is_unknown = told == Err(OperationError::SyncWriteAmbiguous);
        match how {
            Ended::Committed(seqno) => assert_eq!(committed, Some(seqno)),
            Ended::Unknown => assert!(is_unknown, "{told:?}"),
            Ended::PerhapsTold(seqno) => assert!(is_unknown || committed == Some(seqno)),
        }
    }

    /// What is under way is on disk, and nobody was told anything of it.
    pub(super) fn finish_durable(&self, snapshot: &dyn Snapshot) {
        for (seqno, pending) in &self.model.pending {
            let name = key(&format!("k{}", pending.name));
            let stored = snapshot.get(Namespace::Prepared, &name).unwrap().unwrap();
            assert_eq!(stored.seqno, *seqno);
            assert!(matches!(stored.operation, Operation::Prepare { .. }));
        }
        assert!(
            self.waits
                .keys()
                .all(|seqno| self.model.pending.contains_key(seqno))
        );
    }
}

fn unless_told(how: Ended, crashed: bool) -> Ended {
    match how {
        Ended::Committed(seqno) if crashed => Ended::PerhapsTold(seqno),
        Ended::Committed(_) | Ended::Unknown | Ended::PerhapsTold(_) => how,
    }
}

fn happened(point: ChangeStep) -> bool {
    !matches!(point, ChangeStep::Locked | ChangeStep::Noted)
}

#[test]
fn a_prepare_that_panics_is_tracked_if_it_is_in_the_log() {
    for point in ChangeStep::OF_DURABLE {
        let bench = leader(&["a", "b"]);
        let core = &bench.core;
        core.set(set("k", "before")).unwrap();
        let crashed = crashing(core, Some(point), || prepare(core, "k", "after"));
        assert!(crashed.is_none());
        check(core);
        let is_there = happened(point);
        let figures = core.durability_figures();
        assert_eq!(figures.prepares, usize::from(is_there), "{point:?}");
        assert_eq!(core.set(set("k", "other")).is_err(), is_there);
        assert_eq!(core.high_seqno(), Seqno(2));
        if is_there {
            // It has its deadline, though nobody waits.
            assert_eq!(value(core, "k").unwrap(), "before");
            bench.clock.advance(Duration::from_secs(31));
            bench.decide();
            check(core);
            assert_eq!(core.high_seqno(), Seqno(3));
            core.set(set("k", "other")).unwrap();
        }
    }
}

fn ends(wait: &mut DurableWait) -> Result<Mutated, OperationError> {
    answer(wait).expect("answered")
}

#[test]
fn a_commit_or_abort_that_panics_is_done_once() {
    for is_commit in [true, false] {
        for point in ChangeStep::OF_DURABLE {
            let bench = leader(&["a", "b"]);
            let core = &bench.core;
            core.set(set("x", "before")).unwrap();
            let mut first = prepare(core, "x", "after");
            let mut second = prepare(core, "y", "after");
            if is_commit {
                acknowledge(core, "b", 3);
            } else {
                bench.clock.advance(Duration::from_secs(31));
            }
            let now = bench.now();
            let crashed = crashing(core, Some(point), || core.do_durability(now, 9));
            assert!(crashed.is_none());
            check(core);
            let is_done = happened(point);
            assert_eq!(
                core.high_seqno(),
                Seqno(3 + u64::from(is_done)),
                "{point:?}"
            );
            bench.decide();
            check(core);
            assert_eq!(core.high_seqno(), Seqno(5), "each once");
            let expected = if is_commit { "after" } else { "before" };
            assert_eq!(value(core, "x").unwrap(), expected);
            let (first, second) = (ends(&mut first), ends(&mut second));
            let ambiguous = Err(OperationError::SyncWriteAmbiguous);
            if is_commit {
                assert!(first.is_ok() || first == ambiguous && is_done);
                assert_eq!(second.unwrap().token.seqno, Seqno(5));
            } else {
                assert_eq!((first, second), (ambiguous.clone(), ambiguous));
            }
            assert_eq!(core.durability_figures().prepares, 0);
        }
    }
}

#[test]
fn a_change_of_state_that_panics_answers_and_hides() {
    let bench = leader(&["a", "b"]);
    let core = &bench.core;
    core.set(set("k", "before")).unwrap();
    let mut wait = prepare(core, "k", "after");
    let role = core.role();
    core.panic_at(ChangeStep::Identified);
    let changed = catch_unwind(AssertUnwindSafe(|| {
        become_state(core, VbucketState::Replica);
    }));
    assert!(changed.is_err() && core.is_suspect());
    core.reconcile();
    check(core);
    assert_eq!(ends(&mut wait), Err(OperationError::SyncWriteAmbiguous));
    assert!(core.role() > role);
    assert!(matches!(core.monitor(), Monitor::Passive(_)));
    become_state(core, VbucketState::Active);
    assert_eq!(
        core.get(&key("k")),
        Err(OperationError::SyncWriteReCommitInProgress)
    );
}

#[test]
fn what_nodes_acknowledged_is_not_lost_to_a_panic() {
    let bench = leader(&["a", "b", "c"]);
    let core = &bench.core;
    let mut wait = prepare(core, "k", "1");
    acknowledge(core, "b", 1);
    let point = ChangeStep::Noted;
    assert!(crashing(core, Some(point), || core.set(set("other", ""))).is_none());
    bench.decide();
    assert!(ends(&mut wait).is_ok());
    lead(core, &["a"]);
    assert_eq!(core.id(), id());
}

#[test]
fn a_replica_that_panics_holds_what_it_held() {
    use super::support::durable::{committed, follower, from_memory, mutation, prepared};
    for point in ChangeStep::OF_DURABLE {
        let (bench, epoch): (Bench, _) = follower();
        let core = &bench.core;
        from_memory(core, epoch, &[prepared(1, "x"), prepared(2, "y")]);
        assert_eq!(core.prepared_to_acknowledge(epoch), Ok(Some(Seqno(2))));
        let snapshot = crate::vbucket::checkpoint::ReplicaSnapshot::memory(Seqno(3), Seqno(9));
        core.apply_marker(epoch, &snapshot, true).unwrap();
        let crashed = crashing(core, Some(point), || {
            core.apply_item(epoch, committed(3, "x", 1))
        });
        // A replica's change has no step under the lock before it is noted.
        if point == ChangeStep::Locked {
            assert!(crashed.is_some());
            continue;
        }
        assert!(crashed.is_none(), "{point:?}");
        check(core);
        assert!(core.durability_figures().high_prepared >= Seqno(2));
        // The reconciled vbucket has a new epoch; its source sends what is missing.
        let again = core.begin_stream().unwrap();
        let mut rest = Vec::new();
        if !happened(point) {
            rest.push(committed(3, "x", 1));
        }
        rest.push(committed(4, "y", 2));
        rest.push(mutation(5, "x"));
        from_memory(core, again, &rest[..1]);
        for one in &rest[1..] {
            from_memory(core, again, std::slice::from_ref(one));
        }
        check(core);
        assert_eq!(core.durability_figures().prepares, 0);
    }
}

/// The end of its snapshot that nobody noted is noted: its source has nothing more to send.
#[test]
fn a_replica_that_panics_at_the_end_of_a_snapshot_holds_all_of_it() {
    use super::support::durable::{committed, follower, from_memory, mutation, prepared};
    use crate::vbucket::checkpoint::ReplicaSnapshot;
    for is_disk in [false, true] {
        for point in ChangeStep::OF_DURABLE
            .into_iter()
            .filter(|one| happened(*one))
        {
            let (bench, epoch): (Bench, _) = follower();
            let core = &bench.core;
            from_memory(core, epoch, &[prepared(1, "x")]);
            let (snapshot, first) = if is_disk {
                let snapshot = ReplicaSnapshot::disk(Seqno(2), Seqno(5), Seqno(1));
                (snapshot, mutation(3, "x"))
            } else {
                let snapshot = ReplicaSnapshot::memory(Seqno(2), Seqno(5));
                (snapshot, committed(3, "x", 1))
            };
            core.apply_marker(epoch, &snapshot, true).unwrap();
            core.apply_item(epoch, first).unwrap();
            let last = prepared(5, "y");
            assert!(crashing(core, Some(point), || core.apply_item(epoch, last)).is_none());
            check(core);
            let again = core.begin_stream().unwrap();
            let held = if is_disk { Seqno(1) } else { Seqno(5) };
            assert_eq!(
                core.prepared_to_acknowledge(again),
                Ok(Some(held)),
                "{is_disk} {point:?}"
            );
            let mut stored = storage::Watermarks::default();
            while let Some(take) = core.take_for_flush(9, usize::MAX) {
                stored = take.watermarks;
                core.note_persisted(stored.high_seqno);
            }
            assert_eq!(stored.completed_seqno, Seqno(1));
            assert_eq!(stored.high_prepared_seqno, Seqno(5));
            assert_eq!(core.durability_figures().high_prepared, Seqno(5));
        }
    }
}

#[test]
fn a_vbucket_that_is_not_active_keeps_no_word() {
    let bench = leader(&["a", "b"]);
    let core = &bench.core;
    let heard = || core.lock().durable.ledger.nodes_heard();
    acknowledge(core, "b", 0);
    assert_eq!(heard(), 1);
    for state in [
        VbucketState::Replica,
        VbucketState::Pending,
        VbucketState::Dead,
    ] {
        become_state(core, state);
        acknowledge(core, "whoever", 0);
        assert_eq!(heard(), 0, "{state:?}");
    }
}
