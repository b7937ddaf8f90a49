//! The table keeps its invariant whatever it is built from and whatever is done to it.

use super::{FailoverEntry, FailoverTable};
use crate::seqno::Seqno;
use crate::vbucket::VbucketUuid;

fn entry((uuid, seqno): (u64, u64)) -> FailoverEntry {
    FailoverEntry {
        uuid: VbucketUuid(uuid),
        seqno: Seqno(seqno),
    }
}

fn entries(pairs: &[(u64, u64)]) -> Vec<FailoverEntry> {
    pairs.iter().copied().map(entry).collect()
}

fn table(pairs: &[(u64, u64)]) -> FailoverTable {
    FailoverTable::try_from(entries(pairs)).unwrap()
}

#[test]
fn a_new_history_has_one_branch_from_its_beginning() {
    let table = FailoverTable::new(VbucketUuid(9));
    assert_eq!(table.entries(), entries(&[(9, 0)]));
}

#[test]
fn sanitizing_leaves_out_what_cannot_be() {
    let kept = |pairs| FailoverTable::sanitized(entries(pairs)).map(Vec::from);
    assert_eq!(
        kept(&[(3, 9), (2, 5), (1, 0)]),
        Some(entries(&[(3, 9), (2, 5), (1, 0)]))
    );
    assert_eq!(
        kept(&[(3, 9), (0, 5), (1, 0)]),
        Some(entries(&[(3, 9), (1, 0)]))
    );
    assert_eq!(
        kept(&[(3, 5), (2, 9), (1, 5)]),
        Some(entries(&[(3, 5), (1, 5)]))
    );
    assert_eq!(kept(&[(0, 0)]), None);
    assert_eq!(kept(&[]), None);
}

#[test]
fn sanitizing_keeps_the_newest_entries_up_to_the_limit() {
    let many = (1..=40).rev().map(|number| entry((number, number)));
    let table = FailoverTable::sanitized(many).unwrap();
    assert_eq!(table.entries().len(), FailoverTable::ENTRIES_MAX);
    assert_eq!(table.entries().first(), Some(&entry((40, 40))));
    assert_eq!(table.entries().last(), Some(&entry((16, 16))));
}

#[test]
fn a_stored_table_that_would_need_sanitizing_is_refused() {
    for pairs in [
        &[][..],
        &[(0, 1)],
        &[(2, 1), (1, 2)],
        &[(2, 2), (0, 1), (1, 0)],
    ] {
        assert!(
            FailoverTable::try_from(entries(pairs)).is_err(),
            "{pairs:?}"
        );
    }
    let full: Vec<(u64, u64)> = (1..=25).rev().map(|number| (number, number)).collect();
    assert_eq!(Vec::from(table(&full)), entries(&full));
    let over: Vec<(u64, u64)> = (1..=26).rev().map(|number| (number, number)).collect();
    assert!(FailoverTable::try_from(entries(&over)).is_err());
}

#[test]
fn a_new_branch_takes_the_place_of_those_above_it() {
    let mut table = table(&[(3, 9), (2, 5), (1, 0)]);
    table.create_entry(VbucketUuid(4), Seqno(5));
    assert_eq!(table.entries(), entries(&[(4, 5), (2, 5), (1, 0)]));
    table.create_entry(VbucketUuid(5), Seqno(2));
    assert_eq!(table.entries(), entries(&[(5, 2), (1, 0)]));
}

#[test]
fn a_full_table_forgets_its_oldest_branch() {
    let mut table = FailoverTable::new(VbucketUuid(1));
    for number in 2..=30 {
        table.create_entry(VbucketUuid(number), Seqno(number));
        assert!(table.entries().len() <= FailoverTable::ENTRIES_MAX);
    }
    assert_eq!(table.entries().len(), FailoverTable::ENTRIES_MAX);
    assert_eq!(table.entries().first(), Some(&entry((30, 30))));
    assert_eq!(table.entries().last(), Some(&entry((6, 6))));
}

#[test]
fn pruning_forgets_branches_above_but_never_the_oldest() {
    let whole = table(&[(3, 9), (2, 5), (1, 1)]);
    let pruned = |seqno| {
        let mut table = whole.clone();
        table.prune(Seqno(seqno));
        Vec::from(table)
    };
    assert_eq!(pruned(9), entries(&[(3, 9), (2, 5), (1, 1)]));
    assert_eq!(pruned(8), entries(&[(2, 5), (1, 1)]));
    assert_eq!(pruned(1), entries(&[(1, 1)]));
    assert_eq!(pruned(0), entries(&[(1, 0)]));
}
