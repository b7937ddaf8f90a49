//! The main job for now: a store is opened, written, cut off in the middle of it, opened again and scanned.
//!
//! The power cut is simulated, so that it may strike in the middle of a write; then the same job is done once more in a
//! real directory. Exits with an error if anything that was acknowledged is missing.
#![expect(clippy::print_stdout, reason = "an example tells what it sees")]

use std::ops::ControlFlow;
use std::sync::Arc;

use storage::disk::{Disk, FileSystemDisk, SimulatedDisk};
use storage::{
    Batch, Cas, CollectionId, CommitDurability, CreateOptions, Document, DocumentKey, Item,
    KvStore, LogStore, Namespace, OpenOptions, Outcome, Seqno, SeqnoRange, StorageError, VbucketId,
    VbucketStateRecord, VbucketUuid,
};

const VBUCKETS: u16 = 16;
const BATCHES: u64 = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let disk = SimulatedDisk::new();
    create(Arc::new(disk.clone()))?;
    disk.cut_power_at_call(377);
    let acknowledged = load(&LogStore::open(
        Arc::new(disk.clone()),
        OpenOptions::new(2),
    )?);
    println!("power cut: {acknowledged} documents were acknowledged before it");
    let found = recover(Arc::new(disk.crash(7)), acknowledged)?;
    println!("opened again: {found} documents, every one that was acknowledged among them");

    let directory = std::env::temp_dir().join(format!("piggin-example-{}", std::process::id()));
    let disk: Arc<dyn Disk> = Arc::new(FileSystemDisk::create(&directory)?);
    create(Arc::clone(&disk))?;
    let store = LogStore::open(Arc::clone(&disk), OpenOptions::new(2))?;
    let acknowledged = load(&store);
    // Gone without closing, as if the process had died.
    drop(store);
    let found = recover(disk, acknowledged);
    std::fs::remove_dir_all(&directory)?;
    println!("in a real directory: {} documents after reopening", found?);
    Ok(())
}

fn create(disk: Arc<dyn Disk>) -> Result<(), StorageError> {
    let shape = CreateOptions::of(VBUCKETS, 1);
    let store = LogStore::create(disk, shape, OpenOptions::new(1))?;
    for vbucket in (0..VBUCKETS).filter_map(VbucketId::new) {
        store.create_vbucket(vbucket, &VbucketStateRecord::new(VbucketUuid(1)))?;
    }
    store.close()
}

/// Writes groups of one document per vbucket until the disk answers no more; how many were acknowledged.
fn load(store: &LogStore) -> u64 {
    let mut acknowledged = 0;
    for round in 1..=BATCHES {
        let group: Result<Vec<Batch>, StorageError> = store
            .vbuckets()
            .iter()
            .map(|status| batch(status.vbucket, round, store))
            .collect();
        let Ok(group) = group else {
            return acknowledged;
        };
        for answer in store.commit(&group, CommitDurability::Synced) {
            match answer {
                Ok(()) => acknowledged += 1,
                Err(_) => return acknowledged,
            }
        }
        if let Outcome::Failed(_) = store.maintain() {
            return acknowledged;
        }
    }
    acknowledged
}

fn batch(vbucket: VbucketId, round: u64, store: &LogStore) -> Result<Batch, StorageError> {
    let snapshot = store.snapshot(vbucket)?;
    let position = storage::VbucketPosition {
        incarnation: snapshot.incarnation(),
        epoch: snapshot.epoch(),
        high_seqno: snapshot.high_seqno(),
    };
    let key = key(round)?;
    let value = format!("{{\"vbucket\":{vbucket},\"round\":{round}}}");
    let item = Item::mutation(Seqno(round), Document::new(key, value, Cas(round << 16)));
    Ok(Batch::of_documents(
        vbucket,
        &position,
        vec![Arc::new(item)],
        round,
    ))
}

fn key(round: u64) -> Result<DocumentKey, StorageError> {
    Ok(DocumentKey::new(
        CollectionId::DEFAULT,
        format!("document-{round}").as_bytes(),
    )?)
}

/// Opens what is left, scans every vbucket, and checks that every acknowledged document is there.
fn recover(disk: Arc<dyn Disk>, acknowledged: u64) -> Result<u64, Box<dyn std::error::Error>> {
    let store = LogStore::open(disk, OpenOptions::new(3))?;
    let mut found = 0;
    for status in store.vbuckets() {
        let snapshot = store.snapshot(status.vbucket)?;
        let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
        loop {
            let step = scan.step(1 << 20, &mut |_item| {
                found += 1;
                ControlFlow::Continue(())
            });
            match step {
                Outcome::Yielded => {}
                Outcome::Complete(_) => break,
                Outcome::Aborted(reason) => return Err(reason.into()),
                Outcome::Failed(error) => return Err(error.into()),
            }
        }
        for round in 1..=acknowledged / u64::from(VBUCKETS) {
            if store
                .get(status.vbucket, Namespace::Committed, &key(round)?)?
                .is_none()
            {
                return Err(format!("vbucket {} lost document {round}", status.vbucket).into());
            }
        }
    }
    let faults = store.verify().faults;
    if !faults.is_empty() {
        return Err(format!("verify found {faults:?}").into());
    }
    store.close()?;
    Ok(found)
}
