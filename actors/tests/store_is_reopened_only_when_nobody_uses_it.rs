//! The store behind its handle: recalled, no new lease is given; opened anew only after the last was returned; an
//! opening that fails, or panics, is tried again; closed means closed; abandoned means that the
//! directory is free.
#![cfg(test)]

mod disk_side;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use disk_side::rig::{create, handle};
use piggin_actors::executor::WakeWorker;
use piggin_actors::store_handle::{Reopening, StoreGeneration, StoreHandle};
use storage::disk::{Disk, DiskErrorKind, Fault, SimulatedDisk};
use storage::{KvStore, StorageError};

fn store() -> (SimulatedDisk, StoreHandle) {
    let disk = SimulatedDisk::new();
    let as_seen: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = create(&as_seen);
    (disk, handle(&as_seen, store))
}

fn counter(handle: &StoreHandle) -> Arc<AtomicU32> {
    let woken: Arc<AtomicU32> = Arc::default();
    let count = Arc::clone(&woken);
    handle.watch(WakeWorker::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    woken
}

#[test]
fn a_recalled_store_is_opened_anew_after_the_last_lease() {
    let (_, handle) = store();
    let woken = counter(&handle);
    let lease = handle.lease().unwrap();
    assert_eq!(handle.reopen(), Reopening::Open);
    handle.recall(lease.generation(), StorageError::Closed);
    assert!(lease.is_recalled() && handle.wants_reopening());
    assert!(handle.lease().is_err(), "no new lease");
    assert_eq!(handle.reopen(), Reopening::Waiting);
    let before = woken.load(Ordering::SeqCst);
    drop(lease);
    assert!(woken.load(Ordering::SeqCst) > before, "watchers are told");
    assert_eq!(handle.reopen(), Reopening::Reopened(StoreGeneration(2)));
    let lease = handle.lease().unwrap();
    assert_eq!(lease.store().vbuckets().len(), 4);
    // A recall of the old one comes too late to matter.
    handle.recall(StoreGeneration(1), StorageError::Closed);
    assert!(!lease.is_recalled());
}

#[test]
fn an_opening_that_fails_is_tried_again() {
    let (disk, handle) = store();
    handle.recall(handle.generation(), StorageError::Closed);
    let broken = Fault::failed_call(DiskErrorKind::Other("broken".into()));
    disk.inject(broken.lasting());
    for _ in 0..3 {
        assert!(matches!(handle.reopen(), Reopening::Failed(_)));
        assert!(handle.lease().is_err() && handle.wants_reopening());
    }
    disk.clear_faults();
    assert_eq!(handle.reopen(), Reopening::Reopened(StoreGeneration(2)));
}

#[test]
fn an_opening_that_panics_is_tried_again() {
    let (_, inner) = store();
    let tries = AtomicU32::new(0);
    let lease = inner.lease().unwrap();
    let store = lease.store().clone();
    drop(lease);
    let handle = StoreHandle::new(
        store.clone(),
        Box::new(move || {
            assert!(
                tries.fetch_add(1, Ordering::SeqCst) > 0,
                "asked for by the test"
            );
            Ok(store.clone())
        }),
    );
    handle.recall(handle.generation(), StorageError::Closed);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handle.reopen()));
    assert!(panicked.is_err());
    assert!(handle.wants_reopening());
    assert_eq!(handle.reopen(), Reopening::Reopened(StoreGeneration(2)));
}

#[test]
fn a_closed_store_stays_closed_and_waits_for_its_users() {
    let (_, handle) = store();
    let woken = counter(&handle);
    let lease = handle.lease().unwrap();
    assert!(handle.close(|_| Ok(())).is_none());
    assert!(lease.is_recalled());
    assert_eq!(handle.lease().unwrap_err(), StorageError::Closed);
    assert_eq!(handle.reopen(), Reopening::Closed);
    drop(lease);
    assert!(woken.load(Ordering::SeqCst) > 0);
    let mut seen = 0;
    let closed = handle.close(|vbuckets| {
        seen = vbuckets.len();
        Ok(())
    });
    assert_eq!(closed, Some(Ok(())));
    assert_eq!(seen, 4);
    assert!(!handle.wants_reopening());
    assert_eq!(handle.reopen(), Reopening::Closed);
}

#[test]
fn an_abandoned_store_lets_go_of_its_directory_with_the_last_lease() {
    let (disk, handle) = store();
    let is_free = || disk.lock("piggin.lock").is_ok();
    let lease = handle.lease().unwrap();
    handle.abandon();
    assert!(lease.is_recalled() && !is_free());
    assert_eq!(handle.lease().unwrap_err(), StorageError::Closed);
    drop(lease);
    assert!(is_free());
    assert_eq!(handle.reopen(), Reopening::Closed);
    assert!(!handle.wants_reopening());
    // Again, and closing after it: there is nothing left to do.
    handle.abandon();
    assert_eq!(handle.close(|_| Ok(())), Some(Ok(())));
}
