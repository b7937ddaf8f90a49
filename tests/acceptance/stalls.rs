//! A disk that hangs is told once, of the child whose call hangs: whoever waits behind it for the store is well.

use std::sync::Arc;
use std::time::Duration;

use piggin::messages::{ChildName, FailureKind};
use piggin::storage::disk::SimulatedDisk;
use piggin::supervisor::restart::ChildState;
use piggin::{Bucket, BucketConfig};

use crate::support::{Listener, Result, TestDisk, block_on, key_in, made_small, until, vbucket};

#[test]
fn maintenance_that_waits_for_a_hanging_writer_is_not_blamed() -> Result {
    let disk = TestDisk::new(SimulatedDisk::new());
    let mut config = made_small(BucketConfig::on(Arc::new(disk.clone())));
    config.log_shards = Some(2);
    config.stall_limit = Duration::from_millis(100);
    let bucket = block_on(Bucket::create(config))?;
    block_on(bucket.flush())?;
    let mut failures = Listener::to(&bucket);
    let write_in = |shard: u16| {
        let key = key_in(&bucket, vbucket(shard), 0);
        block_on(bucket.set(&key, "written").persisted())
    };
    std::thread::scope(|scope| -> Result {
        disk.hold_syncs_of("writer-0");
        let first = scope.spawn(|| write_in(0));
        disk.wait_for_held_syncs(1);
        // Its new life looks at the first log shard at once.
        let maintenance = ChildName::new("maintenance");
        bucket.restart(&maintenance)?;
        until(|| {
            let children = bucket.children();
            let mut found = children.iter().filter(|one| one.name == maintenance);
            found.any(|one| one.state == ChildState::Up && one.generation.0 > 1)
        });
        // Stuck later than maintenance waits: once this one is told, maintenance would have been.
        disk.hold_syncs_of("writer-1");
        let second = scope.spawn(|| write_in(1));
        loop {
            let failure = failures.next_of(FailureKind::ChildStalled);
            assert!(failure.child.as_str().starts_with("writer-"), "{failure:?}");
            if failure.child.as_str() == "writer-1" {
                break;
            }
        }
        disk.let_go();
        first.join().unwrap()?;
        second.join().unwrap()?;
        Ok(())
    })?;
    let report = block_on(bucket.shutdown())?;
    assert!(report.is_clean(), "{report}");
    Ok(())
}
