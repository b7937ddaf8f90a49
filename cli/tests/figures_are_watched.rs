//! `piggin stat --watch`: the figures of a bucket in use by another process, until that ends; where nobody tells any it says so.
#![cfg(test)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::Value;

use support::Place;

#[test]
fn a_load_is_watched_to_its_end() {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "2"]).expect(0);
    let mut load = place
        .command(&["load", "-", "--key", "id", "--figures"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = load.stdin.take().unwrap();
    writeln!(lines, "{{\"id\":\"a\"}}").unwrap();
    let watch = || {
        place
            .command(&["stat", "--watch", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    // Until the load has begun nobody tells anything, which is said at once.
    let (mut watching, first) = loop {
        let mut watching = watch();
        let mut out = BufReader::new(watching.stdout.take().unwrap());
        let mut line = String::new();
        if out.read_line(&mut line).unwrap() > 0 {
            watching.stdout = Some(out.into_inner());
            break (watching, line);
        }
        assert_eq!(watching.wait().unwrap().code(), Some(1));
    };
    let first: Value = serde_json::from_str(&first).unwrap();
    assert!(first["documents"].is_u64() && first["memory_quota_bytes"].is_u64());
    assert!(
        first.get("writes_per_second").is_none(),
        "of one telling there is no rate"
    );
    // It is not in use by whoever watches it.
    place.run(&["stat"]).expect(1).says(&["in use"]);
    drop(lines);
    assert!(load.wait().unwrap().success());
    assert_eq!(watching.wait().unwrap().code(), Some(0));
    place
        .run(&["stat", "--watch"])
        .expect(1)
        .says(&["nobody tells", "--figures"]);
    place.run(&["stat"]).expect(0);
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let place = Place::new();
    place
        .run(&["stat", "--watch"])
        .expect(1)
        .says(&["no bucket"]);
    place.run(&["put", "a", "1"]).expect(0);
    place.run(&["stat", "--watch", "0"]).expect(1);
    place.run(&["stat", "--watch", "often"]).expect(1);
    place
        .run(&["stat", "--watch", "5"])
        .expect(1)
        .says(&["nobody tells"]);
}
