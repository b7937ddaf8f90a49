//! A scan that was broken off says so, also when the item it was broken off at was the last one.
//!
//! MB-35297: a scan whose visitor had stopped it was taken for a finished one, and the stream behind it lacked
//! items. Here only a scan that visited everything is complete, and asking again gives the same answer.
#![cfg(test)]

use std::ops::ControlFlow;

use piggin_storage::{
    AbortReason, ItemView, KeyRange, Namespace, Outcome, Scan, ScanEnd, Seqno, SeqnoRange,
};

use crate::support::{Writer, drain, mutation, on_every_store};

mod support;

const CANCELLED: Outcome<ScanEnd> = Outcome::Aborted(AbortReason::Cancelled);

fn fill(writer: &mut Writer) {
    let items = ["d", "c", "b", "a"];
    let items = items.iter().zip(1..);
    writer.write(
        items
            .map(|(name, at)| mutation(at, name, "value"))
            .collect(),
    );
}

fn scans(writer: &Writer) -> [Box<dyn Scan>; 2] {
    let snapshot = writer.snapshot();
    [
        snapshot.scan_by_seqno(SeqnoRange::ALL),
        snapshot.scan_by_key(KeyRange::all(Namespace::Committed)),
    ]
}

fn assert_stays(scan: &mut dyn Scan, ended: &Outcome<ScanEnd>) {
    let mut visit = |view: ItemView<'_>| -> ControlFlow<()> {
        panic!("an ended scan visited {view:?}");
    };
    assert_eq!(&scan.step(usize::MAX, &mut visit), ended);
    assert_eq!(&scan.step(1, &mut visit), ended);
}

#[test]
fn at_every_item_and_with_every_budget() {
    on_every_store(|mut writer| {
        fill(&mut writer);
        for stop_at in 1..=4 {
            for bytes_max in [0, 1, 20, usize::MAX] {
                for mut scan in scans(&writer) {
                    let (items, ended) = drain(scan.as_mut(), bytes_max, stop_at);
                    assert_eq!(ended, CANCELLED);
                    assert_eq!(items.len(), stop_at);
                    assert_stays(scan.as_mut(), &CANCELLED);
                }
            }
        }
    });
}

#[test]
fn a_scan_that_visited_all_is_complete_and_stays_so() {
    on_every_store(|mut writer| {
        fill(&mut writer);
        let complete = Outcome::Complete(ScanEnd {
            items: 4,
            high_seqno: Seqno(4),
        });
        for bytes_max in [0, 1, 20, usize::MAX] {
            for mut scan in scans(&writer) {
                let (items, ended) = drain(scan.as_mut(), bytes_max, usize::MAX);
                assert_eq!(ended, complete);
                assert_eq!(items.len(), 4);
                assert_stays(scan.as_mut(), &complete);
            }
        }
    });
}

#[test]
fn a_range_that_ends_before_it_begins_is_empty() {
    on_every_store(|mut writer| {
        fill(&mut writer);
        let snapshot = writer.snapshot();
        let backwards = SeqnoRange {
            first: Seqno(3),
            last: Seqno(2),
        };
        let (items, end) = support::read_all(snapshot.scan_by_seqno(backwards));
        assert_eq!((items.len(), end.high_seqno), (0, Seqno(4)));
        let keys = KeyRange {
            namespace: Namespace::Committed,
            first: vec![0, b'c'],
            end: Some(vec![0, b'b']),
        };
        let (items, end) = support::read_all(snapshot.scan_by_key(keys));
        assert_eq!((items.len(), end.high_seqno), (0, Seqno(4)));
    });
}
