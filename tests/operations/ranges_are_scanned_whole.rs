//! A scan tells every document of its range that was written when it was opened, by rising key, once, and nothing else.

use std::collections::BTreeMap;
use std::ops::Bound;

use futures_util::StreamExt;
use proptest::prelude::*;

use piggin::messages::ScanRange;
use piggin::messages::vbucket::{Set, WriteOptions};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{CollectionId, DocumentKey};
use piggin::{Bucket, BucketConfig, Collection, ScanBuilder};

use crate::support::{Result, block_on, made_small, vbucket};

fn bucket() -> Bucket {
    let disk = std::sync::Arc::new(SimulatedDisk::new());
    block_on(Bucket::create(made_small(BucketConfig::on(disk)))).unwrap()
}

fn pairs(scan: ScanBuilder<'_>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut scan = scan.open().unwrap();
    let mut pairs = Vec::new();
    while let Some(scanned) = block_on(scan.next()).unwrap() {
        let value = scanned.value.map(|value| value.to_vec());
        pairs.push((scanned.key.key().to_vec(), value));
    }
    assert!(block_on(scan.next()).unwrap().is_none(), "it stays over");
    pairs
}

fn keys(scan: ScanBuilder<'_>) -> Vec<String> {
    let key = |(key, _)| String::from_utf8(key).unwrap();
    pairs(scan).into_iter().map(key).collect()
}

fn put(collection: &Collection, names: &[&str]) {
    for name in names {
        block_on(collection.set(name, (*name).to_owned())).unwrap();
    }
}

