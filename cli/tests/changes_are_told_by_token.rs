//! `piggin changes`: every event a line, a token behind them, and nothing twice to who begins with it.
#![cfg(test)]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use support::{Ended, Place, airports};

/// The lines, and the token of the last one.
fn lines(ended: &Ended) -> (Vec<Value>, String) {
    let text = String::from_utf8(ended.stdout.clone()).unwrap();
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = lines.pop().unwrap();
    assert_eq!(last["event"], "token");
    (lines, last["token"].as_str().unwrap().to_owned())
}

fn of<'l>(lines: &'l [Value], event: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

#[test]
fn everything_is_told_once_and_then_what_is_new() {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "4"]).expect(0);
    place.run(&["put", "a", "{\"n\": 1}"]).expect(0);
    place.run(&["put", "b", "no json"]).expect(0);
    let (all, token) = lines(place.run(&["changes"]).expect(0));
    let mutations = of(&all, "mutation");
    assert_eq!(mutations.len(), 2);
    let by_key: BTreeMap<&str, &Value> = mutations
        .iter()
        .map(|line| (line["key"].as_str().unwrap(), *line))
        .collect();
    assert_eq!(by_key["a"]["value"]["n"], 1);
    assert_eq!(by_key["b"]["value_base64"], "bm8ganNvbg==");
    assert!(by_key["a"]["cas"].is_string());
    assert_eq!(of(&all, "stream_end").len(), 4);
    assert!(
        of(&all, "stream_end")
            .iter()
            .all(|line| line["reason"] == "ok")
    );
    assert!(!of(&all, "snapshot_marker").is_empty());

    let (none, same) = lines(place.run(&["changes", "--from", &token]).expect(0));
    assert_eq!(of(&none, "mutation").len() + of(&none, "deletion").len(), 0);
    place.run(&["remove", "a"]).expect(0);
    place.run(&["put", "c", "3"]).expect(0);
    let (rest, _) = lines(place.run(&["changes", "--from", &same]).expect(0));
    let keys = |event| -> Vec<&Value> {
        of(&rest, event)
            .into_iter()
            .map(|line| &line["key"])
            .collect()
    };
    assert_eq!(keys("mutation"), ["c"]);
    assert_eq!(keys("deletion"), ["a"]);
}

#[test]
fn tokens_stand_among_the_lines_when_they_are_asked_for() {
    let place = Place::new();
    let file = airports();
    let file = file.to_str().unwrap();
    place.run(&["load", file, "--key", "icao"]).expect(0);
    let ended = place.run(&["changes", "--tokens"]);
    let (all, _) = lines(ended.expect(0));
    let tokens = of(&all, "token");
    assert!(tokens.len() > 10, "{}", tokens.len());
    // Whichever is taken, the rest is what was not told before it.
    let middle = tokens[tokens.len() / 2];
    let before = all.iter().position(|line| line == middle).unwrap();
    let told = of(&all[..before], "mutation").len();
    let from = middle["token"].as_str().unwrap();
    let (rest, _) = lines(place.run(&["changes", "--from", from]).expect(0));
    assert_eq!(
        told + of(&rest, "mutation").len(),
        of(&all, "mutation").len()
    );
}

#[test]
fn one_collection_is_told_alone() {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "2"]).expect(0);
    place
        .run(&["collections", "create", "_default.fruit"])
        .expect(0);
    place.run(&["put", "a", "1"]).expect(0);
    place
        .run(&["put", "--collection", "_default.fruit", "b", "2"])
        .expect(0);
    let (all, _) = lines(place.run(&["changes"]).expect(0));
    assert_eq!(of(&all, "mutation").len(), 2);
    assert_eq!(of(&all, "system_event").len(), 2);
    let fruit = ["changes", "--collection", "_default.fruit"];
    let (some, token) = lines(place.run(&fruit).expect(0));
    let [only] = of(&some, "mutation")[..] else {
        panic!("{some:?}");
    };
    assert_eq!(only["key"], "b");
    assert!(only["collection"].is_number());
    assert_eq!(of(&some, "system_event")[0]["name"], "fruit");
    // A token is for what it was handed out for.
    place
        .run(&["changes", "--from", &token])
        .expect(1)
        .says(&["other collections"]);
    place
        .run(&["changes", "--collection", "_default.none"])
        .expect(1)
        .says(&["no collection"]);
}

