//! The active monitor, and what the field got wrong in its own.

use super::*;

#[test]
fn a_majority_commits_in_memory_and_a_fence_waits_for_the_disk() {
    let mut active = active(&[&["a", "b", "c"]]);
    active.track(prepare(1, Majority), LATER).unwrap();
    active
        .track(prepare(2, MajorityAndPersistOnActive), LATER)
        .unwrap();
    active.track(prepare(3, Majority), LATER).unwrap();
    active.acknowledge(&node("b"), Seqno(3));
    // The third waits behind the fence, though a majority has it in memory.
    assert_eq!(decided(&active), [1]);
    assert_eq!(active.high_prepared(), Seqno(1));
    active.note_persisted(Seqno(2));
    assert_eq!(decided(&active), [1, 2, 3]);
    assert_eq!(active.high_prepared(), Seqno(3));
}

#[test]
fn a_plain_write_moves_no_high_prepared_seqno() {
    let mut active = active(&[&["a", "b"]]);
    active.track(prepare(3, Majority), LATER).unwrap();
    active.note_persisted(Seqno(9));
    assert_eq!(active.high_prepared(), Seqno(3));
}

#[test]
fn a_prepare_that_does_not_follow_is_refused() {
    let mut active = active(&[&["a", "b"]]);
    active.track(prepare(3, Majority), LATER).unwrap();
    let (seqno, last) = (Seqno(3), Seqno(3));
    let again = active.track(prepare(3, Majority), LATER);
    assert_eq!(again, Err(OutOfOrder { seqno, last }));
}

#[test]
fn a_stale_or_repeated_acknowledgement_says_nothing() {
    let mut active = active(&[&["a", "b", "c"]]);
    for seqno in 1..=3 {
        active.track(prepare(seqno, Majority), LATER).unwrap();
    }
    for seqno in [2, 2, 1, 0] {
        active.acknowledge(&node("b"), Seqno(seqno));
    }
    assert_eq!(decided(&active), [1, 2]);
    assert_eq!(active.held_by(&node("b")), Seqno(2));
    // What it says of itself says nothing either: its word is its high prepared seqno.
    active.acknowledge(&node("a"), Seqno(9));
    assert_eq!(active.held_by(&node("a")), Seqno(3));
}

/// MB-34228: a write of a chain without replicas is decided when it is tracked, and done by whoever does what is decided.
#[test]
fn mb_34228_a_write_without_replicas_is_decided_at_once() {
    let mut active = active(&[&["a"]]);
    active.track(prepare(1, Majority), LATER).unwrap();
    let next = active.next_decision().unwrap();
    let has_majority = true;
    assert_eq!(next.verdict(), Verdict::Commit { has_majority });
    active.settle(Seqno(1), Settled::Committed).unwrap();
    assert!(active.is_idle());
}

/// MB-34628: two acknowledgements, in whatever order they come, commit in the order of the prepares.
#[test]
fn mb_34628_commits_are_in_the_order_of_their_prepares() {
    let mut active = active(&[&["a", "b", "c"]]);
    active.track(prepare(1, Majority), LATER).unwrap();
    active.track(prepare(2, Majority), LATER).unwrap();
    active.acknowledge(&node("c"), Seqno(2));
    active.acknowledge(&node("b"), Seqno(1));
    assert_eq!(decided(&active), [1, 2]);
    let seqno = Seqno(2);
    let early = active.settle(seqno, Settled::Committed);
    assert_eq!(early, Err(OutOfTurn { seqno }));
    active.settle(Seqno(1), Settled::Committed).unwrap();
    active.settle(Seqno(2), Settled::Committed).unwrap();
    // Twice is once.
    assert_eq!(
        active.settle(seqno, Settled::Committed),
        Err(OutOfTurn { seqno })
    );
    assert_eq!(active.high_completed(), Seqno(2));
}

/// MB-70999: the replica may be quicker than the monitor.
#[test]
fn mb_70999_an_acknowledgement_before_its_prepare_counts() {
    let mut active = active(&[&["a", "b"]]);
    active.acknowledge(&node("b"), Seqno(5));
    active.track(prepare(4, Majority), LATER).unwrap();
    assert_eq!(decided(&active), [4]);
    // MB-35096: above whatever is tracked, after a disk snapshot.
    active.acknowledge(&node("b"), Seqno(90));
    active.track(prepare(91, Majority), LATER).unwrap();
    assert_eq!(undecided(&active), [91]);
}

