//! A collection that was dropped while its documents were not in memory is gone, also where another began under its number;
//! what is not in memory of the others is not touched.

use piggin::Bucket;
use piggin::messages::OperationError;
use piggin::storage::disk::SimulatedDisk;

use crate::common::{config_of, each, evict, seal};
use crate::support::{Result, block_on};

#[test]
fn what_left_memory_goes_with_its_collection() -> Result {
    each(|eviction| {
        let disk = SimulatedDisk::new();
        let bucket = block_on(Bucket::create(config_of(&disk, eviction)))?;
        block_on(bucket.create_collection("_default", "c"))?;
        let before = bucket.collection("_default", "c")?;
        for number in 0..20 {
            block_on(before.set(format!("{number}"), "before"))?;
            block_on(bucket.set(format!("{number}"), "default"))?;
        }
        evict(&bucket);
        block_on(bucket.drop_collection("_default", "c"))?;
        block_on(bucket.create_collection("_default", "c"))?;
        let after = bucket.collection("_default", "c")?;
        let is_unknown = |answer| matches!(answer, Err(OperationError::UnknownCollection { .. }));
        assert!(is_unknown(block_on(before.get("1")).map(drop)));
        for number in 0..20 {
            let key = format!("{number}");
            assert_eq!(block_on(after.get(&key)), Err(OperationError::KeyNotFound));
            assert_eq!(block_on(bucket.get(&key))?.value, "default");
            block_on(after.add(&key, "after"))?;
        }
        evict(&bucket);
        for number in 0..20 {
            assert_eq!(block_on(after.get(format!("{number}")))?.value, "after");
        }
        let counts = bucket.collection_statistics()?;
        assert!(counts.iter().all(|one| one.documents == 20), "{counts:?}");
        seal(&bucket);
        block_on(bucket.shutdown())?;
        let bucket = block_on(Bucket::open(config_of(&disk, eviction)))?;
        evict(&bucket);
        assert_eq!(
            block_on(bucket.collection("_default", "c")?.get("7"))?.value,
            "after"
        );
        assert_eq!(block_on(bucket.get("7"))?.value, "default");
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}