#[test]
fn bounds_are_kept() -> Result {
    let bucket = bucket();
    put(&bucket, &["a", "a\0", "aa", "ab", "b", "b\u{ff}", "c"]);
    let between = |start, end| keys(bucket.scan(ScanRange { start, end }));
    let at = |key: &str| key.as_bytes().to_vec();
    let (from, to) = (Bound::Included(at("a")), Bound::Included(at("b")));
    assert_eq!(between(from, to), ["a", "a\0", "aa", "ab", "b"]);
    let (from, to) = (Bound::Excluded(at("a")), Bound::Excluded(at("b")));
    assert_eq!(between(from, to), ["a\0", "aa", "ab"]);
    let (from, to) = (Bound::Included(at("b")), Bound::Unbounded);
    assert_eq!(between(from, to), ["b", "b\u{ff}", "c"]);
    let (from, to) = (Bound::Included(at("c")), Bound::Excluded(at("a")));
    assert!(between(from, to).is_empty(), "backwards there is nothing");
    assert_eq!(keys(bucket.scan(ScanRange::prefix("a"))).len(), 4);
    assert_eq!(keys(bucket.scan(ScanRange::prefix(""))).len(), 7);
    assert_eq!(keys(bucket.scan(ScanRange::from("aa").up_to("c"))).len(), 4);
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn what_is_deleted_or_expired_or_of_others_is_not_told() -> Result {
    let bucket = bucket();
    put(&bucket, &["a", "b", "c"]);
    block_on(bucket.create_collection("_default", "other"))?;
    let other = bucket.collection("_default", "other")?;
    put(&other, &["a", "x"]);
    block_on(bucket.delete("b"))?;
    // Absolute, and long ago.
    block_on(bucket.touch("c", 1_000_000_000))?;
    assert_eq!(keys(bucket.scan(ScanRange::all())), ["a"]);
    assert_eq!(keys(other.scan(ScanRange::all())), ["a", "x"]);
    block_on(bucket.drop_collection("_default", "other"))?;
    block_on(bucket.create_collection("_default", "other"))?;
    let anew = bucket.collection("_default", "other")?;
    put(&anew, &["y"]);
    assert_eq!(keys(anew.scan(ScanRange::all())), ["y"]);
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn keys_alone_and_the_first_so_many() -> Result {
    let bucket = bucket();
    let names: Vec<String> = (0..500).map(|number| format!("key {number:04}")).collect();
    for name in &names {
        block_on(bucket.set(name, vec![b'v'; 2000]))?;
    }
    let bare = pairs(bucket.scan(ScanRange::all()).keys_only());
    assert!(bare.iter().all(|(_, value)| value.is_none()));
    assert_eq!(bare.len(), names.len());
    for limit in [0, 1, 7, 499, 500, 501] {
        let found = keys(bucket.scan(ScanRange::all()).limit(limit));
        let expected = &names[..names.len().min(usize::try_from(limit)?)];
        assert_eq!(found, expected, "{limit}");
    }
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_scan_is_of_one_moment_and_a_stream() -> Result {
    let bucket = bucket();
    put(&bucket, &["a", "b", "c"]);
    let mut scan = bucket.scan(ScanRange::all()).open()?;
    let first = block_on(scan.next())?.unwrap();
    assert_eq!(first.key.key(), b"a");
    assert_eq!(first.meta, block_on(bucket.get_meta("a"))?);
    // Each vbucket's snapshot was taken before its first document was told.
    put(&bucket, &["aa", "d"]);
    block_on(bucket.delete("c"))?;
    block_on(bucket.flush())?;
    let rest: Vec<_> = block_on(scan.collect::<Vec<_>>());
    let rest: Vec<_> = rest.into_iter().map(|one| one.unwrap().key).collect();
    let rest: Vec<_> = rest.iter().map(|key| key.key().to_vec()).collect();
    assert_eq!(rest, [b"b", b"c"]);
    block_on(bucket.shutdown())?;
    Ok(())
}

/// Several pages of each vbucket, and no two values alike.
#[test]
fn nothing_is_lost_or_told_twice_between_pages() -> Result {
    let bucket = bucket();
    let value = |number: usize| [vec![b'v'; 2000], number.to_string().into_bytes()].concat();
    let mut expected = Vec::new();
    for number in 0..2500 {
        let name = format!("key {number:04}");
        block_on(bucket.set(&name, value(number)))?;
        expected.push((name.into_bytes(), Some(value(number))));
    }
    assert_eq!(pairs(bucket.scan(ScanRange::all())), expected);
    block_on(bucket.shutdown())?;
    Ok(())
}

/// By message a key can be put where it does not belong: what else lies there is told all the same.
#[test]
fn a_key_in_two_vbuckets_hides_nothing() -> Result {
    let bucket = bucket();
    let names: Vec<String> = (0..40).map(|number| format!("key {number:02}")).collect();
    put(
        &bucket,
        &names.iter().map(|name| &**name).collect::<Vec<_>>(),
    );
    let own = bucket.vbucket_of(names[0].as_bytes());
    let mut others = (0..4).map(vbucket);
    let other = others.find(|other| *other != own).unwrap();
    let stray = Set {
        key: DocumentKey::new(CollectionId::DEFAULT, names[0].as_bytes())?,
        value: "stray".into(),
        options: WriteOptions::default(),
    };
    block_on(bucket.vbucket(other).unwrap().send(stray))??;
    let mut expected = vec![names[0].clone()];
    expected.extend(names);
    assert_eq!(keys(bucket.scan(ScanRange::all())), expected);
    block_on(bucket.shutdown())?;
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, u16),
    Delete(u8),
    Flush,
    Scan(Option<u8>, Option<u8>, Option<u64>),
}

fn name(number: u8) -> String {
    // Some begin with others.
    format!(
        "k{}",
        "x".repeat(usize::from(number % 7)) + &number.to_string()
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<u8>(), 0..3000u16).prop_map(|(key, length)| Step::Set(key, length)),
        3 => any::<u8>().prop_map(Step::Delete),
        1 => Just(Step::Flush),
        2 => (any::<Option<u8>>(), any::<Option<u8>>(), prop::option::of(0..40u64))
            .prop_map(|(from, to, limit)| Step::Scan(from, to, limit)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever was written, deleted and flushed, a scan is what an ordered map has of its range.
    #[test]
    fn equals_an_ordered_map(steps in prop::collection::vec(step(), 1..120)) {
        let bucket = bucket();
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Set(key, length) => {
                    let value = vec![key; usize::from(length)];
                    block_on(bucket.set(name(key), value.clone())).unwrap();
                    model.insert(name(key).into_bytes(), value);
                }
                Step::Delete(key) => {
                    let is_there = model.remove(name(key).as_bytes()).is_some();
                    prop_assert_eq!(block_on(bucket.delete(name(key))).is_ok(), is_there);
                }
                Step::Flush => block_on(bucket.flush()).unwrap(),
                Step::Scan(from, to, limit) => {
                    let bound = |key: Option<u8>| key.map(|key| name(key).into_bytes());
                    let range = ScanRange {
                        start: bound(from).map_or(Bound::Unbounded, Bound::Excluded),
                        end: bound(to).map_or(Bound::Unbounded, Bound::Included),
                    };
                    let mut scan = bucket.scan(range.clone());
                    if let Some(limit) = limit {
                        scan = scan.limit(limit);
                    }
                    let is_in = |key: &[u8]| {
                        bound(from).is_none_or(|from| key > &from[..])
                            && bound(to).is_none_or(|to| key <= &to[..])
                    };
                    let most = usize::try_from(limit.unwrap_or(u64::MAX)).unwrap();
                    let expected: Vec<_> = model
                        .iter()
                        .filter(|(key, _)| is_in(key))
                        .take(most)
                        .map(|(key, value)| (key.clone(), Some(value.clone())))
                        .collect();
                    prop_assert_eq!(pairs(scan), expected);
                }
            }
        }
        block_on(bucket.shutdown()).unwrap();
    }
}
