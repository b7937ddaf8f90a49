//! The embedder's own System stops in the middle of writes: nothing acknowledged as persisted is lost, the engine
//! stops with the last handle, and the directory can be opened again.

use std::sync::Arc;

use actix::prelude::*;
use parking_lot::Mutex;
use tokio::sync::Notify;

use piggin::messages::vbucket::{Acknowledge, Set, WriteOptions};
use piggin::storage::{CollectionId, DocumentKey, FileSystemDisk};
use piggin::{Bucket, BucketActor, BucketConfig};

use crate::support::{Result, TempDirectory, TestDisk, block_on, made_small, small};

const WRITERS: usize = 8;

#[test]
fn a_system_that_stops_loses_nothing_persisted() -> Result {
    let directory = TempDirectory::new();
    let disk = TestDisk::new(FileSystemDisk::new(directory.path())?);
    let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
    let config = made_small(BucketConfig::on(Arc::new(disk.clone())));
    let (acks, enough) = (Arc::clone(&acknowledged), Arc::new(Notify::new()));
    let system = System::new();
    system.block_on(async move {
        let bucket = Bucket::create(config).await?;
        let bucket = BucketActor::new(bucket).start();
        for writer in 0..WRITERS {
            let (bucket, acks) = (bucket.clone(), Arc::clone(&acks));
            let enough = Arc::clone(&enough);
            actix::spawn(async move {
                for number in 0_u64.. {
                    let key = format!("writer-{writer}-{number}");
                    let options = WriteOptions {
                        acknowledge: Acknowledge::Persisted,
                        ..WriteOptions::default()
                    };
                    let set = Set {
                        key: DocumentKey::new(CollectionId::DEFAULT, key.as_bytes()).unwrap(),
                        value: key.clone().into(),
                        options,
                    };
                    if bucket.send(set).await.is_ok_and(|answer| answer.is_ok()) {
                        acks.lock().push(key);
                        enough.notify_one();
                    }
                }
            });
        }
        while acks.lock().len() < 20 * WRITERS {
            enough.notified().await;
        }
        // In the middle of it.
        System::current().stop();
        Result::Ok(())
    })?;
    // The stop takes effect when the System is run; with it go the actor and its tasks.
    system.run()?;
    disk.wait_until_free();

    let acknowledged = std::mem::take(&mut *acknowledged.lock());
    let bucket = block_on(Bucket::open(small(BucketConfig::at(directory.path()))))?;
    for key in &acknowledged {
        assert_eq!(block_on(bucket.get(key))?.value, key.as_bytes(), "{key}");
    }
    block_on(bucket.shutdown())?;
    Ok(())
}
