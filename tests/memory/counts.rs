//! How many documents there are is the same whether they are in memory or not, also after those that are not were overwritten,
//! deleted, or written anew.

use std::time::Duration;

use piggin::Bucket;
use piggin::storage::disk::SimulatedDisk;
use supervisor::testing::{World, WorldSettings};

use crate::common::{config_of, core, each, evict};
use crate::support::{Result, block_on};

fn counted(bucket: &Bucket) -> (u64, u64) {
    let of_collections = bucket.collection_statistics().unwrap();
    let documents = of_collections.iter().map(|one| one.documents).sum();
    (bucket.statistics().documents, documents)
}

#[test]
fn eviction_and_what_is_written_over_it_change_no_count() -> Result {
    each(|eviction| {
        let disk = SimulatedDisk::new();
        let bucket = block_on(Bucket::create(config_of(&disk, eviction)))?;
        for number in 0..100 {
            block_on(bucket.set(format!("{number}"), "first"))?;
        }
        evict(&bucket);
        assert_eq!(counted(&bucket), (100, 100));
        assert_eq!(bucket.memory().resident_documents, 0);
        // Over what left memory, beside it, and what is deleted of it.
        for number in 50..150 {
            block_on(bucket.set(format!("{number}"), "second"))?;
        }
        for number in 0..10 {
            block_on(bucket.delete(format!("{number}")))?;
        }
        block_on(bucket.flush())?;
        assert_eq!(counted(&bucket), (140, 140));
        evict(&bucket);
        assert_eq!(counted(&bucket), (140, 140));
        block_on(bucket.shutdown())?;
        let bucket = block_on(Bucket::open(config_of(&disk, eviction)))?;
        assert_eq!(counted(&bucket), (140, 140));
        assert_eq!(bucket.memory().resident_documents, 140);
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

/// Figures that are asked of memory alone: each document is written over while it is away, and nobody asks the disk.
#[test]
fn what_is_written_over_again_and_again_is_counted_once_without_a_look_at_the_disk() -> Result {
    World::run_with(1, &evicting(), async |world| {
        let bucket = world.create(world.config()).await.expect("a bucket");
        for round in 0..5 {
            for number in 0..50 {
                let written = bucket.set(format!("{number}"), format!("{round}")).await;
                written.expect("a write");
            }
            bucket.flush().await.expect("a flush");
            world.sleep(Duration::from_secs(60)).await;
        }
        let evicted = bucket.memory().evicted;
        assert!(evicted >= 200, "{evicted}");
        let cores = bucket.vbuckets().map(|id| core(&bucket, id));
        let counted = cores.map(|core| core.documents_known());
        assert_eq!(counted.sum::<u64>(), 50);
        bucket.shutdown().await.expect("an end");
    })?;
    Ok(())
}

fn evicting() -> WorldSettings {
    WorldSettings {
        evicts: true,
        ..WorldSettings::default()
    }
}
