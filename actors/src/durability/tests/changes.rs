//! A vbucket becomes something else, or the one who drove its monitor is made anew.

use super::*;

const ACTIVE: VbucketState = VbucketState::Active;
const REPLICA: VbucketState = VbucketState::Replica;
const PENDING: VbucketState = VbucketState::Pending;
const DEAD: VbucketState = VbucketState::Dead;

fn replica_with(prepares: &[Prepare], end: u64) -> Monitor {
    let mut monitor = fresh(REPLICA);
    let Monitor::Passive(passive) = &mut monitor else {
        panic!("a replica has a passive monitor");
    };
    for prepare in prepares {
        passive.prepare(prepare.clone(), None).unwrap();
    }
    passive.snapshot_end(SnapshotEnd::memory(Seqno(end)));
    monitor
}

/// MB-36102, MB-36372, MB-36563: what was decided and not done is undecided again, in its place; the new active's word
/// on it applies.
#[test]
fn mb_36102_mb_36372_mb_36563_a_decision_not_done_is_undone_when_the_active_leaves() {
    let mut active = active(&[&["a", "b"]]);
    for seqno in 1..=3 {
        active.track(prepare(seqno, Majority), LATER).unwrap();
    }
    active.acknowledge(&node("b"), Seqno(2));
    assert_eq!(decided(&active), [1, 2]);
    let monitor = become_state(Monitor::Active(active), REPLICA, &view(3, 0));
    let mut passive = passive_of(monitor);
    assert_eq!(incomplete(&passive), [1, 2, 3]);
    // It holds all of it, and says so.
    assert_eq!(passive.high_prepared(), Seqno(3));
    let order = CompletionOrder::Ordered(Seqno(1));
    passive
        .complete(&key("key 1"), Completion::Commit, order)
        .unwrap();
    assert_eq!(incomplete(&passive), [2, 3]);
    // Whoever is active next, nothing of it is given up: it may be committed elsewhere.
    let monitor = become_state(Monitor::Passive(passive), ACTIVE, &view(3, 0));
    let mut active = active_of(monitor);
    assert_eq!(active.tick(Duration::MAX), []);
    assert_eq!(undecided(&active), [2, 3]);
}

/// MB-41300, MB-35332: no high seqno moves when an active becomes a replica.
#[test]
fn mb_41300_mb_35332_high_seqnos_stay_through_every_change() {
    let mut active = active(&[&["a", "b"]]);
    for seqno in 1..=4 {
        active.track(prepare(seqno, Majority), LATER).unwrap();
    }
    active.acknowledge(&node("b"), Seqno(2));
    active.settle(Seqno(1), Settled::Committed).unwrap();
    active.settle(Seqno(2), Settled::Committed).unwrap();
    let mut monitor = Monitor::Active(active);
    for state in [DEAD, REPLICA, PENDING, ACTIVE, DEAD, ACTIVE, REPLICA] {
        monitor = become_state(monitor, state, &view(4, 0));
        assert_eq!(monitor.high_prepared(), Seqno(4), "{state:?}");
        assert_eq!(monitor.high_completed(), Seqno(2), "{state:?}");
    }
    assert_eq!(incomplete(&passive_of(monitor)), [3, 4]);
}

/// MB-34996, MB-70387: what a promoted replica inherited waits for a topology, however long, and is committed once there
/// is one; nothing of it is given up for time or topology.
#[test]
fn mb_34996_mb_70387_inherited_prepares_are_committed_again() {
    let monitor = replica_with(&[prepare(1, Majority), prepare(2, PersistToMajority)], 2);
    let monitor = become_state(monitor, PENDING, &view(2, 0));
    let mut active = active_of(become_state(monitor, ACTIVE, &view(2, 0)));
    assert_eq!(active.next_tick(), None);
    assert_eq!(active.tick(Duration::MAX), []);
    active.set_chains(chains(&[&["b", "", ""]]));
    assert_eq!(decided(&active), [0; 0]);
    active.set_chains(chains(&[&["b", "c", ""]]));
    active.acknowledge(&node("c"), Seqno(2));
    assert_eq!(decided(&active), [1]);
    active.note_persisted(Seqno(2));
    assert_eq!(decided(&active), [1, 2]);
}

