//! What a caller can do wrong: each is told with the fact and the remedy, ends with its exit code, and costs nothing
//! that was written.
#![cfg(test)]

mod support;

use std::io::Write;
use std::process::Stdio;

use support::{Place, end};

const LOAD: [&str; 4] = ["load", "-", "--key", "id"];

fn numbered_lines(count: usize) -> String {
    let lines: Vec<String> = (0..count)
        .map(|number| format!("{{\"id\":{number}}}\n"))
        .collect();
    lines.concat()
}

#[test]
fn a_bad_line_is_told_with_its_number_and_the_rest_goes_on() {
    let place = Place::new();
    let long_key = "k".repeat(250);
    let mut input = Vec::new();
    let long = format!("{{\"id\":\"{long_key}\"}}");
    for line in [
        b"{\"id\":\"first\"}",
        b"{\"id\":\"x\"".as_slice(),
        b"[1]",
        b"{\"di\":1}",
        b"{\"id\":null}",
        b"{\"id\":\"\"}",
        b"{\"id\":\"\xff\"}",
        b"",
        long.as_bytes(),
        b"{\"id\":\"last\"}",
    ] {
        input.extend_from_slice(line);
        input.push(b'\n');
    }
    let ended = place.feed(&LOAD, &input);
    ended.expect(1).says(&[
        "line 2: not a JSON object",
        "line 3: not a JSON object",
        "line 4: no field \"id\"",
        "line 5: the field \"id\" is neither a string nor a number",
        "line 6: the key is empty",
        "line 7: not UTF-8",
        "line 9: the key is 251 bytes",
    ]);
    assert_eq!(ended.stderr.lines().count(), 7, "{}", ended.stderr);
    assert!(ended.text().starts_with("2 documents"), "{}", ended.text());
    assert!(
        ended.text().contains("7 lines rejected"),
        "{}",
        ended.text()
    );
    for key in ["first", "last"] {
        place.run(&["get", key]).expect(0);
    }
}

#[test]
fn strict_stops_at_the_first_bad_line() {
    let place = Place::new();
    let mut lines = numbered_lines(2000);
    lines.push_str("bad\n{\"id\":\"after\"}\nbad again\n");
    for durability in [&["--durable"][..], &[]] {
        let place = Place::new();
        let arguments = [&LOAD[..], &["--strict", "--json"], durability].concat();
        let ended = place.feed(&arguments, lines.as_bytes());
        ended.expect(1).says(&["line 2001: "]);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        let loaded = ended.json();
        assert_eq!([&loaded["documents"], &loaded["rejected"]], [2000, 1]);
        place.run(&["get", "1999"]).expect(0);
        place.run(&["get", "after"]).expect(1);
    }
    place
        .feed(&[&LOAD[..], &["--strict"]].concat(), b"{\"id\":1}\n")
        .expect(0);
}

#[test]
fn a_line_over_the_largest_value_is_one_bad_line() {
    let place = Place::new();
    let max = 20 * 1024 * 1024;
    let of_length = |length: usize, key: &str| {
        let shell = format!("{{\"id\":\"{key}\",\"x\":\"\"}}").len();
        format!(
            "{{\"id\":\"{key}\",\"x\":\"{}\"}}\n",
            "x".repeat(length - shell)
        )
    };
    let input = [
        of_length(max, "fits"),
        of_length(max + 1, "over"),
        "{\"id\":\"next\"}\n".into(),
    ];
    let ended = place.feed(&LOAD, input.concat().as_bytes());
    ended
        .expect(1)
        .says(&["line 2: the value is 20971521 bytes; the most is 20971520"]);
    assert_eq!(
        place.run(&["get", "fits"]).expect(0).stdout,
        input[0].trim_end().as_bytes()
    );
    place.run(&["get", "over"]).expect(1);
    place.run(&["get", "next"]).expect(0);
}

#[test]
fn a_bad_row_of_a_csv_costs_no_other_row() {
    let place = Place::new();
    let text = "id,name\n1,a\n2\n3,\"open\n4,b\n5,\"c\"d\n6,e\n";
    let ended = place.feed(&[&LOAD[..], &["--format", "csv"]].concat(), text.as_bytes());
    ended.expect(1).says(&[
        "line 3: the row has 1 fields, the header 2",
        "line 4: something follows a closing quote",
        "line 6: something follows a closing quote",
    ]);
    for (key, code) in [("1", 0), ("2", 1), ("3", 1), ("4", 0), ("5", 1), ("6", 0)] {
        place.run(&["get", key]).expect(code);
    }
}

#[test]
fn what_cannot_be_loaded_makes_no_bucket() {
    let place = Place::new();
    let csv = place.file("a.csv", "a,b\n1,2\n");
    let csv = csv.to_str().unwrap();
    place
        .run(&["load", "nowhere.json", "--key", "id"])
        .expect(1)
        .says(&["nowhere.json"]);
    place
        .run(&["load", ".", "--key", "id"])
        .expect(1)
        .says(&["directory"]);
    place
        .run(&["load", csv, "--key", "id"])
        .expect(1)
        .says(&["no column \"id\"", "a, b"]);
    place.run(&["load", csv]).expect(1).says(&["--key"]);
    place
        .run(&["load", csv, "--key", "a", "--acks", "x"])
        .expect(1)
        .says(&["--durable"]);
    let refused = place.run(&["load", csv, "--key", "a", "--durable", "--acks", "no/where"]);
    refused.expect(1).says(&["no/where"]);
    assert!(!place.data().exists());
}

