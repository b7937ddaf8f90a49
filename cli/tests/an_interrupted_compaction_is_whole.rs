//! Ctrl-C in the middle of `compact`: it gives up what is left and says so, with exit code 2, and every document is there in
//! a directory without a fault.
#![cfg(test)]
#![cfg(target_os = "linux")]

mod support;

use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use support::{Ended, Place};

const DOCUMENTS: usize = 4000;
/// A compaction may be over before it is interrupted; seldom so often.
const TRIES: usize = 20;

fn filled() -> Place {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "1024"]).expect(0);
    let line = |key: usize| format!("{{\"id\":\"key-{key}\",\"value\":{key}}}\n");
    let lines: String = (0..DOCUMENTS).map(line).collect();
    let loaded = place.feed(&["load", "-", "--key", "id"], lines.as_bytes());
    loaded.expect(0);
    place
}

/// Whether the program has a handler of its own for Ctrl-C by now, or has ended.
fn listens(child: &mut Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
    let status = status.unwrap_or_default();
    let mut lines = status.lines();
    let caught = lines.find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let interrupt = 1 << (Signal::INT.as_raw() - 1);
    caught.is_some_and(|mask| mask & interrupt != 0) || child.try_wait().unwrap().is_some()
}

/// Sends Ctrl-C as soon as it is heard.
fn interrupted(place: &Place) -> Ended {
    let mut command = place.command(&["compact"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !listens(&mut child) {
        std::thread::yield_now();
    }
    // One that has ended is not there to hear it.
    kill_process(Pid::from_child(&child), Signal::INT).ok();
    child.wait_with_output().unwrap().into()
}

#[test]
fn an_interrupted_compaction_says_so_and_leaves_a_sound_directory() {
    let place = filled();
    let mut was_interrupted = false;
    for _ in 0..TRIES {
        let ended = interrupted(&place);
        if ended.code == 0 {
            continue;
        }
        ended.expect(2).says(&["interrupted", "stays so"]);
        assert!(!ended.text().contains(" became "), "{}", ended.text());
        was_interrupted = true;
        break;
    }
    assert!(was_interrupted, "{TRIES} compactions ended before that");
    place.run(&["verify"]).expect(0);
    let statistics = place.json(&["stat"]);
    assert_eq!(statistics["documents"], DOCUMENTS);
    for key in [0, DOCUMENTS - 1] {
        place.run(&["get", &format!("key-{key}")]).expect(0);
    }
    // What was given up is done by the next one.
    let compacted = place.json(&["compact"]);
    assert_eq!(
        (&compacted["vbuckets"], &compacted["failed"]),
        (&1024.into(), &0.into())
    );
    place.run(&["verify"]).expect(0);
}