/// A fault of the reference: without a topology its active went on over what was not on disk, and stopped at what was.
#[test]
fn without_a_topology_only_what_is_over_and_held_is_passed() {
    let prepares = [
        prepare(1, PersistToMajority),
        prepare(2, PersistToMajority),
        prepare(3, PersistToMajority),
    ];
    let mut monitor = replica_with(&prepares, 3);
    let Monitor::Passive(passive) = &mut monitor else {
        panic!("a replica has a passive monitor");
    };
    for seqno in [1, 2] {
        let order = CompletionOrder::Ordered(Seqno(seqno));
        passive
            .complete(&key(&format!("key {seqno}")), Completion::Commit, order)
            .unwrap();
    }
    let mut active = active_of(become_state(monitor, ACTIVE, &view(3, 0)));
    assert_eq!(active.high_prepared(), Seqno::ZERO);
    active.note_persisted(Seqno(1));
    assert_eq!(active.high_prepared(), Seqno(1));
    active.note_persisted(Seqno(3));
    // The third is not over, and nobody asked for it yet.
    assert_eq!(active.high_prepared(), Seqno(2));
    assert_eq!(undecided(&active), [3]);
}

/// MB-35275: the first topology after none moves nothing back, and begins nothing anew.
#[test]
fn mb_35275_the_first_topology_moves_nothing_back() {
    let monitor = replica_with(&[prepare(1, Majority), prepare(2, Majority)], 2);
    let mut active = active_of(become_state(monitor, ACTIVE, &view(2, 2)));
    // Told before there was a topology.
    active.acknowledge(&node("c"), Seqno(1));
    let before = active.high_prepared();
    active.set_chains(chains(&[&["b", "c"]]));
    assert!(active.high_prepared() >= before);
    assert_eq!(decided(&active), [1]);
}

/// MB-36484: an active that stays one keeps everything as it is.
#[test]
fn mb_36484_active_to_active_changes_nothing() {
    let mut active = active(&[&["a", "b"]]);
    active.track(prepare(1, Majority), LATER).unwrap();
    active.track(prepare(2, Majority), LATER).unwrap();
    active.acknowledge(&node("b"), Seqno(1));
    let monitor = become_state(Monitor::Active(active), ACTIVE, &view(2, 0));
    let active = active_of(monitor);
    assert_eq!(decided(&active), [1]);
    assert!(active.next_tick().is_some());
}

/// MB-51606: what was flushed while the vbucket was dead counts when it is a replica again, and not before.
#[test]
fn mb_51606_what_was_flushed_while_dead_counts_afterwards() {
    let monitor = replica_with(&[prepare(1, PersistToMajority)], 2);
    let mut monitor = become_state(monitor, DEAD, &view(2, 0));
    monitor.note_persisted(Seqno(2));
    monitor.acknowledge(&node("c"), Seqno(1));
    assert_eq!(monitor.high_prepared(), Seqno::ZERO);
    let monitor = become_state(monitor, REPLICA, &view(2, 2));
    assert_eq!(monitor.high_prepared(), Seqno(1));
}

/// MB-34873 through a death: an unpersisted disk snapshot stays one.
#[test]
fn a_dead_vbucket_remembers_where_its_snapshot_came_from() {
    let mut monitor = fresh(REPLICA);
    if let Monitor::Passive(passive) = &mut monitor {
        passive.prepare(prepare(1, Majority), None).unwrap();
        let end = SnapshotEnd::disk((Seqno(0), Seqno(2)), None, Seqno(0)).unwrap();
        passive.snapshot_end(end);
        // One from memory behind it does not hide it.
        passive.prepare(prepare(3, Majority), None).unwrap();
        passive.snapshot_end(SnapshotEnd::memory(Seqno(3)));
    }
    let monitor = become_state(monitor, DEAD, &view(3, 1));
    let mut monitor = become_state(monitor, REPLICA, &view(3, 1));
    assert_eq!(monitor.high_prepared(), Seqno::ZERO);
    monitor.note_persisted(Seqno(3));
    assert_eq!(monitor.high_prepared(), Seqno(3));
}