#[test]
fn a_bad_key_or_value_makes_no_bucket() {
    let place = Place::new();
    let long = "k".repeat(250);
    place.run(&["put", "", "v"]).expect(1).says(&["empty"]);
    place
        .run(&["put", &long, "v"])
        .expect(1)
        .says(&["251 bytes", "249"]);
    let large = vec![b'x'; 20 * 1024 * 1024 + 1];
    place
        .feed(&["put", "k", "-"], &large)
        .expect(1)
        .says(&["20971520"]);
    assert!(!place.data().exists());
    let most = "k".repeat(249);
    place.feed(&["put", &most, "-"], &large[1..]).expect(0);
    assert_eq!(place.run(&["get", &most]).expect(0).stdout, &large[1..]);
    place.run(&["get", &long]).expect(1).says(&["251 bytes"]);
    place.run(&["remove", &long]).expect(1).says(&["251 bytes"]);
}

#[test]
fn a_wrong_word_is_the_callers_mistake() {
    let place = Place::new();
    for arguments in [
        &[][..] as &[&str],
        &["fly"],
        &["get"],
        &["put", "k"],
        &["stat", "--colour"],
        &["load", "-", "--key", "id", "--format", "xml"],
        &["bench", "--threads", "0"],
        &["bench", "--documents", "0"],
        &["stat", "--memory", "0"],
    ] {
        let ended = place.run(arguments);
        assert!(ended.expect(1).stdout.is_empty(), "{arguments:?}");
        ended.says(&["help"]);
    }
}

#[test]
fn where_there_is_no_bucket_reading_makes_none() {
    let place = Place::new();
    for arguments in [&["get", "k"][..], &["remove", "k"], &["stat"], &["verify"]] {
        let ended = place.run(arguments);
        ended
            .expect(1)
            .says(&["there is no bucket in", "piggin create"]);
        assert!(!place.data().exists());
    }
    std::fs::create_dir(place.data()).unwrap();
    for arguments in [&["get", "k"][..], &["remove", "k"], &["stat"], &["verify"]] {
        place
            .run(arguments)
            .expect(1)
            .says(&["there is no bucket in", "piggin create"]);
        assert_eq!(std::fs::read_dir(place.data()).unwrap().count(), 0);
    }
    // What is no bucket is not touched.
    place.file("data/thesis.txt", "irreplaceable");
    for arguments in [
        &["get", "k"][..],
        &["put", "k", "v"],
        &["verify"],
        &["create"],
    ] {
        place.run(arguments).expect(1).says(&["thesis.txt"]);
        assert_eq!(std::fs::read_dir(place.data()).unwrap().count(), 1);
    }
    let file = Place::new();
    file.file("data", "no directory");
    for arguments in [&["get", "k"][..], &["put", "k", "v"], &["verify"]] {
        file.run(arguments)
            .expect(1)
            .says(&["not a directory", "--data"]);
    }
}

