//! A store on a full disk opens and is read; writes are refused until there is room, and then go on.
//!
//! MB-39338, MB-49461: a full disk kept the warmup from its end, though reading needs no space.
#![cfg(test)]

mod support;

use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{Advice, KvStore, Outcome, Seqno};
use support::log_store::{create_on, image, open_on, small_options};
use support::{Writer, mutation, vbucket};

#[test]
fn whether_it_was_closed_or_not() {
    for closes in [false, true] {
        let disk = SimulatedDisk::new();
        let (store, shared) = create_on(&disk, small_options(1));
        let mut writer = Writer::create(&shared, 0);
        writer.write(vec![mutation(1, "a", "sealed")]);
        writer.seal(Seqno::ZERO);
        store.checkpoint().unwrap();
        writer.write(vec![mutation(2, "b", "in the log")]);
        let expected = image(&store, 0);
        drop((writer, shared));
        if closes {
            store.close().unwrap();
        } else {
            drop(store);
        }
        let disk = disk.crash_losing_everything_unsynced();
        disk.set_space_limit(Some(0));
        for entropy in 2..4 {
            assert_eq!(image(&open_on(&disk, entropy), 0), expected);
        }
        let store = open_on(&disk, 4);
        let snapshot = store.snapshot(vbucket(0)).unwrap();
        let mut writer = Writer {
            store: Arc::new(store.clone()),
            vbucket: vbucket(0),
            incarnation: snapshot.incarnation(),
            epoch: snapshot.epoch(),
            watermarks: snapshot.state().watermarks,
        };
        let batch = writer.batch(vec![mutation(3, "c", &"v".repeat(40_000))]);
        let refused = writer.try_commit(&batch);
        if let Err(error) = &refused {
            assert_eq!(error.advice(), Advice::RetryLater, "{error}");
            assert_eq!(image(&store, 0), expected);
        }
        // A file zeroed ahead has room of its own, a new one has not.
        assert!(closes || refused.is_err());
        if let Outcome::Failed(error) = store.seal(vbucket(0), Seqno::ZERO) {
            assert_eq!(error.advice(), Advice::RetryLater, "{error}");
        }
        disk.set_space_limit(None);
        if refused.is_err() {
            writer.try_commit(&batch).unwrap();
        }
        writer.watermarks = batch.watermarks;
        assert_eq!(writer.image().seqnos(), [1, 2, 3]);
        assert_eq!(store.seal(vbucket(0), Seqno::ZERO), Outcome::Complete(()));
    }
}