/// MB-35768, MB-34996: a warmup loads what is outstanding under a topology that cannot commit it, gives nothing up, and
/// commits when it heals. MB-51639: what was acknowledged before is acknowledged after.
#[test]
fn mb_35768_a_warmup_under_an_impossible_topology_waits() {
    let outstanding = Outstanding {
        prepares: vec![prepare(7, Majority), prepare(5, PersistToMajority)],
        high_prepared: Seqno(4),
        high_completed: Seqno(4),
        ..Outstanding::default()
    };
    let (broken, ledger) = (chains(&[&["a", ""]]), Ledger::<()>::default());
    let monitor = Monitor::rebuild(ACTIVE, broken, outstanding, &view(9, 9), &ledger);
    let mut active = active_of(monitor);
    assert_eq!(undecided(&active), [5, 7]);
    assert_eq!(decided(&active), [0; 0]);
    assert_eq!(active.high_completed(), Seqno(4));
    active.acknowledge(&node("b"), Seqno(7));
    active.set_chains(chains(&[&["a", "b"]]));
    assert_eq!(decided(&active), [5, 7]);
}

/// A monitor that is made anew knows what the one before it knew: deadlines and acknowledgements from the ledger, the
/// rest from the vbucket.
#[test]
fn a_monitor_made_anew_goes_on_where_the_last_one_was() {
    let mut ledger = Ledger::default();
    let mut before = active(&[&["a", "b", "c"]]);
    for seqno in 1..=3 {
        before.track(prepare(seqno, Majority), LATER).unwrap();
        ledger.park(Seqno(seqno), LATER, seqno);
    }
    before.acknowledge(&node("b"), Seqno(1));
    ledger.acknowledge(&node("b"), Seqno(1));
    ledger.raise_high_prepared(before.high_prepared());
    before.settle(Seqno(1), Settled::Committed).unwrap();
    assert_eq!(ledger.complete(Seqno(1)), Some(1));
    let outstanding = Outstanding {
        prepares: before.undecided().cloned().collect(),
        high_completed: before.high_completed(),
        ..Outstanding::default()
    };
    let chains = before.chains().cloned();
    let anew = Monitor::rebuild(ACTIVE, chains, outstanding, &view(4, 0), &ledger);
    let mut anew = active_of(anew);
    assert_eq!(undecided(&anew), undecided(&before));
    assert_eq!(anew.next_tick(), before.next_tick());
    assert_eq!(anew.high_prepared(), before.high_prepared());
    assert_eq!(anew.held_by(&node("b")), Seqno(1));
    anew.acknowledge(&node("c"), Seqno(3));
    assert_eq!(decided(&anew), [2, 3]);
}

/// MB-46272: to answer whoever waits, because of a shutdown, changes nothing of what is decided.
#[test]
fn mb_46272_answering_all_changes_no_order() {
    let mut ledger = Ledger::default();
    let mut active = active(&[&["a", "b"]]);
    for seqno in 1..=3 {
        active.track(prepare(seqno, Majority), LATER).unwrap();
        ledger.park(Seqno(seqno), LATER, seqno);
    }
    active.acknowledge(&node("b"), Seqno(2));
    assert_eq!(ledger.answer_all(), [1, 2, 3]);
    assert_eq!(decided(&active), [1, 2]);
    assert_eq!(undecided(&active), [3]);
    active.settle(Seqno(1), Settled::Committed).unwrap();
    assert_eq!(ledger.complete(Seqno(1)), None);
}

/// MB-41235: nobody waits for what was inherited, and of a dropped collection nothing is inherited at all.
#[test]
fn mb_41235_nobody_waits_for_what_was_inherited() {
    let dropped = CollectionId(8);
    let of_dropped = Prepare {
        key: DocumentKey::new(dropped, b"x").unwrap(),
        ..prepare(1, Majority)
    };
    let mut monitor = replica_with(&[of_dropped, prepare(2, Majority)], 3);
    monitor.note_collection_dropped(dropped, Seqno(3));
    let mut active = active_of(become_state(monitor, ACTIVE, &view(3, 0)));
    let mut ledger = Ledger::<u64>::default();
    active.set_chains(chains(&[&["b"]]));
    assert_eq!(decided(&active), [2]);
    active.settle(Seqno(2), Settled::Committed).unwrap();
    assert_eq!(ledger.complete(Seqno(2)), None);
    assert!(active.is_idle());
}

#[test]
fn what_is_handed_in_is_tracked_in_order() {
    let outstanding = Outstanding {
        prepares: vec![
            prepare(9, Majority),
            prepare(2, Majority),
            prepare(5, Majority),
        ],
        ..Outstanding::default()
    };
    let ledger = Ledger::<()>::default();
    let monitor = Monitor::rebuild(REPLICA, None, outstanding, &view(9, 9), &ledger);
    assert_eq!(incomplete(&passive_of(monitor)), [2, 5, 9]);
}

