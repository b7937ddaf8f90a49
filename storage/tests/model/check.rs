//! Compares what a snapshot answers with what the model expects.

use piggin_storage::{
    AbortReason, CollectionCounts, CollectionId, Item, KeyRange, Namespace, Outcome, Scan, ScanEnd,
    Seqno, SeqnoRange, Snapshot, VbucketCounts,
};

use super::generate;
use super::random::Random;
use super::vbucket::{Expected, counts_of};
use crate::support::{self, drain, without_hint};

/// Everything: state, counts, all items by seqno and by key, and a few reads of single keys.
pub(crate) fn whole(random: &mut Random, snapshot: &dyn Snapshot, expected: &Expected) {
    state(snapshot, expected);
    let budget = generate::budget(random);
    let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
    let (items, _) = drain(scan.as_mut(), budget, usize::MAX);
    assert_eq!(items, expected.items, "all items by seqno");
    let mut counts = support::counts_of(snapshot);
    assert_eq!(comparable(&counts), comparable(&expected.counts), "counts");
    counts = comparable(&counts);
    for figures in counts.collections.values_mut() {
        figures.high_seqno = Seqno::ZERO;
    }
    let mut scanned = counts_of(&items);
    for figures in scanned.collections.values_mut() {
        figures.high_seqno = Seqno::ZERO;
    }
    assert_eq!(counts, scanned, "counts against the scan");
    for namespace in Namespace::ALL {
        let range = KeyRange::all(namespace);
        let mut scan = snapshot.scan_by_key(range.clone());
        let (items, _) = drain(scan.as_mut(), budget, usize::MAX);
        assert_eq!(items, expected.in_keys(&range), "all items by key");
    }
    gets(random, snapshot, expected);
}

/// The counts without what has no meaning: the highest system event may be forgotten.
pub(crate) fn comparable(counts: &VbucketCounts) -> VbucketCounts {
    let mut counts = counts.clone();
    if let Some(events) = counts.collections.get_mut(&CollectionId::SYSTEM) {
        events.high_seqno = Seqno::ZERO;
    }
    let is_used = |figures: &CollectionCounts| *figures != CollectionCounts::default();
    counts.collections.retain(|_, figures| is_used(figures));
    counts
}

/// Something: the state, and one scan or a few single keys.
pub(crate) fn part(random: &mut Random, snapshot: &dyn Snapshot, expected: &Expected) {
    state(snapshot, expected);
    match random.below(3) {
        0 => seqno_scan(random, snapshot, expected),
        1 => key_scan(random, snapshot, expected),
        _ => gets(random, snapshot, expected),
    }
}

fn state(snapshot: &dyn Snapshot, expected: &Expected) {
    assert_eq!(snapshot.vbucket(), expected.vbucket);
    assert_eq!(snapshot.incarnation(), expected.incarnation);
    assert_eq!(snapshot.epoch(), expected.epoch);
    assert_eq!(snapshot.state(), expected.state);
    assert_eq!(snapshot.dropped_collections(), expected.dropped);
    let high_seqno = expected.state.watermarks.high_seqno;
    assert_eq!(snapshot.high_seqno(), high_seqno);
}

pub(crate) fn gets(random: &mut Random, snapshot: &dyn Snapshot, expected: &Expected) {
    for _ in 0..4 {
        let namespace = generate::namespace(random);
        let key = generate::key_in(random, namespace);
        let found = snapshot.get(namespace, &key).unwrap().map(without_hint);
        let wanted = (namespace, key.as_encoded().to_vec());
        assert_eq!(found, expected.get(&wanted), "{namespace:?} {key:?}");
    }
}

pub(crate) fn seqno_scan(random: &mut Random, snapshot: &dyn Snapshot, expected: &Expected) {
    let high_seqno = expected.state.watermarks.high_seqno;
    let range = generate::seqno_range(random, high_seqno);
    let mut scan = snapshot.scan_by_seqno(range);
    ranged(random, scan.as_mut(), &expected.in_seqnos(range), expected);
}

pub(crate) fn key_scan(random: &mut Random, snapshot: &dyn Snapshot, expected: &Expected) {
    let range = generate::key_range(random);
    let wanted = expected.in_keys(&range);
    let mut scan = snapshot.scan_by_key(range);
    ranged(random, scan.as_mut(), &wanted, expected);
}

/// Runs a scan to its end, or breaks it off, and asks for its end once more.
fn ranged(random: &mut Random, scan: &mut dyn Scan, wanted: &[Item], expected: &Expected) {
    let stop_at = if random.percent(25) && !wanted.is_empty() {
        1 + random.index(wanted.len())
    } else {
        usize::MAX
    };
    let (items, ended) = drain(scan, generate::budget(random), stop_at);
    let visited = wanted.len().min(stop_at);
    assert_eq!(items, wanted[..visited], "a scan that stops at {stop_at}");
    let complete = ScanEnd {
        items: wanted.len() as u64,
        high_seqno: expected.state.watermarks.high_seqno,
    };
    let expected_end = match stop_at {
        usize::MAX => Outcome::Complete(complete),
        _ => Outcome::Aborted(AbortReason::Cancelled),
    };
    assert_eq!(ended, expected_end);
    let (none, ended) = drain(scan, 1, usize::MAX);
    assert_eq!((none.len(), ended), (0, expected_end));
}