#[test]
fn what_cannot_be_told_is_refused() {
    let place = Place::new();
    place.run(&["changes"]).expect(1).says(&["no bucket"]);
    place.run(&["put", "a", "1"]).expect(0);
    let (_, token) = lines(place.run(&["changes"]).expect(0));
    let damaged = format!("{token}00");
    for wrong in [&damaged, "no token", ""] {
        place
            .run(&["changes", "--from", wrong])
            .expect(1)
            .says(&["token"]);
    }
    let other = Place::new();
    other.run(&["create", "--vbuckets", "2"]).expect(0);
    other
        .run(&["changes", "--from", &token])
        .expect(1)
        .says(&["vbuckets"]);
    // Of a bucket of as many vbuckets, but another one: nothing of it may be taken for granted.
    let twin = Place::new();
    twin.run(&["put", "a", "1"]).expect(0);
    let ended = twin.run(&["changes", "--from", &token]);
    ended.expect(2).says(&["rollback", "without a token"]);
    let (lines, _) = lines(&ended);
    let is_rollback = |line: &&Value| line["reason"] == "rollback";
    assert!(lines.iter().any(|line| is_rollback(&line)));
}

#[test]
fn a_load_tells_its_changes_as_they_happen() {
    let place = Place::new();
    place.run(&["put", "before", "1"]).expect(0);
    let file = place.file(
        "a.json",
        "{\"id\":\"a\"}\n{\"id\":\"b\"}\n{\"id\":\"a\",\"n\":2}\n",
    );
    let told = place.path("changes.json");
    let (file, told) = (file.to_str().unwrap(), told.to_str().unwrap());
    place
        .run(&["load", file, "--key", "id", "--changes", told])
        .expect(0);
    let text = std::fs::read_to_string(told).unwrap();
    let mut all: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let token = all.pop().unwrap();
    let mut newest = BTreeMap::new();
    for line in of(&all, "mutation") {
        newest.insert(line["key"].as_str().unwrap(), &line["value"]);
    }
    assert_eq!(newest.keys().copied().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(newest["a"]["n"], 2);
    let token = token["token"].as_str().unwrap();
    let (rest, _) = lines(place.run(&["changes", "--from", token]).expect(0));
    assert!(of(&rest, "mutation").is_empty());
    let nowhere = place.path("no/such/file");
    let nowhere = nowhere.to_str().unwrap();
    place
        .run(&["load", file, "--key", "id", "--changes", nowhere])
        .expect(1);
}

/// Waits until the file holds this.
fn await_told(file: &Path, what: &str) {
    // Nothing to wait for but time itself: nobody ever sends.
    let (_never, nothing) = mpsc::channel::<()>();
    for _ in 0..6000 {
        if std::fs::read_to_string(file).is_ok_and(|text| text.contains(what)) {
            return;
        }
        nothing.recv_timeout(Duration::from_millis(10)).unwrap_err();
    }
    panic!("no {what} in {file:?}");
}

#[test]
fn what_is_loaded_is_told_before_the_next_line_comes() {
    let place = Place::new();
    let told = place.path("changes.json");
    let arguments = [
        "load",
        "-",
        "--key",
        "id",
        "--changes",
        told.to_str().unwrap(),
    ];
    let mut command = place.command(&arguments);
    let mut load = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = load.stdin.take().unwrap();
    for number in 0..3 {
        writeln!(lines, "{{\"id\":\"line-{number}\"}}").unwrap();
        await_told(&told, &format!("\"key\":\"line-{number}\""));
    }
    drop(lines);
    assert!(load.wait().unwrap().success());
    await_told(&told, "\"event\":\"token\"");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "damage is done past the store")]
fn a_vbucket_that_is_down_is_told_and_the_others_are_told_whole() {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "2"]).expect(0);
    let filler = "x".repeat(200);
    let line = |number| format!("{{\"id\":\"{number}\",\"x\":\"{filler}\"}}");
    let input = (0..2000).map(line).collect::<Vec<_>>().join("\n");
    place
        .feed(&["load", "-", "--key", "id"], input.as_bytes())
        .expect(0);
    place.run(&["compact"]).expect(0);
    let files = std::fs::read_dir(place.data()).unwrap().flatten();
    let container = files.into_iter().find(|file| {
        let name = file.file_name();
        name.to_string_lossy().starts_with("container")
    });
    let path = container.unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    // Wherever documents lie.
    let broken = (1..64).find_map(|part| {
        let mut damaged = whole.clone();
        damaged[whole.len() * part / 64] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let ended = place.run(&["changes"]);
        ended
            .stderr
            .contains("broke off: vbucket_down")
            .then_some(ended)
    });
    let broken = broken.expect("a place that the opening reads");
    broken.expect(2).says(&["see why: piggin stat"]);
    let (all, token) = lines(&broken);
    let mut reasons: Vec<&str> = of(&all, "stream_end")
        .iter()
        .map(|line| line["reason"].as_str().unwrap())
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["ok", "vbucket_down"]);
    let told = of(&all, "mutation").len();
    assert!(told > 0 && told < 2000, "{told}");
    // Once it is mended the token brings the rest, and nothing twice.
    std::fs::write(&path, whole).unwrap();
    let (rest, _) = lines(place.run(&["changes", "--from", &token]).expect(0));
    assert_eq!(told + of(&rest, "mutation").len(), 2000);
}
