//! `piggin backup` and `piggin restore --from`: what was there is there again, and a place that holds anything is refused.
#![cfg(test)]

use serde_json::json;

mod support;

use support::Place;

#[test]
fn what_was_backed_up_is_brought_back() {
    let place = Place::new();
    place.json(&["create", "--vbuckets", "4"]);
    for number in 0..20 {
        let (key, value) = (format!("k{number}"), format!("{number}"));
        place.run(&["put", &key, &value]).expect(0);
    }
    place.run(&["remove", "k7"]).expect(0);
    let (copy, again) = (place.path("copy"), place.path("again"));
    let (copy_text, again_text) = (copy.to_str().unwrap(), again.to_str().unwrap());
    let made = place.json(&["backup", "--into", copy_text]);
    assert_eq!(made["vbuckets"], json!(4));
    assert_eq!(made["items"], json!(20));
    // What happens to the bucket afterwards is not in the copy.
    place.run(&["put", "k1", "changed"]).expect(0);
    place
        .run(&["restore", "--from", copy_text, "--into", again_text])
        .expect(0);
    for data in [copy_text, again_text] {
        let found = place.run(&["get", "k1", "--data", data]);
        assert_eq!(found.expect(0).text().trim_end(), "1");
        place.run(&["get", "k7", "--data", data]).expect(1);
        place.run(&["verify", "--data", data]).expect(0);
    }
}

#[test]
fn a_place_that_holds_anything_and_a_bucket_that_is_not_there_are_refused() {
    let place = Place::new();
    place.json(&["create", "--vbuckets", "4"]);
    let data = place.path("data");
    let data = data.to_str().unwrap();
    place.run(&["backup", "--into", data]).expect(1);
    let into = place.path("new");
    let into = into.to_str().unwrap();
    place
        .run(&["restore", "--from", data, "--into", data])
        .expect(1);
    let nowhere = place.path("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    place
        .run(&["restore", "--from", nowhere, "--into", into])
        .expect(1);
    place
        .run(&["restore", "--from", data, "--to", "@1", "--into", into])
        .expect(1);
    place.run(&["restore", "--into", into]).expect(1);
    assert!(!place.path("new").exists());
    place.run(&["verify"]).expect(0);
}
