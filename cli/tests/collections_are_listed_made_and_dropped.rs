//! `piggin collections`, and `--collection` on the commands that work on documents.
#![cfg(test)]

mod support;

use serde_json::{Value, json};

use support::{Place, names};

fn collections(place: &Place) -> Vec<(String, u64)> {
    let listed = place.json(&["collections", "list"]);
    let collections = listed["collections"].as_array().unwrap().iter();
    let of = |one: &Value| {
        let name = format!(
            "{}.{}",
            one["scope"].as_str().unwrap(),
            one["name"].as_str().unwrap()
        );
        (name, one["documents"].as_u64().unwrap())
    };
    collections.map(of).collect()
}

fn owned(collections: &[(&str, u64)]) -> Vec<(String, u64)> {
    let own = |(name, documents): &(&str, u64)| ((*name).to_owned(), *documents);
    collections.iter().map(own).collect()
}

#[test]
fn documents_lie_in_the_collection_named() {
    let place = Place::new();
    place.run(&["put", "k", "default"]).expect(0);
    let made = place.json(&["collections", "create", "shop.orders"]);
    assert_eq!(made, json!({"name": "shop.orders", "uid": 2}));
    let into = ["--collection", "shop.orders"];
    place
        .run(&[&["put", "k", "order"], &into[..]].concat())
        .expect(0);
    let lines = b"{\"id\":1}\n{\"id\":2}\n";
    let load = [&["load", "-", "--key", "id"], &into[..]].concat();
    place.feed(&load, lines).expect(0);
    let got = place.run(&[&["get", "k"], &into[..]].concat());
    assert_eq!(got.expect(0).stdout, b"order");
    assert_eq!(place.run(&["get", "k"]).expect(0).stdout, b"default");
    place.run(&["get", "1"]).expect(1);
    assert_eq!(
        collections(&place),
        owned(&[("_default._default", 1), ("shop.orders", 3)])
    );
    place.run(&[&["remove", "k"], &into[..]].concat()).expect(0);
    place.run(&[&["get", "k"], &into[..]].concat()).expect(1);
    place.run(&["verify"]).expect(0);

    let dropped = place.json(&["collections", "drop", "shop.orders"]);
    assert_eq!(dropped, json!({"name": "shop.orders", "uid": 3}));
    let gone = place.run(&[&["get", "1"], &into[..]].concat());
    gone.expect(1).says(&[
        "there is no collection shop.orders",
        "piggin collections create shop.orders",
    ]);
    place
        .run(&["collections", "create", "shop.orders"])
        .expect(0);
    place.run(&[&["get", "1"], &into[..]].concat()).expect(1);
    assert_eq!(
        collections(&place),
        owned(&[("_default._default", 1), ("shop.orders", 0)])
    );
}

#[test]
fn scopes_are_made_and_dropped_alone_and_with_what_is_in_them() {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "4"]).expect(0);
    place.run(&["collections", "create", "s"]).expect(0);
    let listed = place.run(&["collections", "list"]);
    assert_eq!(
        listed.expect(0).text(),
        "manifest 1\n_default._default  0 documents, 0 B\ns  empty\n"
    );
    place
        .run(&["collections", "create", "s.a", "--max-ttl", "60"])
        .expect(0);
    place.run(&["collections", "create", "s.b"]).expect(0);
    let listed = place.run(&["collections", "list"]);
    let text = listed.expect(0).text();
    assert!(
        text.contains("s.a  0 documents, 0 B, each for 60 s at most"),
        "{text}"
    );
    place
        .run(&["put", "k", "v", "--collection", "s.a"])
        .expect(0);
    let got = place.json(&["get", "k", "--collection", "s.a"]);
    assert!(got["expiry"].as_u64() > Some(1_700_000_000), "{got}");
    place.run(&["collections", "drop", "s"]).expect(0);
    assert_eq!(collections(&place), owned(&[("_default._default", 0)]));
}

#[test]
fn the_names_in_the_json_are_a_promise() {
    let place = Place::new();
    place.run(&["create", "--vbuckets", "4"]).expect(0);
    let made = place.json(&["collections", "create", "s.c"]);
    assert_eq!(names(&made), ["name", "uid"]);
    let listed = place.json(&["collections", "list"]);
    assert_eq!(names(&listed), ["collections", "scopes", "uid"]);
    assert_eq!(listed["uid"], 2);
    assert_eq!(listed["scopes"], json!(["_default", "s"]));
    let expected = [
        "bytes",
        "documents",
        "id",
        "max_ttl_seconds",
        "name",
        "scope",
    ];
    assert_eq!(names(&listed["collections"][1]), expected);
    assert_eq!(listed["collections"][1]["id"], 9);
}

#[test]
fn a_mistake_is_told_and_changes_nothing() {
    let place = Place::new();
    // No bucket is made for a collection it would not have.
    let put = place.run(&["put", "k", "v", "--collection", "s.c"]);
    put.expect(1).says(&["there is no bucket in"]);
    let list = place.run(&["collections", "list"]);
    list.expect(1).says(&["there is no bucket in"]);
    place.run(&["collections", "create", "s.c"]).expect(1);
    assert!(!place.data().exists());

    place.run(&["create", "--vbuckets", "4"]).expect(0);
    place.run(&["collections", "create", "s.c"]).expect(0);
    for (arguments, words) in [
        (["create", "s.c"], "there is a collection s.c already"),
        (["create", "s"], "there is a scope s already"),
        (["create", "s._c"], "begins with '_'"),
        (["create", "s.c.d"], "holds '.'"),
        (["create", "new._c"], "begins with '_'"),
        (["create", "."], "give a scope and a collection"),
        (["drop", "t.c"], "there is no scope t"),
        (["drop", "s.d"], "there is no collection s.d"),
        (["drop", "t"], "there is no scope t"),
        (["drop", "_default"], "_default cannot be dropped"),
        (["drop", "_default._default"], "_default cannot be dropped"),
    ] {
        let ended = place.run(&[&["collections"], &arguments[..]].concat());
        ended.expect(1).says(&[words]);
        assert!(ended.stdout.is_empty());
    }
    let scope = place.run(&["collections", "create", "t", "--max-ttl", "9"]);
    scope.expect(1).says(&["t is a scope", "scope.collection"]);
    let listed = place.json(&["collections", "list"]);
    assert_eq!(listed["uid"], 2);
    for collection in ["s", "s.", ".c", "s.d", "t.c"] {
        let put = place.run(&["put", "k", "v", "--collection", collection]);
        put.expect(1);
    }
    let long = "k".repeat(250);
    place
        .run(&["put", long.as_str(), "v", "--collection", "s.c"])
        .expect(1)
        .says(&["1 to 249 bytes"]);
}
