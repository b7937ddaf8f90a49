//! `piggin verify --repair`: a damaged vbucket is set aside by name, what can be read of it is saved, and the exit code says so;
//! without damage nothing is done.
#![cfg(test)]

mod support;

use serde_json::Value;

use support::Place;

/// Flips a bit in a block of the first segment there is.
#[expect(clippy::disallowed_methods, reason = "damage comes from outside")]
fn damage(place: &Place) {
    let files = std::fs::read_dir(place.data()).unwrap();
    let names = files.map(|file| file.unwrap().path());
    let mut containers: Vec<_> = names
        .filter(|path| path.to_string_lossy().contains("container."))
        .collect();
    containers.sort();
    let mut bytes = std::fs::read(&containers[0]).unwrap();
    bytes[4096 + 60] ^= 1;
    std::fs::write(&containers[0], bytes).unwrap();
}

fn place() -> Place {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "4"]).expect(0);
    let lines: Vec<String> = (0..40).map(|id| format!("{{\"id\":\"{id}\"}}\n")).collect();
    let load = ["load", "-", "--key", "id"];
    place.feed(&load, lines.concat().as_bytes()).expect(0);
    place
}

#[test]
fn a_damaged_vbucket_is_set_aside_by_name() {
    let place = place();
    damage(&place);
    let found = place.run(&["verify", "--json"]);
    let told: Value = serde_json::from_slice(&found.expect(2).stdout).unwrap();
    let damaged = told["faults"][0]["vbuckets"][0].as_u64().unwrap();
    let saved = place.path("saved");
    let repair = |json: &[&str]| {
        let words = ["verify", "--repair", "--into"];
        let mut all: Vec<&std::ffi::OsStr> = words.iter().map(AsRef::as_ref).collect();
        all.push(saved.as_os_str());
        all.extend(json.iter().map(|word| std::ffi::OsStr::new(*word)));
        place.run(&all)
    };
    let repaired = repair(&["--json"]);
    repaired
        .expect(2)
        .says(&["was damaged", "it can be used again"]);
    let told: Value = serde_json::from_slice(&repaired.stdout).unwrap();
    let aside = &told["set_aside"][0];
    assert_eq!(aside["vbucket"].as_u64(), Some(damaged));
    assert_eq!(aside["state"], "active");
    let lost = aside["lost"][0].as_array().unwrap();
    assert!(lost[0].as_u64() <= lost[1].as_u64(), "{aside}");
    // The others have all of theirs, and this one takes writes again.
    place.run(&["verify"]).expect(0);
    let keys = |id: &str| place.run(&["get", id]).code == 0;
    let there = (0..40).filter(|id| keys(&id.to_string())).count();
    assert!((20..40).contains(&there), "{there}");
    place
        .feed(&["load", "-", "--key", "id"], b"{\"id\":\"0\"}\n")
        .expect(0);
    // What is saved is never written over.
    let again = repair(&[]);
    if saved.exists() {
        again.expect(1).says(&["holds something"]);
    } else {
        again.expect(0);
    }
}

#[test]
fn without_damage_nothing_is_set_aside() {
    let place = place();
    let saved = place.path("saved");
    let words: [&std::ffi::OsStr; 4] = [
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
    let words: [&std::ffi::OsStr; 4] = [
        "verify".as_ref(),
        "--repair".as_ref(),
        "--into".as_ref(),
        into.as_os_str(),
    ];
    nowhere.run(&words).expect(1).says(&["no bucket"]);
}
