//! Every command on a small bucket: its answer and its exit code.
#![cfg(test)]

mod support;

use std::process::Stdio;

use support::{Place, airports, end};

#[test]
fn a_bucket_is_made_once() {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "16"]).expect(0);
    let stat = place.json(&["stat"]);
    assert_eq!(stat["vbuckets"].as_array().unwrap().len(), 16);
    let again = place.run(&["create"]);
    again.expect(1).says(&["already", "--data"]);
    for count in ["0", "3", "2048"] {
        let other = Place::new();
        other
            .run(&["create", "--vbuckets", count])
            .expect(1)
            .says(&["power of two"]);
    }
}

#[test]
fn what_was_put_is_got_byte_for_byte() {
    let place = Place::new();
    place.run(&["put", "k", "v"]).expect(0);
    assert_eq!(place.run(&["get", "k"]).expect(0).stdout, b"v");
    place.run(&["put", "k", "--", "--json"]).expect(0);
    assert_eq!(place.run(&["get", "k"]).stdout, b"--json");
    place.run(&["put", "k", "-5"]).expect(0);
    assert_eq!(place.run(&["get", "k"]).stdout, b"-5");
    let bytes: Vec<u8> = (0..=255).chain(*b"\n\n").collect();
    place.feed(&["put", "k", "-"], &bytes).expect(0);
    assert_eq!(place.run(&["get", "k"]).stdout, bytes);
    place.feed(&["put", "k", "-"], b"").expect(0);
    assert_eq!(place.run(&["get", "k"]).expect(0).stdout, b"");
}

#[test]
fn what_was_removed_is_gone() {
    let place = Place::new();
    place.run(&["put", "k", "v"]).expect(0);
    place.run(&["remove", "k"]).expect(0);
    place.run(&["get", "k"]).expect(1).says(&["does not exist"]);
    place
        .run(&["remove", "k"])
        .expect(1)
        .says(&["does not exist"]);
}

#[test]
fn a_document_is_changed_by_what_is_there() {
    let place = Place::new();
    place.run(&["put", "k", "b"]).expect(0);
    place.run(&["append", "k", "c"]).expect(0);
    place.feed(&["prepend", "k", "-"], b"a").expect(0);
    assert_eq!(place.run(&["get", "k"]).stdout, b"abc");
    place.run(&["incr", "k"]).expect(1).says(&["not a number"]);
    assert_eq!(place.run(&["get", "k"]).stdout, b"abc");
    place
        .run(&["incr", "n"])
        .expect(1)
        .says(&["does not exist"]);
    place.run(&["incr", "n", "--initial", "40"]).expect(0);
    place.run(&["incr", "n", "--by", "3"]).expect(0);
    let left = place.run(&["decr", "n"]);
    assert!(left.expect(0).text().starts_with("n: 42, "));
    let other = Place::new();
    for words in [["append", "k", "v"], ["touch", "k", "9"]] {
        other.run(&words).expect(1).says(&["no bucket"]);
    }
}

#[test]
fn a_range_is_told_by_rising_key() {
    let place = Place::new();
    let lines: Vec<String> = (0..300)
        .map(|n| format!("{{\"id\":\"k{n:03}\"}}\n"))
        .collect();
    place
        .feed(&["load", "-", "--key", "id"], lines.concat().as_bytes())
        .expect(0);
    place.run(&["put", "other", "no json"]).expect(0);
    place.run(&["remove", "k017"]).expect(0);
    let keys = |words: &[&str]| -> Vec<String> {
        let ended = place.run(words);
        let lines = ended
            .expect(0)
            .text()
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>();
        let key = |line: &String| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["key"].as_str().unwrap().to_owned()
        };
        lines.iter().map(key).collect()
    };
    let all = keys(&["scan"]);
    assert_eq!(all.len(), 300);
    assert!(all.is_sorted() && !all.contains(&"k017".to_owned()));
    assert_eq!(keys(&["scan", "--prefix", "k01"]).len(), 9);
    assert_eq!(
        keys(&["scan", "--prefix", "k1", "--limit", "2"]),
        ["k100", "k101"]
    );
    assert_eq!(
        keys(&["scan", "--from", "k298", "--to", "other"]),
        ["k298", "k299"]
    );
    assert!(keys(&["scan", "--prefix", "x"]).is_empty());
    let line = place.json(&["scan", "--from", "other"]);
    assert_eq!(line["value_base64"], "bm8ganNvbg==");
    let line = place.json(&["scan", "--prefix", "k299"]);
    assert_eq!(line["value"]["id"], "k299");
    let bare = place.json(&["scan", "--prefix", "k299", "--keys-only"]);
    assert!(bare.get("value").is_none());
    place
        .run(&["scan", "--prefix", "a", "--from", "b"])
        .expect(1);
    place.run(&["scan", "--collection", "no.such"]).expect(1);
    Place::new().run(&["scan"]).expect(1).says(&["no bucket"]);
}

