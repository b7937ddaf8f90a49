//! Memory that is used up and a disk that takes no more: waited for as long as a person would wait, then told with the
//! remedy; what was acknowledged before is there.
#![cfg(test)]

mod support;

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Place, end};

/// Lines of about 110 bytes each.
fn lines(count: usize) -> String {
    let mut lines = String::new();
    for number in 0..count {
        writeln!(lines, "{{\"id\":{number},\"x\":\"{}\"}}", "x".repeat(90)).unwrap();
    }
    lines
}

#[test]
fn a_memory_quota_that_stays_used_up() {
    let place = Place::new();
    place.run(&["create", "--eviction", "none"]).expect(0);
    let arguments = ["load", "-", "--key", "id", "--durable", "--acks", "acks"];
    let ended = place.feed(
        &[&arguments[..], &["--memory", "1"]].concat(),
        lines(50_000).as_bytes(),
    );
    ended
        .expect(2)
        .says(&["the memory quota is used up", "--memory", "stopped early"]);
    assert_acked_are_there(&place);
    // With the memory it takes, the same load goes through.
    place.feed(&arguments, lines(50_000).as_bytes()).expect(0);
}

#[test]
fn a_memory_quota_that_documents_leave_is_enough_for_any_load() {
    let place = Place::new();
    let arguments = ["load", "-", "--key", "id", "--memory", "2"];
    place.feed(&arguments, lines(50_000).as_bytes()).expect(0);
    let stat = place.json(&["stat", "--memory", "2"]);
    assert_eq!(
        [&stat["documents"], &stat["memory_quota_bytes"]],
        [50_000, 2 << 20]
    );
    assert!(
        stat["resident_documents"].as_u64().unwrap() < 25_000,
        "{stat}"
    );
    assert_eq!(stat["eviction"], "documents");
    let value = place.run(&["get", "17", "--memory", "2"]);
    assert!(value.expect(0).text().contains("{\"id\":17,"));
    place.run(&["verify"]).expect(0);
}

#[test]
fn a_disk_that_takes_no_more() {
    let place = Place::new();
    let file = place.file("lines", lines(50_000));
    place.run(&["create"]).expect(0);
    // No file of the load may grow beyond a limit, which is below what a second log file needs.
    let limited = "trap '' XFSZ; ulimit -f 2200; exec \"$@\"";
    let program = place.command(&["load", file.to_str().unwrap(), "--key", "id"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", limited, "sh"])
        .arg(program.get_program())
        .args(program.get_args())
        .args(["--durable", "--acks", "acks"])
        .current_dir(place.path("."))
        .stdin(Stdio::null());
    let ended = end(&mut shell);
    ended
        .expect(2)
        .says(&["disk", "stopped early", "run it again"]);
    assert_acked_are_there(&place);
    place
        .run(&["load", file.to_str().unwrap(), "--key", "id"])
        .expect(0);
}

fn assert_acked_are_there(place: &Place) {
    place.run(&["verify"]).expect(0);
    let acks = read(&place.path("acks"));
    let keys: Vec<&str> = acks.lines().collect();
    let (first, last) = (keys.first().unwrap(), keys.last().unwrap());
    for key in [first, last] {
        let value = place.run(&["get", key]);
        assert!(value.expect(0).text().contains(&format!("{{\"id\":{key},")));
    }
    let documents = place.json(&["stat"])["documents"].as_u64().unwrap();
    assert!(
        documents >= keys.len() as u64,
        "{documents} of {}",
        keys.len()
    );
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