/// MB-34091, MB-37188, and a fault of the reference: of a node in no chain the highest word counts, not the first.
#[test]
fn mb_34091_mb_37188_a_node_unknown_when_it_acknowledged_counts_later() {
    let mut active = active(&[&["a", "b", "c"]]);
    for seqno in 1..=3 {
        active.track(prepare(seqno, Majority), LATER).unwrap();
    }
    active.acknowledge(&node("d"), Seqno(1));
    active.acknowledge(&node("d"), Seqno(3));
    active.acknowledge(&node("d"), Seqno(2));
    assert_eq!(decided(&active), [0; 0]);
    active.set_chains(chains(&[&["a", "d", ""]]));
    assert_eq!(decided(&active), [1, 2, 3]);
}

/// MB-35226: the word of a stranger whose stream ended is not used for a later stream of that name.
#[test]
fn mb_35226_a_stranger_is_forgotten_with_its_stream() {
    let mut active = active(&[&["a", "b", "c"]]);
    active.track(prepare(1, Majority), LATER).unwrap();
    active.acknowledge(&node("d"), Seqno(1));
    active.acknowledge(&node("b"), Seqno(0));
    active.end_stream(&node("d"));
    active.set_chains(chains(&[&["a", "d"]]));
    assert_eq!(decided(&active), [0; 0]);
    // One that is in a chain holds what it held.
    active.acknowledge(&node("d"), Seqno(1));
    active.end_stream(&node("d"));
    assert_eq!(active.held_by(&node("d")), Seqno(1));
}

/// MB-34318: the first replica acknowledged, a chain is added, another acknowledges: that makes three.
#[test]
fn mb_34318_a_topology_change_keeps_what_was_acknowledged() {
    let mut active = active(&[&["a", "b", "c", "d"]]);
    active.track(prepare(1, Majority), LATER).unwrap();
    active.acknowledge(&node("b"), Seqno(1));
    active.set_chains(chains(&[&["a", "b", "c"], &["a", "b", "e", "c"]]));
    // A majority of the first chain, but not of the second.
    assert_eq!(decided(&active), [0; 0]);
    active.acknowledge(&node("e"), Seqno(1));
    assert_eq!(decided(&active), [1]);
}

/// MB-35189, MB-41300: a topology change makes nobody acknowledge twice, and the next word goes on behind the last.
#[test]
fn mb_35189_mb_41300_no_change_moves_a_node_back() {
    let mut active = active(&[&["a", "b", "c"]]);
    for seqno in 1..=4 {
        active.track(prepare(seqno, Majority), LATER).unwrap();
    }
    active.acknowledge(&node("b"), Seqno(2));
    let high = active.high_prepared();
    // From the second chain into the first, as a swap does.
    active.set_chains(chains(&[&["a", "b", "c"], &["a", "d", "b"]]));
    active.set_chains(chains(&[&["a", "d", "b"]]));
    assert_eq!(active.high_prepared(), high);
    assert_eq!(active.held_by(&node("b")), Seqno(2));
    assert_eq!(decided(&active), [1, 2]);
    active.acknowledge(&node("b"), Seqno(3));
    assert_eq!(decided(&active), [1, 2, 3]);
}

#[test]
fn a_node_that_left_the_topology_counts_again_while_its_stream_lives() {
    let mut active = active(&[&["a", "b", "c"]]);
    active
        .track(prepare(1, MajorityAndPersistOnActive), None)
        .unwrap();
    active.acknowledge(&node("b"), Seqno(1));
    active.set_chains(chains(&[&["a", "", ""]]));
    active.note_persisted(Seqno(1));
    assert_eq!(decided(&active), [0; 0]);
    active.set_chains(chains(&[&["a", "b", "c"]]));
    assert_eq!(decided(&active), [1]);
    // Not so when the stream ended, before it left or after.
    for ends_first in [true, false] {
        let seqno = if ends_first { 2 } else { 3 };
        active.track(prepare(seqno, Majority), None).unwrap();
        active.set_chains(chains(&[&["a", "b", "c", "d"]]));
        active.acknowledge(&node("b"), Seqno(seqno));
        if ends_first {
            active.end_stream(&node("b"));
        }
        active.set_chains(chains(&[&["a", "c", "d"]]));
        if !ends_first {
            active.end_stream(&node("b"));
        }
        active.set_chains(chains(&[&["a", "b", "c"]]));
        assert_eq!(active.held_by(&node("b")), Seqno::ZERO);
    }
}

