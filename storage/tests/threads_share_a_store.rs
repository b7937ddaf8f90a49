//! Commits, reads, scans, seals, merges and maintenance from many threads at once: every reader sees a consistent
//! vbucket at every moment, and in the end everything is there.
//!
//! What the schedules of real threads happen to meet; the orders that matter are walked one by one elsewhere, in
//! steps.
#![cfg(test)]

mod support;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{
    CreateOptions, KvStore, LogStore, Namespace, OpenOptions, Outcome, Seqno, SeqnoRange, VbucketId,
};
use support::log_store::small_options;
use support::{Writer, key, mutation};

const VBUCKETS: u16 = 4;
const BATCHES: u64 = 20_000;
const KEYS: u64 = 50;

#[test]
fn threads_share_a_store() {
    let disk = SimulatedDisk::new();
    let shape = CreateOptions::of(VBUCKETS, 2);
    let options = OpenOptions {
        history_floor: Seqno::MAX,
        ..small_options(1)
    };
    let store = LogStore::create(Arc::new(disk.clone()), shape, options).unwrap();
    let shared: Arc<dyn KvStore> = Arc::new(store.clone());
    let writers: Vec<Writer> = (0..VBUCKETS).map(|v| Writer::create(&shared, v)).collect();
    let is_done = AtomicBool::new(false);
    let checked = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let committing: Vec<_> = writers
            .into_iter()
            .map(|writer| scope.spawn(move || commit_all(writer)))
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    let outcome = store.maintain();
                    assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
                }
            });
        }
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                for number in 0..VBUCKETS {
                    let outcome = store.seal(support::vbucket(number), Seqno::MAX);
                    assert!(matches!(outcome, Outcome::Complete(())), "{outcome:?}");
                }
            }
        });
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                for number in 0..VBUCKETS {
                    check(&store, support::vbucket(number));
                    checked.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for thread in committing {
            thread.join().unwrap();
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert!(checked.load(Ordering::Relaxed) > 0);
    for number in 0..VBUCKETS {
        assert_eq!(check(&store, support::vbucket(number)), BATCHES * 3);
    }
    assert_eq!(store.verify().faults, []);
    drop(shared);
    store.close().unwrap();
    let store = LogStore::open(Arc::new(disk), options).unwrap();
    assert_eq!(check(&store, support::vbucket(0)), BATCHES * 3);
}

/// Batches of three items each: the same value under three keys.
fn commit_all(mut writer: Writer) {
    for number in 0..BATCHES {
        let round = number.to_string();
        let parts = ["a", "b", "c"].into_iter().zip(number * 3 + 1..);
        let item = |(part, seqno)| mutation(seqno, &format!("{part}{}", number % KEYS), &round);
        writer.write(parts.map(item).collect());
    }
}

/// A snapshot holds whole batches only, every key once, and what the counts say. Its high seqno.
fn check(store: &LogStore, vbucket: VbucketId) -> u64 {
    let snapshot = store.snapshot(vbucket).unwrap();
    let high = snapshot.high_seqno().0;
    assert_eq!(high % 3, 0, "a batch is torn");
    let mut found = std::collections::BTreeMap::new();
    let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
    loop {
        let outcome = scan.step(4096, &mut |item| {
            let value = String::from_utf8(item.value.to_vec()).unwrap();
            assert!(
                found.insert(item.key.to_vec(), value).is_none(),
                "a key twice"
            );
            ControlFlow::Continue(())
        });
        match outcome {
            Outcome::Yielded => {}
            Outcome::Complete(end) => break assert_eq!(end.high_seqno.0, high),
            other @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{other:?}"),
        }
    }
    let batches = high / 3;
    let expected = batches.min(KEYS) * 3;
    assert_eq!(found.len() as u64, expected);
    assert_eq!(
        snapshot.counts().unwrap().total().documents.cast_unsigned(),
        expected
    );
    for number in batches.saturating_sub(KEYS)..batches {
        for part in ["a", "b", "c"] {
            let key = key(&format!("{part}{}", number % KEYS));
            assert_eq!(found[key.as_encoded()], number.to_string());
            let item = snapshot.get(Namespace::Committed, &key).unwrap().unwrap();
            assert_eq!(item.document.value, number.to_string());
        }
    }
    high
}