/// MB-51639, MB-51806: what is whole on disk is prepared, whatever the last batch said; what is not, is not.
#[test]
fn mb_51639_mb_51806_what_is_whole_on_disk_is_prepared() {
    let at = |start: u64, end: u64| Watermarks {
        high_seqno: Seqno(9),
        prepared_seqno: Seqno(8),
        completed_seqno: Seqno(4),
        high_prepared_seqno: Seqno(2),
        snapshot: SnapshotRange {
            start: Seqno(start),
            end: Seqno(end),
        },
        ..Watermarks::default()
    };
    assert_eq!(high_prepared_on_disk(&at(3, 9)), Seqno(8));
    assert_eq!(high_prepared_on_disk(&at(5, 12)), Seqno(4));
    assert_eq!(high_prepared_on_disk(&at(3, 12)), Seqno(2));
    let further = Watermarks {
        high_prepared_seqno: Seqno(9),
        ..at(9, 9)
    };
    assert_eq!(high_prepared_on_disk(&further), Seqno(9));
}

/// What is given up and not done is no fence any more for the active, but it is one again when the active leaves.
#[test]
fn a_fence_that_is_given_up_and_not_done_is_not_passed() {
    let mut active = active(&[&["a", "b"]]);
    active.track(prepare(1, PersistToMajority), LATER).unwrap();
    active.track(prepare(2, Majority), LATER).unwrap();
    active.set_chains(chains(&[&["a", ""]]));
    assert_eq!(decided(&active), [-1, -2]);
    active.set_chains(chains(&[&["a", "b"]]));
    active.track(prepare(3, Majority), LATER).unwrap();
    assert_eq!(active.high_prepared(), Seqno::ZERO);
    let passive = passive_of(become_state(
        Monitor::Active(active.clone()),
        REPLICA,
        &view(3, 0),
    ));
    assert_eq!(passive.high_prepared(), Seqno::ZERO);
    active.settle(Seqno(1), Settled::Aborted).unwrap();
    assert_eq!(active.high_prepared(), Seqno(3));
}

/// As a replica it held it in memory, and rightly said so; as the active it must have it on disk.
#[test]
fn an_inherited_write_for_the_active_disk_waits_for_it() {
    let monitor = replica_with(&[prepare(1, MajorityAndPersistOnActive)], 1);
    assert_eq!(monitor.high_prepared(), Seqno(1));
    let mut active = active_of(become_state(monitor, ACTIVE, &view(1, 0)));
    active.set_chains(chains(&[&["b", "c"]]));
    active.acknowledge(&node("c"), Seqno(1));
    assert_eq!(decided(&active), [0; 0]);
    active.note_persisted(Seqno(1));
    assert_eq!(decided(&active), [1]);
}

/// What is over and inherited holds nobody up under a topology.
#[test]
fn what_is_over_is_no_fence_under_a_topology() {
    let mut monitor = replica_with(&[prepare(1, PersistToMajority), prepare(2, Majority)], 2);
    if let Monitor::Passive(passive) = &mut monitor {
        let order = CompletionOrder::Ordered(Seqno(1));
        passive
            .complete(&key("key 1"), Completion::Commit, order)
            .unwrap();
    }
    let mut active = active_of(become_state(monitor, ACTIVE, &view(2, 0)));
    active.acknowledge(&node("c"), Seqno(2));
    active.set_chains(chains(&[&["b", "c"]]));
    assert_eq!(decided(&active), [2]);
}

/// A cursor that goes on where the last one was shows again what the monitor was made with.
#[test]
fn a_monitor_made_anew_passes_over_what_it_was_made_with() {
    let outstanding = Outstanding {
        prepares: vec![prepare(5, Majority)],
        ..Outstanding::default()
    };
    let ledger = Ledger::<()>::default();
    let chains = chains(&[&["a", "b"]]);
    let monitor = Monitor::rebuild(ACTIVE, chains, outstanding, &view(6, 0), &ledger);
    let mut active = active_of(monitor);
    // The fourth is over meanwhile, the fifth is tracked.
    active.track(prepare(4, Majority), LATER).unwrap();
    active.track(prepare(5, Majority), LATER).unwrap();
    active.track(prepare(7, Majority), LATER).unwrap();
    assert_eq!(undecided(&active), [5, 7]);
}
