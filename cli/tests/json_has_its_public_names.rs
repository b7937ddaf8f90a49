//! The names in the JSON answers are a promise, and 64-bit identities are strings.
#![cfg(test)]

mod support;

use serde_json::Value;

use support::{Place, names};

fn is_number_in_text(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.parse::<u64>().is_ok())
}

#[test]
fn what_leaves_memory() {
    for eviction in ["documents", "values", "none"] {
        let place = Place::new();
        let created = place.json(&["create", "--eviction", eviction]);
        assert_eq!(created["eviction"], eviction);
        assert_eq!(place.json(&["stat"])["eviction"], eviction);
    }
}

#[test]
fn create_and_load() {
    let place = Place::new();
    let created = place.json(&["create", "--vbuckets", "4"]);
    assert_eq!(names(&created), ["directory", "eviction", "vbuckets"]);
    assert_eq!(created["vbuckets"], 4);
    let lines = b"{\"id\":1}\n{\"id\":}\n{\"id\":22}\n";
    let ended = place.feed(&["load", "-", "--key", "id", "--json"], lines);
    ended.expect(1).says(&["line 2: "]);
    let loaded = ended.json();
    let expected = [
        "bytes",
        "documents",
        "documents_per_second",
        "rejected",
        "seconds",
    ];
    assert_eq!(names(&loaded), expected);
    assert_eq!(
        [&loaded["documents"], &loaded["rejected"], &loaded["bytes"]],
        [2, 1, 17]
    );
    assert!(loaded["seconds"].is_f64() && loaded["documents_per_second"].is_f64());
}

#[test]
fn put_get_and_remove() {
    let place = Place::new();
    let put = place.json(&["put", "k", "v"]);
    assert_eq!(
        names(&put),
        ["cas", "key", "seqno", "vbucket", "vbucket_uuid"]
    );
    assert_eq!((&put["key"], &put["seqno"]), (&"k".into(), &1.into()));
    assert!(is_number_in_text(&put["cas"]) && is_number_in_text(&put["vbucket_uuid"]));
    let got = place.json(&["get", "k"]);
    let expected = [
        "cas",
        "datatype",
        "expiry",
        "flags",
        "key",
        "rev_seqno",
        "seqno",
        "value",
        "vbucket",
    ];
    assert_eq!(names(&got), expected);
    assert_eq!((&got["value"], &got["cas"]), (&"v".into(), &put["cas"]));
    place.feed(&["put", "b", "-"], b"\xff\x00").expect(0);
    let bytes = place.json(&["get", "b"]);
    assert_eq!(
        (&bytes["value"], &bytes["value_hex"]),
        (&Value::Null, &"ff00".into())
    );
    let removed = place.json(&["remove", "k"]);
    assert_eq!(names(&removed), names(&put));
    assert_eq!(removed["seqno"], 2);
    let counted = place.json(&["incr", "n", "--initial", "18446744073709551615"]);
    let mut expected = names(&put);
    expected.insert(1, "counter");
    assert_eq!(names(&counted), expected);
    assert_eq!(counted["counter"], "18446744073709551615");
    let touched = place.json(&["touch", "n", "60"]);
    assert_eq!(names(&touched), names(&put));
    // An error is said on standard error; there is no half answer.
    let missing = place.run(&["get", "k", "--json"]);
    assert!(missing.expect(1).stdout.is_empty());
}

#[test]
fn stat() {
    let place = Place::new();
    for key in ["a", "b", "c"] {
        place.run(&["put", key, "v"]).expect(0);
    }
    let stat = place.json(&["stat"]);
    let expected = [
        "children",
        "disk_bytes",
        "documents",
        "eviction",
        "failures",
        "live_bytes",
        "memory_bytes",
        "memory_quota_bytes",
        "resident_documents",
        "vbuckets",
    ];
    assert_eq!(names(&stat), expected);
    assert_eq!(stat["documents"], 3);
    assert!(stat["disk_bytes"].as_u64() > Some(0) && stat["live_bytes"].as_u64() > Some(0));
    assert!(stat["memory_bytes"].is_u64() && stat["memory_quota_bytes"].is_u64());
    assert_eq!(stat["resident_documents"], 3);
    assert_eq!(stat["eviction"], "documents");
    assert!(
        stat["failures"]
            .as_object()
            .unwrap()
            .values()
            .all(Value::is_u64)
    );
    let children = stat["children"].as_array().unwrap();
    assert!(!children.is_empty());
    for child in children {
        let expected = ["generation", "last_failure", "name", "restarts", "state"];
        assert_eq!(names(child), expected);
        assert!(child["name"].is_string() && child["state"].is_string());
    }
    let vbuckets = stat["vbuckets"].as_array().unwrap();
    assert_eq!(vbuckets.len(), 128);
    for (number, vbucket) in vbuckets.iter().enumerate() {
        let expected = [
            "documents",
            "down",
            "high_seqno",
            "id",
            "persisted_seqno",
            "purge_seqno",
            "state",
        ];
        assert_eq!(names(vbucket), expected);
        assert_eq!(
            (&vbucket["id"], &vbucket["state"]),
            (&number.into(), &"active".into())
        );
        assert_eq!(vbucket["high_seqno"], vbucket["persisted_seqno"]);
        assert!(vbucket["down"].is_null());
    }
    let documents = vbuckets
        .iter()
        .map(|vbucket| vbucket["documents"].as_u64().unwrap());
    assert_eq!(documents.sum::<u64>(), 3);
}

#[test]
fn compact() {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "4"]).expect(0);
    for key in ["a", "b", "c"] {
        place.run(&["put", key, "v"]).expect(0);
    }
    let compacted = place.json(&["compact"]);
    let expected = [
        "bytes_after",
        "bytes_before",
        "failed",
        "seconds",
        "tombstones_purged",
        "vbuckets",
    ];
    assert_eq!(names(&compacted), expected);
    assert_eq!(
        (&compacted["vbuckets"], &compacted["failed"]),
        (&4.into(), &0.into())
    );
    assert!(compacted["bytes_before"].as_u64() > Some(0));
    assert!(compacted["bytes_after"].is_u64() && compacted["tombstones_purged"].is_u64());
    assert!(compacted["seconds"].is_f64());
    let one = place.json(&["compact", "--vbucket", "3"]);
    assert_eq!(one["vbuckets"], 1);
}

#[test]
fn verify() {
    let place = Place::new();
    place.run(&["put", "k", "v"]).expect(0);
    let verified = place.json(&["verify"]);
    assert_eq!(names(&verified), ["faults", "files", "records"]);
    assert!(verified["files"].as_u64() > Some(0) && verified["records"].as_u64() > Some(0));
    assert_eq!(verified["faults"], Value::Array(Vec::new()));
}
