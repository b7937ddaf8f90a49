//! `load --durable --acks`, killed at random moments: every key in the file of acks is there with the right bytes,
//! and `verify` finds nothing.
//!
//! A few rounds; more with `PIGGIN_KILL_ROUNDS=100`, other moments with `PIGGIN_KILL_SEED=7`.
#![cfg(test)]

mod support;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use futures_executor::block_on;

use support::Place;

/// Lines of one load: enough that a kill falls into the middle.
const DOCUMENTS: usize = 20_000;
/// Every so many rounds begin with no bucket, so that kills fall into making one, too.
const ROUNDS_PER_BUCKET: u64 = 4;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn line(key: usize, round: u64) -> String {
    format!(
        "{{\"id\":\"key-{key}\",\"round\":{round},\"x\":\"{}\"}}",
        "x".repeat(key % 300)
    )
}

#[test]
fn every_acked_key_is_there_with_the_right_bytes() {
    let rounds = setting("PIGGIN_KILL_ROUNDS", 5);
    let seed = setting("PIGGIN_KILL_SEED", 1);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut place = Place::new();
    let mut oldest: BTreeMap<usize, u64> = BTreeMap::new();
    let (mut acked, mut killed) = (0, 0);
    for round in 0..rounds {
        if round % ROUNDS_PER_BUCKET == 0 {
            place = Place::new();
            oldest.clear();
        }
        // Evenly over the orders of magnitude of time: the opening, the first syncs, the middle, after the end.
        let after = Duration::from_secs_f64(0.003 * 1000_f64.powf(random.f64()));
        killed += u64::from(load_until(&place, round, after));
        let told = format!("PIGGIN_KILL_SEED={seed}, round {round}, killed after {after:?}");
        for key in read_acks(&place) {
            oldest.insert(key, round);
        }
        acked += oldest.len();
        check(&place, &oldest, round, &told);
    }
    println!("{killed} of {rounds} loads were killed; {acked} acked keys were looked up");
    assert!(rounds < 5 || (acked > 0 && killed > 0), "nothing was tried");
}

/// Starts a load and kills it; whether it was still running.
fn load_until(place: &Place, round: u64, after: Duration) -> bool {
    let lines: String = (0..DOCUMENTS).map(|key| line(key, round) + "\n").collect();
    let file = place.file("lines", lines);
    place.file("acks", "");
    let mut command = place.command(&["load", file.to_str().unwrap(), "--key", "id"]);
    let mut child = command
        .args(["--durable", "--acks", "acks"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Nothing to wait for but time itself: nobody ever sends.
    let (_never, nothing) = mpsc::channel::<()>();
    nothing.recv_timeout(after).unwrap_err();
    let is_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    is_running
}

/// The keys in the acks; a last line without its end says nothing.
fn read_acks(place: &Place) -> Vec<usize> {
    let text = std::fs::read_to_string(place.path("acks")).unwrap();
    let lines = text.split_inclusive('\n');
    let whole = lines.filter_map(|line| line.strip_suffix('\n'));
    let numbers = whole.map(|key| key.strip_prefix("key-").unwrap());
    numbers.map(|number| number.parse().unwrap()).collect()
}

/// A document may be of the round that acked it or of any later one, whole: those were under way when they were killed.
fn check(place: &Place, oldest: &BTreeMap<usize, u64>, newest: u64, told: &str) {
    let verified = place.run(&["verify"]);
    if verified.code == 1 && verified.stderr.contains("there is no bucket") {
        assert!(oldest.is_empty(), "{told}: acked, and there is no bucket");
        return;
    }
    assert_eq!(
        verified.code,
        0,
        "{told}: {}{}",
        verified.text(),
        verified.stderr
    );
    let keys: Vec<String> = oldest.keys().map(|key| format!("key-{key}")).collect();
    let config = piggin::BucketConfig::at(place.data());
    let found = block_on(async {
        let bucket = piggin::Bucket::open(config).await.unwrap();
        let found = bucket.get_many(&keys).await;
        bucket.shutdown().await.unwrap();
        found
    });
    for ((key, acked), found) in oldest.iter().zip(found) {
        let found = found.unwrap_or_else(|error| panic!("{told}: key-{key}: {error}"));
        let is_right = (*acked..=newest).any(|round| found.value == line(*key, round));
        assert!(is_right, "{told}: key-{key} holds {:?}", found.value);
    }
    // And as a user would ask.
    if let Some((key, _)) = oldest.last_key_value() {
        place.run(&["get", &format!("key-{key}")]).expect(0);
    }
}
