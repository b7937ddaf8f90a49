//! Any document of a collection can be picked, and nothing that is none.

use std::collections::BTreeSet;
use std::sync::Arc;

use piggin::messages::OperationError;
use piggin::storage::disk::SimulatedDisk;
use piggin::{Bucket, BucketConfig};

use crate::support::{Result, block_on, made_small};

#[test]
fn every_document_comes_up_and_no_other() -> Result {
    let disk = Arc::new(SimulatedDisk::new());
    let bucket = block_on(Bucket::create(made_small(BucketConfig::on(disk))))?;
    let none = Err(OperationError::KeyNotFound);
    assert_eq!(block_on(bucket.get_random()), none);
    block_on(bucket.create_collection("_default", "c"))?;
    let collection = bucket.collection("_default", "c")?;
    for number in 0..5000 {
        block_on(bucket.set(format!("other {number}"), "v"))?;
    }
    assert_eq!(block_on(collection.get_random()), none);
    let names: BTreeSet<String> = (0..8).map(|number| format!("key {number}")).collect();
    for name in &names {
        block_on(collection.set(name, name.clone()))?;
    }
    block_on(collection.set("deleted", ""))?;
    block_on(collection.delete("deleted"))?;
    block_on(collection.set("expired", "").expiry(1_000_000_000))?;
    let mut seen = BTreeSet::new();
    while seen.len() < names.len() {
        let picked = block_on(collection.get_random())?;
        let name = String::from_utf8(picked.key.key().to_vec())?;
        assert_eq!(picked.found, block_on(collection.get(&name))?);
        assert!(names.contains(&name), "{name}");
        seen.insert(name);
    }
    for name in &names {
        block_on(collection.delete(name))?;
    }
    assert_eq!(block_on(collection.get_random()), none);
    let of_many = block_on(bucket.get_random())?;
    assert!(of_many.key.key().starts_with(b"other"));
    block_on(bucket.drop_collection("_default", "c"))?;
    let dropped = block_on(collection.get_random());
    assert!(matches!(
        dropped,
        Err(OperationError::UnknownCollection { .. })
    ));
    block_on(bucket.shutdown())?;
    Ok(())
}
