//! A broken invariant of a vbucket's durable writes fails the run of whatever world it is found in.

use std::time::Duration;

use piggin::storage::DurabilityLevel;
use supervisor::testing::{RunError, World};

use crate::common::{begin, chain, created};

#[test]
fn a_broken_invariant_fails_the_run() {
    let ran = World::run(1, async |world: World| {
        let here = world.beside("b");
        let bucket = created(&here, "a").await;
        chain(&bucket, ["a", "nobody"]);
        let asked = begin(&bucket, "k", "v", DurabilityLevel::Majority);
        world.sleep(Duration::from_millis(10)).await;
        let core = bucket.vbucket_core(bucket.vbucket_of(b"k")).expect("it");
        core.break_an_invariant();
        chain(&bucket, ["a", "nobody", "either"]);
        asked.abort();
    });
    let broken = ran.expect_err("a finding");
    let RunError::Broken { seed: 1, what } = &broken else {
        panic!("{broken}");
    };
    assert!(what.starts_with("invariant 13 of vbucket"), "{what}");
}
