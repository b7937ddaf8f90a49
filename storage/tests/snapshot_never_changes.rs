//! A snapshot answers the same at any later time: after overwrites, seal, rollback, and when its vbucket is gone.
//!
//! A scan that is half done when the vbucket changes goes on as if nothing had happened.
#![cfg(test)]

use piggin_storage::{Outcome, Seqno, SeqnoRange};

use crate::support::{Image, Writer, deletion, drain, mutation, on_every_store, prepare, read_all};

mod support;

fn fill(writer: &mut Writer) {
    writer.write(vec![
        mutation(1, "a", "one"),
        mutation(2, "b", "one"),
        prepare(3, "a", "two"),
        mutation(4, "c", "one"),
        deletion(5, "b"),
    ]);
}

fn upset(writer: &mut Writer) {
    writer.write(vec![mutation(6, "a", "two"), deletion(7, "c")]);
    writer.seal(Seqno(7));
    writer.write(vec![mutation(8, "b", "three")]);
    writer.rollback(7);
    writer.write(vec![mutation(8, "b", "four")]);
}

#[test]
fn whatever_happens_to_the_vbucket() {
    on_every_store(|mut writer| {
        fill(&mut writer);
        let snapshot = writer.snapshot();
        let before = Image::of(snapshot.as_ref());
        assert_eq!(before.seqnos(), [1, 3, 4, 5]);
        upset(&mut writer);
        assert_eq!(Image::of(snapshot.as_ref()), before);
        assert_eq!(writer.image().seqnos(), [3, 6, 7, 8]);
        writer.store.delete_vbucket(writer.vbucket).unwrap();
        assert_eq!(Image::of(snapshot.as_ref()), before);
        let again = Writer::create(&writer.store, writer.vbucket.get());
        assert_eq!(Image::of(snapshot.as_ref()), before);
        assert_eq!(again.image().seqnos(), [0; 0]);
    });
}

#[test]
fn a_rollback_below_it_does_not_reach_it() {
    on_every_store(|mut writer| {
        fill(&mut writer);
        let snapshot = writer.snapshot();
        let before = Image::of(snapshot.as_ref());
        writer.rollback(2);
        assert_eq!(writer.image().seqnos(), [1, 2]);
        writer.write(vec![mutation(3, "c", "other"), mutation(4, "d", "other")]);
        assert_eq!(Image::of(snapshot.as_ref()), before);
    });
}

#[test]
fn a_scan_on_its_way_does_not_notice() {
    on_every_store(|mut writer| {
        fill(&mut writer);
        let snapshot = writer.snapshot();
        let (whole, _) = read_all(snapshot.scan_by_seqno(SeqnoRange::ALL));
        let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
        drop(snapshot);
        let mut seen = Vec::new();
        let mut visit = |view: piggin_storage::ItemView<'_>| {
            seen.push(support::owned(view));
            std::ops::ControlFlow::Continue(())
        };
        assert_eq!(scan.step(1, &mut visit), Outcome::Yielded);
        upset(&mut writer);
        let (rest, ended) = drain(scan.as_mut(), 1, usize::MAX);
        seen.extend(rest);
        assert!(matches!(ended, Outcome::Complete(_)), "{ended:?}");
        assert_eq!(seen, whole);
    });
}