/// An erased fence lets the next one go.
#[test]
fn an_erased_fence_holds_nobody_up() {
    let mut active = active(&[&["a", "b"]]);
    active
        .track(prepare_of("x", 1, PersistToMajority), LATER)
        .unwrap();
    active.track(prepare(2, Majority), LATER).unwrap();
    active.acknowledge(&node("b"), Seqno(2));
    assert_eq!(decided(&active), [0; 0]);
    assert!(active.erase(&key("x"), Seqno(1)));
    assert_eq!(decided(&active), [2]);
}

/// MB-33959: in a rebalance the active to be must hold the write, whoever else does.
#[test]
fn mb_33959_the_active_of_the_second_chain_must_acknowledge() {
    let mut active = active(&[&["a", "b", "c"], &["d", "b", "c"]]);
    active.track(prepare(1, Majority), LATER).unwrap();
    active.acknowledge(&node("b"), Seqno(1));
    active.acknowledge(&node("c"), Seqno(1));
    assert_eq!(decided(&active), [0; 0]);
    active.acknowledge(&node("d"), Seqno(1));
    assert_eq!(decided(&active), [1]);
}

/// MB-34996, and a fault of the reference, which took the front of the list for the write it had found: what may be
/// committed elsewhere is not given up for a topology, nor is what stands behind it.
#[test]
fn mb_34996_an_impossible_topology_gives_up_only_what_may_be_given_up() {
    let mut active = active(&[&["a", "b", "c"]]);
    active.track(prepare(1, Majority), LATER).unwrap();
    active.track(prepare(2, Majority), None).unwrap();
    active.track(prepare(3, Majority), LATER).unwrap();
    active.set_chains(chains(&[&["a", "", ""]]));
    assert_eq!(decided(&active), [-1]);
    assert_eq!(undecided(&active), [2, 3]);
    // Healed, it commits.
    active.set_chains(chains(&[&["a", "b", ""]]));
    active.acknowledge(&node("b"), Seqno(3));
    assert_eq!(decided(&active), [-1, 2, 3]);
}

/// MB-34771: what nobody can commit is given up at once, not at its deadline.
#[test]
fn mb_34771_an_impossible_topology_ends_waiting() {
    let mut active = active(&[&["a", "b"]]);
    active.track(prepare(1, Majority), LATER).unwrap();
    active.set_chains(chains(&[&["a", ""]]));
    assert_eq!(decided(&active), [-1]);
    assert_eq!(active.next_tick(), None);
}

#[test]
fn a_fallback_is_content_with_the_active_and_says_so() {
    let mut active = active(&[&["a", "b", "c"]]);
    active
        .track(prepare(1, MajorityAndPersistOnActive), LATER)
        .unwrap();
    let requirements = Requirements {
        is_fallback: true,
        ..Requirements::default()
    };
    active.set_requirements(requirements);
    active.set_chains(chains(&[&["a", "", ""]]));
    // What the active must do, it must do all the same.
    assert_eq!(decided(&active), [0; 0]);
    active.note_persisted(Seqno(1));
    let has_majority = false;
    let verdict = active.next_decision().map(Decision::verdict);
    assert_eq!(verdict, Some(Verdict::Commit { has_majority }));
}

/// MB-34812: order beats punctuality; and what is blocked is answered in time.
#[test]
fn mb_34812_only_the_first_in_line_is_given_up() {
    let at = |seconds| Some(Duration::from_secs(seconds));
    let mut active = active(&[&["a", "b"]]);
    active.track(prepare(1, Majority), at(30)).unwrap();
    active.track(prepare(2, Majority), at(10)).unwrap();
    active.track(prepare(3, Majority), at(50)).unwrap();
    assert_eq!(active.next_tick(), Some(Duration::from_secs(10) + TICK));
    // On time is not too late.
    assert_eq!(active.tick(Duration::from_secs(10)), []);
    assert_eq!(active.tick(Duration::from_secs(11)), [Seqno(2)]);
    assert_eq!(decided(&active), [0; 0]);
    assert_eq!(active.next_tick(), Some(Duration::from_secs(30) + TICK));
    // The second goes with the first, and was answered before.
    assert_eq!(active.tick(Duration::from_secs(31)), []);
    assert_eq!(decided(&active), [-1, -2]);
    assert_eq!(undecided(&active), [3]);
    assert_eq!(active.next_tick(), Some(Duration::from_secs(50) + TICK));
}

