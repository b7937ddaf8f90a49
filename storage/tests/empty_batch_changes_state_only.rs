//! A batch without items changes what the vbucket is, and nothing that it holds.
//!
//! State changes (a new role, a new branch, a manifest) are flushed by themselves when no document waits.
#![cfg(test)]

use std::sync::Arc;

use piggin_storage::{Refusal, Seqno, StorageError, VbucketIdentity, VbucketState};

use crate::support::{identity, mutation, on_every_store};

mod support;

#[test]
fn the_identity_changes_and_the_items_stay() {
    on_every_store(|mut writer| {
        writer.write(vec![mutation(1, "a", "one"), mutation(2, "b", "one")]);
        let before = writer.image();
        let replica = Arc::new(VbucketIdentity {
            state: VbucketState::Replica,
            manifest_uid: 42,
            ..VbucketIdentity::clone(&identity(5))
        });
        let mut batch = writer.batch(vec![]);
        batch.identity = Some(Arc::clone(&replica));
        batch.watermarks.high_prepared_seqno = Seqno(1);
        writer.try_commit(&batch).unwrap();
        let after = writer.image();
        assert_eq!(after.state.identity, replica);
        assert_eq!(after.state.watermarks, batch.watermarks);
        assert_eq!(after.by_seqno, before.by_seqno);
        assert_eq!(after.counts, before.counts);
    });
}

#[test]
fn no_identity_keeps_the_one_there_is() {
    on_every_store(|mut writer| {
        let before = writer.image();
        writer.write(vec![]);
        writer.write(vec![mutation(1, "a", "one")]);
        assert_eq!(writer.image().state.identity, before.state.identity);
    });
}

#[test]
fn it_cannot_move_the_high_seqno() {
    on_every_store(|mut writer| {
        writer.write(vec![mutation(7, "a", "one")]);
        let before = writer.image();
        for high in [0, 6, 8] {
            let mut batch = writer.batch(vec![]);
            batch.watermarks.high_seqno = Seqno(high);
            let refusal = Refusal::HighSeqno {
                high: Seqno(high),
                items: Seqno(7),
            };
            let vbucket = writer.vbucket;
            let refused = StorageError::Refused { vbucket, refusal };
            assert_eq!(writer.try_commit(&batch), Err(refused));
            assert_eq!(writer.image(), before);
        }
    });
}
