//! The purge seqno of a vbucket is never lowered by a batch, whatever the batch says.
//!
//! MB-48384: a flush that had read the state before a compaction raised the purge seqno stored the old one after
//! it, and consumers resumed below tombstones that were gone.
#![cfg(test)]

use piggin_storage::Seqno;

use crate::support::{mutation, on_every_store};

mod support;

#[test]
fn a_batch_with_a_lower_purge_seqno_does_not_lower_it() {
    on_every_store(|mut writer| {
        writer.watermarks.purge_seqno = Seqno(7);
        writer.write(vec![mutation(8, "a", "one")]);
        writer.watermarks.purge_seqno = Seqno(3);
        writer.write(vec![mutation(9, "b", "one")]);
        assert_eq!(writer.stored_watermarks().purge_seqno, Seqno(7));
        writer.write(vec![]);
        assert_eq!(writer.stored_watermarks().purge_seqno, Seqno(7));
        writer.watermarks.purge_seqno = Seqno(8);
        writer.write(vec![]);
        assert_eq!(writer.stored_watermarks().purge_seqno, Seqno(8));
    });
}

#[test]
fn a_rollback_does_not_lower_it() {
    on_every_store(|mut writer| {
        writer.write(vec![mutation(1, "a", "one")]);
        writer.write(vec![mutation(2, "b", "one")]);
        writer.watermarks.purge_seqno = Seqno(2);
        writer.write(vec![mutation(3, "c", "one")]);
        writer.rollback(1);
        assert_eq!(writer.stored_watermarks().purge_seqno, Seqno(2));
    });
}

#[test]
fn the_commit_time_only_rises_too() {
    on_every_store(|mut writer| {
        writer.watermarks.commit_time_ms = 2000;
        writer.write(vec![mutation(1, "a", "one")]);
        writer.watermarks.commit_time_ms = 1000;
        writer.write(vec![mutation(2, "b", "one")]);
        assert_eq!(writer.stored_watermarks().commit_time_ms, 2000);
    });
}