const TICK: Duration = Duration::from_nanos(1);

#[test]
fn what_is_overdue_and_becomes_first_is_given_up_at_once() {
    let mut active = active(&[&["a", "b"]]);
    active.track(prepare(1, Majority), None).unwrap();
    active
        .track(prepare(2, Majority), Some(Duration::from_secs(10)))
        .unwrap();
    assert_eq!(active.tick(Duration::from_secs(11)), [Seqno(2)]);
    assert_eq!(active.next_tick(), None);
    active.acknowledge(&node("b"), Seqno(1));
    // Due in the past: whoever drives this comes at once.
    assert_eq!(active.next_tick(), Some(Duration::from_secs(10) + TICK));
    assert_eq!(active.tick(Duration::from_secs(11)), []);
    assert_eq!(decided(&active), [1, -2]);
}

/// MB-44167, MB-50060: an erased prepare is forgotten, whoever waits for it told of, the next deadline armed; once more
/// is harmless.
#[test]
fn mb_44167_mb_50060_erased_prepares_are_forgotten_once() {
    let mut active = active(&[&["a", "b"]]);
    let sooner = Some(Duration::from_secs(1));
    active.track(prepare_of("x", 1, Majority), sooner).unwrap();
    active.track(prepare_of("y", 2, Majority), LATER).unwrap();
    let high = active.high_prepared();
    // By key and seqno: another version of the key is another prepare.
    assert!(!active.erase(&key("x"), Seqno(2)));
    assert!(active.erase(&key("x"), Seqno(1)));
    assert!(!active.erase(&key("x"), Seqno(1)));
    assert_eq!(active.high_prepared(), high);
    assert_eq!(active.next_tick(), LATER.map(|at| at + TICK));
    // One that is decided and not done is forgotten, too.
    active.acknowledge(&node("b"), Seqno(2));
    assert!(active.erase(&key("y"), Seqno(2)));
    assert!(active.is_idle());
}

/// MB-43176: a prepare of a collection that is gone moves no high completed seqno, and counts as no commit.
#[test]
fn mb_43176_a_prepare_of_a_gone_collection_is_dropped() {
    let mut active = active(&[&["a"]]);
    active.track(prepare(1, Majority), LATER).unwrap();
    active.settle(Seqno(1), Settled::CollectionGone).unwrap();
    assert!(active.is_idle());
    assert_eq!(active.high_completed(), Seqno::ZERO);
    assert_eq!(active.last_committed(), Seqno::ZERO);
}

/// MB-39717: what is erased takes nothing along that was prepared in the next life of its collection.
#[test]
fn mb_39717_what_is_erased_is_taken_alone() {
    let of = |seqno| Prepare {
        key: DocumentKey::new(CollectionId(8), b"x").unwrap(),
        ..prepare(seqno, Majority)
    };
    let mut active = active(&[&["a", "b"]]);
    active.track(of(1), LATER).unwrap();
    active.note_collection_dropped(CollectionId(8), Seqno(2));
    active.track(of(3), LATER).unwrap();
    assert!(active.erase(&of(1).key, Seqno(1)));
    assert_eq!(undecided(&active), [3]);
    assert!(!active.erase(&of(1).key, Seqno(1)));
    // Nor what is decided and not done.
    active.acknowledge(&node("b"), Seqno(3));
    assert_eq!(decided(&active), [3]);
    assert!(active.erase(&of(3).key, Seqno(3)));
    assert!(active.is_idle());
    assert_eq!(active.next_tick(), None);
}

/// MB-35934: what is decided is there for whoever looks, however late, and whatever is decided meanwhile.
#[test]
fn mb_35934_no_wake_up_can_be_missed() {
    let mut active = active(&[&["a"]]);
    for seqno in 1..=3 {
        active.track(prepare(seqno, Majority), LATER).unwrap();
        let next = active.next_decision().map(|next| next.prepare().seqno);
        assert_eq!(next, Some(Seqno(1)));
    }
    for seqno in 1..=3 {
        active.settle(Seqno(seqno), Settled::Committed).unwrap();
    }
    assert_eq!(active.next_decision(), None);
}
