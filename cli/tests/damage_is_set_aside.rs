//! `piggin verify --repair`: a damaged vbucket is set aside by name, what can be read of it is saved, and the exit code says so;
//! without damage nothing is done.
#![cfg(test)]

mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use support::{Ended, Place};

const DOCUMENTS: usize = 60;

/// The first file of segments.
fn container(place: &Place) -> PathBuf {
    let files = std::fs::read_dir(place.data()).unwrap();
    let names = files.map(|file| file.unwrap().path());
    let containers = names.filter(|path| path.to_string_lossy().contains("container."));
    containers.min().unwrap()
}

/// Flips a bit in a block of the first segment there is.
#[expect(clippy::disallowed_methods, reason = "damage comes from outside")]
fn damage(place: &Place) {
    let container = container(place);
    let mut bytes = std::fs::read(&container).unwrap();
    bytes[4096 + 60] ^= 1;
    std::fs::write(&container, bytes).unwrap();
}

fn line(id: usize) -> String {
    format!("{{\"id\":\"{id}\",\"text\":\"{}\"}}", "v".repeat(5000))
}

/// Several blocks of documents in each of four vbuckets.
fn place() -> Place {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "4"]).expect(0);
    let lines: Vec<String> = (0..DOCUMENTS).map(|id| line(id) + "\n").collect();
    let load = ["load", "-", "--key", "id"];
    place.feed(&load, lines.concat().as_bytes()).expect(0);
    place
}

fn repair(place: &Place, saved: &Path, more: &[&str]) -> Ended {
    let words = ["verify", "--repair", "--into"];
    let mut all: Vec<&OsStr> = words.iter().map(AsRef::as_ref).collect();
    all.push(saved.as_os_str());
    all.extend(more.iter().map(OsStr::new));
    place.run(&all)
}

/// The documents that can be read.
fn there(place: &Place) -> BTreeSet<usize> {
    let is_there = |id: &usize| place.run(&["get", &id.to_string()]).code == 0;
    (0..DOCUMENTS).filter(is_there).collect()
}

/// The documents in a file of lines.
fn in_file(path: &Path) -> BTreeSet<usize> {
    let text = std::fs::read_to_string(path).unwrap();
    let id = |text: &str| {
        let change: Value = serde_json::from_str(text).unwrap();
        let id: usize = change["key"].as_str().unwrap().parse().unwrap();
        assert_eq!(change["event"], "mutation");
        let expected: Value = serde_json::from_str(&line(id)).unwrap();
        assert_eq!(change["value"], expected);
        id
    };
    text.lines().map(id).collect()
}

#[test]
fn a_damaged_vbucket_is_set_aside_by_name() {
    let place = place();
    damage(&place);
    let found = place.run(&["verify", "--json"]);
    let told: Value = serde_json::from_slice(&found.expect(2).stdout).unwrap();
    assert_eq!(told["faults"][0]["kind"], "damage");
    let damaged = told["faults"][0]["vbuckets"][0].as_u64().unwrap();
    // Two directories are made for it.
    let saved = place.path("all").join("saved");
    let repaired = repair(&place, &saved, &["--json"]);
    repaired
        .expect(2)
        .says(&["was damaged", "it can be used again"]);
    let told: Value = serde_json::from_slice(&repaired.stdout).unwrap();
    let report = std::fs::read_to_string(saved.join("report.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&report).unwrap(), told);
    let aside = &told["set_aside"][0];
    assert_eq!(aside["vbucket"].as_u64(), Some(damaged));
    assert_eq!(aside["state"], "active");
    assert_eq!(aside["log_is_damaged"], false);
    for range in aside["lost"].as_array().unwrap() {
        assert!(range[0].as_u64() <= range[1].as_u64(), "{aside}");
    }
    // The others have all of theirs, and what is saved of this one is as it was written.
    place.run(&["verify"]).expect(0);
    let file = saved.join(format!("vbucket-{damaged}.ndjson"));
    assert_eq!(aside["file"].as_str(), file.to_str());
    let (there, kept) = (there(&place), in_file(&file));
    assert_eq!(aside["versions"].as_u64(), Some(kept.len() as u64));
    assert!(kept.len() > 3 && there.is_disjoint(&kept), "{kept:?}");
    let lost = DOCUMENTS - there.len() - kept.len();
    let is_lost = !aside["lost"].as_array().unwrap().is_empty();
    assert_eq!(lost > 0, is_lost, "{lost}: {aside}");
    // It takes writes again.
    place
        .feed(&["load", "-", "--key", "id"], b"{\"id\":\"0\"}\n")
        .expect(0);
    // What is saved is never written over.
    repair(&place, &saved, &[])
        .expect(1)
        .says(&["holds something"]);
    assert_eq!(in_file(&file), kept);
}

/// It may lie elsewhere: what was in it is given up only where that is said.
#[test]
#[expect(clippy::disallowed_methods, reason = "the file is moved from outside")]
fn a_file_that_is_missing_is_asked_for() {
    let place = place();
    let (container, aside) = (container(&place), place.path("moved"));
    std::fs::rename(&container, &aside).unwrap();
    let name = container.file_name().unwrap().to_str().unwrap().to_owned();
    let found = place.run(&["verify", "--json"]);
    let told: Value = serde_json::from_slice(&found.expect(2).stdout).unwrap();
    assert_eq!(told["faults"][0]["kind"], "missing");
    found.says(&["every file is there"]);
    let saved = place.path("saved");
    let refused = repair(&place, &saved, &[]);
    refused.expect(2).says(&[
        &name,
        "is missing",
        "nothing was changed",
        "--missing-is-lost",
    ]);
    assert!(refused.stdout.is_empty() && !saved.exists());
    // Nor is what stands in its place and cannot be read.
    std::fs::create_dir(&container).unwrap();
    let refused = repair(&place, &saved, &["--missing-is-lost"]);
    refused
        .expect(2)
        .says(&[&name, "cannot be read", "nothing was changed"]);
    assert!(!saved.exists());
    std::fs::remove_dir(&container).unwrap();
    // Put back, it is whole.
    std::fs::rename(&aside, &container).unwrap();
    place.run(&["verify"]).expect(0);
    assert_eq!(there(&place).len(), DOCUMENTS);
    std::fs::remove_file(&container).unwrap();
    let repaired = repair(&place, &saved, &["--missing-is-lost", "--json"]);
    let told: Value = serde_json::from_slice(&repaired.expect(2).stdout).unwrap();
    assert!(!told["set_aside"].as_array().unwrap().is_empty());
    assert!(saved.join("report.json").exists());
    place.run(&["verify"]).expect(0);
}

#[test]
fn without_damage_nothing_is_set_aside() {
    let place = place();
    let saved = place.path("saved");
    let words: [&OsStr; 4] = [
        "verify".as_ref(),
        "--repair".as_ref(),
        "--into".as_ref(),
        saved.as_os_str(),
    ];
    let repaired = place.run(&words);
    assert!(repaired.expect(0).text().contains("no vbucket is damaged"));
    assert!(!saved.exists());
    // It says where to, or nothing is done.
    place.run(&["verify", "--repair"]).expect(1);
    place.run(&["verify", "--into", "saved"]).expect(1);
    let nowhere = Place::new();
    let into = nowhere.path("saved");
    let words: [&OsStr; 4] = [
        "verify".as_ref(),
        "--repair".as_ref(),
        "--into".as_ref(),
        into.as_os_str(),
    ];
    nowhere.run(&words).expect(1).says(&["no bucket"]);
}
