//! The purge seqno of a vbucket is never lowered by a batch, whatever the batch says.
//!
//! MB-48384: a flush that had read the state before a compaction raised the purge seqno stored the old one after
//! it, and consumers resumed below tombstones that were gone.
#![cfg(test)]

use piggin_storage::{Refusal, Seqno, StorageError};

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

/// MB-63977, MB-67816: a replica stored a purge seqno above the end of what was flushed; tombstones it had yet to receive
/// counted as purged. Equality is no fault.
#[test]
fn mb_63977_a_purge_seqno_above_what_is_flushed_is_refused() {
    on_every_store(|mut writer| {
        writer.write(vec![mutation(1, "a", "one"), mutation(2, "b", "one")]);
        writer.watermarks.purge_seqno = Seqno(4);
        let batch = writer.batch(vec![mutation(3, "c", "one")]);
        let (purge, high) = (Seqno(4), Seqno(3));
        let refused = StorageError::Refused {
            vbucket: writer.vbucket,
            refusal: Refusal::PurgeSeqno { purge, high },
        };
        assert_eq!(writer.try_commit(&batch), Err(refused));
        assert_eq!(writer.image().seqnos(), [1, 2]);
        assert_eq!(writer.stored_watermarks().purge_seqno, Seqno::ZERO);
        writer.watermarks.purge_seqno = Seqno(3);
        writer.write(vec![mutation(3, "c", "one")]);
        assert_eq!(writer.stored_watermarks().purge_seqno, Seqno(3));
        // After a rollback the one stored is above the high seqno, and may be told again.
        writer.rollback(2);
        writer.write(vec![]);
        assert_eq!(writer.stored_watermarks().purge_seqno, Seqno(3));
    });
}
