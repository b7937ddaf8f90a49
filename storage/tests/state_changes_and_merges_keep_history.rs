//! Versions above the history floor outlive state changes, seals, merges and reopenings.
//!
//! MB-55467: a write of nothing but metadata, by a compaction or a flush of the state, threw all history away.
#![cfg(test)]

mod support;

use piggin_storage::Seqno;
use support::{Writer, factories, identity, mutation};

#[test]
fn every_moment_is_still_exact() {
    for factory in factories() {
        let mut writer = Writer::create(&factory.create(4), 0);
        let mut moments = Vec::new();
        for seqno in 1..=6 {
            writer.write(vec![mutation(seqno, "a", &format!("version {seqno}"))]);
            moments.push((seqno, writer.image()));
            let mut batch = writer.batch(Vec::new());
            batch.identity = Some(identity(0xa11ce));
            writer.try_commit(&batch).unwrap();
            // On a store with background work this merges as well.
            writer.seal(Seqno::ZERO);
            if seqno % 2 == 0 {
                writer.reopen(factory.as_ref());
            }
        }
        for (seqno, then) in moments.into_iter().rev() {
            writer.rollback(seqno);
            let now = writer.image();
            assert_eq!((now.by_seqno, now.counts), (then.by_seqno, then.counts));
        }
    }
}