#[test]
fn what_was_touched_expires_when_it_says() {
    let place = Place::new();
    place.run(&["put", "k", "v"]).expect(0);
    place.run(&["touch", "k", "4000000000"]).expect(0);
    assert_eq!(place.json(&["get", "k"])["expiry"], 4_000_000_000_u32);
    // Absolute, and long ago.
    place.run(&["touch", "k", "1000000000"]).expect(0);
    place.run(&["get", "k"]).expect(1).says(&["does not exist"]);
}

#[test]
fn a_load_keeps_the_lines_as_they_are() {
    let place = Place::new();
    let file = place.file(
        "a.json",
        " {\"id\":\"a\", \"x\": 1.0 } \r\n\n{\"x\":[],\"id\":7}",
    );
    let loaded = place.run(&[
        "load".as_ref(),
        file.as_os_str(),
        "--key".as_ref(),
        "id".as_ref(),
    ]);
    assert!(
        loaded.expect(0).text().starts_with("2 documents"),
        "{}",
        loaded.text()
    );
    assert!(
        loaded.stderr.is_empty(),
        "no progress in a pipe: {}",
        loaded.stderr
    );
    assert_eq!(
        place.run(&["get", "a"]).text(),
        " {\"id\":\"a\", \"x\": 1.0 } "
    );
    assert_eq!(place.run(&["get", "7"]).text(), "{\"x\":[],\"id\":7}");
    // Of two lines with one key the later one wins, also over what was there.
    let lines: Vec<String> = (0..3000)
        .map(|n| format!("{{\"id\":{},\"n\":{n}}}\n", n % 7))
        .collect();
    for durability in [&["--durable"][..], &[]] {
        let arguments = [&["load", "-", "--key", "id"], durability].concat();
        place.feed(&arguments, lines.concat().as_bytes()).expect(0);
        for key in 0..7_usize {
            let last = (0..3000).rev().find(|n| n % 7 == key).unwrap();
            assert_eq!(
                place.run(&["get", &key.to_string()]).text(),
                lines[last].trim_end()
            );
        }
    }
    place.feed(&["load", "-", "--key", "id"], b"").expect(0);
    assert_eq!(place.json(&["stat"])["documents"], 9);
}

#[test]
fn a_compaction_lets_go_what_was_deleted_when_told_to() {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "1"]).expect(0);
    let lines = |from: usize, to: usize| -> String {
        let line = |n| format!("{{\"id\":{n},\"filler\":\"{}\"}}\n", "x".repeat(100));
        (from..to).map(line).collect::<Vec<_>>().concat()
    };
    let load = ["load", "-", "--key", "id"];
    place.feed(&load, lines(0, 300).as_bytes()).expect(0);
    for key in 0..5 {
        place.run(&["remove", &key.to_string()]).expect(0);
    }
    place.feed(&load, lines(5, 300).as_bytes()).expect(0);
    // They are of today.
    let young = place.json(&["compact"]);
    assert_eq!(young["tombstones_purged"], 0, "{young}");
    let compacted = place.json(&["compact", "--drop-deletes"]);
    assert_eq!(compacted["tombstones_purged"], 5, "{compacted}");
    assert_eq!(compacted["failed"], 0);
    let text = place.run(&["compact", "--vbucket", "0"]);
    assert!(
        text.expect(0).text().starts_with("1 vbucket in "),
        "{}",
        text.text()
    );
    assert!(
        text.stderr.is_empty(),
        "no progress in a pipe: {}",
        text.stderr
    );
    assert_eq!(place.json(&["stat"])["documents"], 295);
    place.run(&["get", "0"]).expect(1).says(&["does not exist"]);
    place.run(&["get", "299"]).expect(0);
    place.run(&["verify"]).expect(0);
}