#[test]
fn one_process_at_a_time() {
    let place = Place::new();
    place.run(&["put", "k", "v"]).expect(0);
    let mut command = place.command(&LOAD);
    let mut loading = command
        .args(["--durable", "--acks", "acks"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = loading.stdin.take().unwrap();
    lines.write_all(b"{\"id\":\"held\"}\n").unwrap();
    // Once the first key is acknowledged, the bucket is surely open.
    while !place
        .path("acks")
        .metadata()
        .is_ok_and(|acks| acks.len() > 0)
    {
        std::thread::yield_now();
    }
    for arguments in [
        &["get", "k"][..],
        &["put", "k", "w"],
        &["stat"],
        &["verify"],
        &["create"],
    ] {
        let ended = place.run(arguments);
        ended.expect(1).says(&["--data"]);
        if arguments != ["create"] {
            ended.says(&["in use by another process", "wait"]);
        }
    }
    drop(lines);
    assert_eq!(loading.wait().unwrap().code(), Some(0));
    assert_eq!(place.run(&["get", "k"]).expect(0).text(), "v");
    place.run(&["get", "held"]).expect(0);
}

#[test]
fn acks_hold_whole_keys_only() {
    let place = Place::new();
    place.file("acks", "before\nhalf a ke");
    let lines = b"{\"id\":\"a\"}\n{\"id\":\"b\\nc\"}\n{\"id\":\"d\"}\n";
    let arguments = [&LOAD[..], &["--durable", "--acks", "acks"]].concat();
    let ended = place.feed(&arguments, lines);
    ended
        .expect(1)
        .says(&["line 2: the key holds a line break"]);
    let acks = std::fs::read_to_string(place.path("acks")).unwrap();
    assert_eq!(acks, "before\na\nd\n");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "damage is done past the store")]
fn damage_is_a_failure_and_names_its_place() {
    let place = Place::new();
    let lines = numbered_lines(500);
    place.feed(&LOAD, lines.as_bytes()).expect(0);
    let mut files: Vec<_> = std::fs::read_dir(place.data()).unwrap().collect();
    files.sort_by_key(|file| file.as_ref().unwrap().file_name());
    let container = files.iter().flatten().find(|file| {
        let name = file.file_name();
        name.to_string_lossy().starts_with("container")
    });
    let path = container.unwrap().path();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes
        .windows(6)
        .position(|window| window == b"{\"id\":")
        .unwrap();
    bytes[at + 3] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let ended = place.run(&["verify", "--json"]);
    ended.expect(2).says(&["is damaged", "restore"]);
    let fault = &ended.json()["faults"][0];
    assert_eq!(fault["file"], path.file_name().unwrap().to_str().unwrap());
    assert!(
        fault["offset"].is_u64() && fault["what"].is_string(),
        "{fault}"
    );
    let text = place.run(&["verify"]);
    assert!(text.expect(2).text().contains("1 fault"), "{}", text.text());

    // The document of that place is out of service, not gone; most others are there.
    let down: Vec<u16> = place.json(&["stat"])["vbuckets"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|vbucket| vbucket["down"].is_string())
        .map(|vbucket| vbucket["id"].as_u64().unwrap().try_into().unwrap())
        .collect();
    assert!(!down.is_empty() && down.len() < 128, "{down:?}");
    let is_down =
        |key: &usize| down.contains(&piggin::vbucket_of(key.to_string().as_bytes(), 128).get());
    let lost = (0..500).find(is_down).unwrap().to_string();
    let kept = (0..500).find(|key| !is_down(key)).unwrap().to_string();
    place
        .run(&["get", &lost])
        .expect(2)
        .says(&["out of service", "piggin verify"]);
    place
        .run(&["put", &lost, "v"])
        .expect(2)
        .says(&["out of service"]);
    place.run(&["get", &kept]).expect(0);
    place.run(&["put", &kept, "v"]).expect(0);
    let line = format!("{{\"id\":{lost}}}\n{{\"id\":{kept}}}\n");
    let ended = place.feed(&[&LOAD[..], &["--durable"]].concat(), line.as_bytes());
    ended.expect(2).says(&["line 1: vbucket", "out of service"]);
    assert_eq!(
        place.run(&["get", &kept]).text(),
        format!("{{\"id\":{kept}}}")
    );
}

#[test]
fn a_signal_stops_a_load_in_order() {
    let place = Place::new();
    let mut command = place.command(&LOAD);
    let mut loading = command
        .args(["--durable", "--acks", "acks"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = loading.stdin.take().unwrap();
    lines.write_all(b"{\"id\":\"kept\"}\n").unwrap();
    while !place
        .path("acks")
        .metadata()
        .is_ok_and(|acks| acks.len() > 0)
    {
        std::thread::yield_now();
    }
    // The load waits for a line that never comes.
    let pid = rustix::process::Pid::from_child(&loading);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = support::Ended::from(loading.wait_with_output().unwrap());
    ended
        .expect(2)
        .says(&["1 document ", "interrupted", "run it again"]);
    drop(lines);
    place.run(&["get", "kept"]).expect(0);
    let mut verify = place.command(&["verify"]);
    end(&mut verify).expect(0);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "damage is done past the store")]
fn a_compaction_that_fails_names_its_stage_and_its_cause() {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "2"]).expect(0);
    place.feed(&LOAD, numbered_lines(2000).as_bytes()).expect(0);
    let missing = place.run(&["compact", "--vbucket", "2"]);
    missing
        .expect(1)
        .says(&["vbucket 2 does not exist", "below 2"]);
    place.run(&["compact", "--vbucket", "9999"]).expect(1);
    let files = std::fs::read_dir(place.data()).unwrap().flatten();
    let container = files.into_iter().find(|file| {
        let name = file.file_name();
        name.to_string_lossy().starts_with("container")
    });
    let path = container.unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    // Somewhere behind the documents lie the keys, which an opening does not read and a compaction does.
    let failed = (1..64).find_map(|part| {
        let at = whole.len() - whole.len() * part / 64;
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let ended = place.run(&["compact", "--json"]);
        let is_it = ended.stderr.contains("failed at its stage");
        is_it.then_some(ended)
    });
    let failed = failed.expect("a place that only a compaction reads");
    let corruption = [
        "vbucket ",
        "failed at its stage ",
        "corruption in container",
    ];
    failed
        .expect(2)
        .says(&corruption)
        .says(&["not compacted", "as it was"]);
    let answer = failed.json();
    assert!(answer["failed"].as_u64() > Some(0), "{answer}");
    assert_eq!(answer["vbuckets"], 2);
    for key in [0, 1999] {
        place.run(&["get", &key.to_string()]).expect(0);
    }
}
