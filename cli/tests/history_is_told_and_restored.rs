//! `piggin create --history`, `piggin history` and `piggin restore`: a load is given back as it was before it was
//! overwritten, by time and by token, with a compaction in between; what cannot be had is refused and changes nothing.
#![cfg(test)]

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use support::{Ended, Place};

fn place() -> Place {
    let place = Place::new();
    let made = place.json(&["create", "--vbuckets", "4", "--history", "24h"]);
    assert_eq!(made["history_s"], json!(86_400));
    place
}

fn lines(ended: &Ended) -> Vec<Value> {
    let text = String::from_utf8(ended.expect(0).stdout.clone()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

fn token(place: &Place) -> String {
    let events = lines(&place.run(&["changes"]));
    events.last().unwrap()["token"].as_str().unwrap().to_owned()
}

/// The newest of every key, as the changes of a bucket tell it.
fn documents(place: &Place, data: &str) -> BTreeMap<String, Value> {
    let data = place.path(data);
    let mut documents = BTreeMap::new();
    for event in lines(&place.run(&["changes".as_ref(), "--data".as_ref(), data.as_os_str()])) {
        let Some(key) = event["key"].as_str() else {
            continue;
        };
        if event["event"] == "mutation" {
            documents.insert(key.to_owned(), json!([event["value"], event["cas"]]));
        } else {
            documents.remove(key);
        }
    }
    documents
}

fn restore(place: &Place, to: &str, into: &str) -> Ended {
    place.run(&["restore", "--to", to, "--into", into])
}

#[test]
fn history_is_given_back_by_time_and_by_token() {
    let place = place();
    let each: Vec<String> = (0..200)
        .map(|id| format!("{{\"id\":{id},\"round\":1}}\n"))
        .collect();
    let load = each.concat();
    place
        .feed(&["load", "-", "--key", "id"], load.as_bytes())
        .expect(0);
    let copy = documents(&place, "data");
    assert_eq!(copy.len(), 200);
    let token = token(&place);
    let load = load.replace("\"round\":1", "\"round\":2");
    place
        .feed(&["load", "-", "--key", "id"], load.as_bytes())
        .expect(0);
    place.run(&["remove", "7"]).expect(0);
    place.run(&["compact"]).expect(0);
    assert_ne!(documents(&place, "data"), copy);

    let told = lines(&place.run(&["history", "7"]));
    let events: Vec<&Value> = told.iter().map(|version| &version["event"]).collect();
    assert_eq!(events, ["deletion", "mutation", "mutation"]);
    assert_eq!(told[2]["value"]["round"], json!(1));
    assert_eq!(told[2]["superseded_by"], told[1]["seqno"]);
    assert!(lines(&place.run(&["history", "none"])).is_empty());
    let between = told[2]["committed_at"].as_str().unwrap();

    let answer = restore(&place, &token, "by-token");
    assert!(
        answer
            .expect(0)
            .text()
            .starts_with("restored 200 documents"),
        "{answer:?}"
    );
    assert_eq!(documents(&place, "by-token"), copy);
    // Of each vbucket what its last commit by then left; the vbucket of this key had its last of the first load then.
    restore(&place, between, "by-time").expect(0);
    let by_time = documents(&place, "by-time");
    assert_eq!(by_time["7"], copy["7"]);
    assert!(by_time.iter().all(|(key, document)| copy[key] == *document));
    let data = place.path("by-token");
    let verified = place.run(&["verify".as_ref(), "--data".as_ref(), data.as_os_str()]);
    verified.expect(0);
}

#[test]
fn history_that_cannot_be_had_is_refused() {
    let place = place();
    place.run(&["put", "a", "1"]).expect(0);
    let before = documents(&place, "data");
    let of_now = token(&place);
    for (to, into, says) in [
        (
            "2001-01-01T00:00:00Z",
            "new",
            "before the history that is kept",
        ),
        ("2901-01-01T00:00:00Z", "new", "has not passed"),
        ("yesterday", "new", "token"),
        ("2026-13-01T00:00:00Z", "new", "give a time in UTC"),
        (of_now.as_str(), "data", "holds something"),
    ] {
        restore(&place, to, into).expect(1).says(&[says]);
        assert!(!place.path("new").exists(), "{to}");
    }
    let other = self::place();
    other.run(&["put", "a", "1"]).expect(0);
    restore(&place, &token(&other), "new")
        .expect(1)
        .says(&["of another bucket"]);
    assert!(!place.path("new").exists());
    assert_eq!(documents(&place, "data"), before);

    let without = Place::new();
    without.run(&["create", "--vbuckets", "4"]).expect(0);
    without.run(&["put", "a", "1"]).expect(0);
    let says = ["keeps no history"];
    without.run(&["history", "a"]).expect(1).says(&says);
    restore(&without, &token(&without), "new")
        .expect(1)
        .says(&says);
    for wrong in [
        ["--history", "0s"],
        ["--history", "24"],
        ["--history-bytes", "1GiB"],
    ] {
        let place = Place::new();
        place.run(&[&["create"], &wrong[..]].concat()).expect(1);
        assert!(!place.data().exists());
    }
}

#[test]
fn history_on_changes_is_every_version() {
    let place = Place::new();
    place
        .run(&["create", "--vbuckets", "1", "--history", "24h"])
        .expect(0);
    for value in ["1", "2", "3"] {
        place.run(&["put", "a", value]).expect(0);
    }
    place.run(&["remove", "a"]).expect(0);
    let told = lines(&place.run(&["changes", "--history"]));
    let values: Vec<&Value> = told.iter().filter_map(|line| line.get("value")).collect();
    assert_eq!(values, [&json!(1), &json!(2), &json!(3)]);
    let is = |event: &str| told.iter().filter(|line| line["event"] == event).count();
    assert_eq!(is("deletion"), 1);
    let markers = told
        .iter()
        .filter(|line| line["event"] == "snapshot_marker");
    assert!(markers.clone().count() > 0);
    assert!(
        markers
            .into_iter()
            .all(|marker| marker["history"] == json!(true))
    );
    // Without it the newest is told, and no line says anything of a history.
    let newest = lines(&place.run(&["changes"]));
    assert!(newest.iter().all(|line| line.get("history").is_none()));
    assert_eq!(
        newest
            .iter()
            .filter(|line| line.get("key").is_some())
            .count(),
        1
    );

    let without = Place::new();
    without.run(&["put", "a", "1"]).expect(0);
    let refused = without.run(&["changes", "--history"]);
    refused.expect(1).says(&["keeps no history"]);
}