#[test]
fn a_csv_becomes_objects_of_strings() {
    let place = Place::new();
    let text = b"id,name\n1,\"a, b\"\n2,c\n";
    place
        .feed(&["load", "-", "--format", "csv", "--key", "id"], text)
        .expect(0);
    assert_eq!(
        place.run(&["get", "1"]).text(),
        r#"{"id":"1","name":"a, b"}"#
    );
    let file = place.file("b.CSV", "name,id\nx,3\n");
    place
        .run(&["load", file.to_str().unwrap(), "--key", "id"])
        .expect(0);
    assert_eq!(place.run(&["get", "3"]).text(), r#"{"name":"x","id":"3"}"#);
}

#[test]
fn the_data_of_the_readme_is_loaded_and_found_again() {
    let place = Place::new();
    let airports = airports();
    let loaded = place.json(&[
        "load",
        airports.to_str().unwrap(),
        "--key",
        "icao",
        "--durable",
    ]);
    assert_eq!(loaded["rejected"], 0);
    assert!(loaded["documents"].as_u64().unwrap() > 28_000, "{loaded}");
    let kennedy = place.run(&["get", "KJFK"]);
    assert!(
        kennedy.expect(0).text().contains("\"iata\":\"JFK\""),
        "{}",
        kennedy.text()
    );
    assert_eq!(place.json(&["stat"])["documents"], loaded["documents"]);
    let verified = place.json(&["verify"]);
    assert_eq!(verified["faults"].as_array().unwrap().len(), 0);
}

#[test]
fn the_workloads_run_and_leave_nothing_behind() {
    let place = Place::new();
    place.run(&["put", "k", "v"]).expect(0);
    let small = [
        "bench",
        "--documents",
        "200",
        "--value-size",
        "50",
        "--seconds",
        "1",
    ];
    let report = place.json(&[&small[..], &["--threads", "2", "--workload", "a,D,f"]].concat());
    let workloads = report["workloads"].as_array().unwrap();
    assert_eq!(workloads.len(), 3);
    for workload in workloads {
        assert!(workload["operations"].as_u64().unwrap() > 0, "{workload}");
        assert_eq!(workload["missing"], 0, "{workload}");
        assert!(
            workload["latencies_us"]["read"]["p99"].as_f64().unwrap() > 0.0,
            "{workload}"
        );
    }
    let persisted = ["--workload", "A", "--durability", "persisted"];
    let report = place.json(&[&small[..], &persisted].concat());
    assert_eq!(report["durability"], "persisted");
    let report = place.json(&[&small[..], &["--workload", "e"]].concat());
    let ranges = &report["workloads"][0]["latencies_us"]["scan"];
    assert!(ranges["count"].as_u64().unwrap() > 0, "{report}");
    assert!(!place.data().join("bench").exists());
    assert_eq!(place.run(&["get", "k"]).expect(0).text(), "v");
    let elsewhere = Place::new();
    elsewhere
        .run(&[&small[..], &["--workload", "c"]].concat())
        .expect(0);
    assert!(!elsewhere.data().exists());
}

#[test]
fn help_and_version_are_answers() {
    let place = Place::new();
    assert!(
        place
            .run(&["--version"])
            .expect(0)
            .text()
            .starts_with("piggin ")
    );
    for command in [
        "create", "load", "get", "put", "remove", "stat", "compact", "verify", "bench",
    ] {
        assert!(place.run(&["--help"]).expect(0).text().contains(command));
        place.run(&[command, "--help"]).expect(0);
    }
    assert!(!place.data().exists());
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let place = Place::new();
    place
        .feed(&["put", "k", "-"], &vec![b'x'; 1 << 20])
        .expect(0);
    for arguments in [&["get", "k"][..], &["stat", "--json"], &["verify"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = place.command(arguments);
        command
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        // The pipe's last end is the child's.
        drop(command);
        let ended = support::Ended::from(child.wait_with_output().unwrap());
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (0, ""),
            "{arguments:?}"
        );
    }
    // The default directory is the current one's.
    let mut plain = std::process::Command::new(env!("CARGO_BIN_EXE_piggin"));
    plain.args(["put", "k", "v"]).current_dir(place.path("."));
    end(&mut plain).expect(0);
    assert!(place.path("piggin-data").exists());
}
