//! A replica that takes over brings its source's scopes, collections and documents to its bucket, writes go on in them, and
//! no number is given twice; collections of two buckets are put together, or it is said why they cannot be.

use std::collections::BTreeMap;
use std::sync::Arc;

use piggin::messages::collections::Named;
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{CollectionsManifest, OperationError};
use piggin::storage::{CollectionId, VbucketId, VbucketState};
use piggin::{Bucket, ReplicateError, Replication};
use supervisor::testing::World;

use crate::common::{
    assert_same, become_state, caught_up, copied, created, opened, run, run_either, write,
};

const KEYS: usize = 40;

/// What is in each collection, by scope and name.
type Documents = BTreeMap<(String, String), BTreeMap<String, Vec<u8>>>;

fn vbucket(number: u16) -> VbucketId {
    VbucketId::new(number).expect("a number")
}

async fn make(bucket: &Bucket, scope: &str, name: &str) {
    let made = bucket.create_collection(scope, name).await;
    made.expect("a collection");
    fill(bucket, scope, name, "first").await;
}

async fn fill(bucket: &Bucket, scope: &str, name: &str, value: &str) {
    let collection = bucket.collection(scope, name).expect("it");
    for number in 0..KEYS {
        let key = format!("{name} {number}");
        collection
            .set(key, value.to_owned())
            .await
            .expect("a write");
    }
}

fn collections(manifest: &CollectionsManifest) -> Vec<(CollectionId, String, String)> {
    let entries = manifest.collections.iter();
    let entry = entries.map(|(id, entry)| {
        let scope = manifest.scopes[&entry.scope].clone();
        (*id, scope, entry.name.clone())
    });
    entry.collect()
}

async fn documents(bucket: &Bucket) -> Documents {
    let mut all = Documents::new();
    for (_, scope, name) in collections(&bucket.manifest()) {
        let collection = bucket.collection(&scope, &name).expect("it");
        let found = all.entry((scope, name.clone())).or_default();
        for number in 0..KEYS {
            let key = format!("{name} {number}");
            if let Ok(read) = collection.get(&key).await {
                found.insert(key, read.value.to_vec());
            }
        }
    }
    all
}

/// All vbuckets of a bucket have its manifest.
fn assert_all_follow(bucket: &Bucket) {
    for id in bucket.vbuckets() {
        let core = bucket.vbucket_core(id).expect("it");
        assert_eq!(core.collections_manifest(), bucket.manifest(), "{id}");
    }
}

/// A source with scopes and collections of which some were dropped and made anew.
async fn source(here: &World) -> Bucket {
    let source = created(here).await;
    source.create_scope("shop").await.expect("a scope");
    source.create_scope("gone").await.expect("a scope");
    for (scope, name) in [("shop", "orders"), ("_default", "people"), ("gone", "old")] {
        make(&source, scope, name).await;
    }
    source.drop_scope("gone").await.expect("it goes");
    let dropped = source.drop_collection("shop", "orders").await;
    dropped.expect("it goes");
    make(&source, "shop", "orders").await;
    write(&source, 0..KEYS, "default").await;
    source
}

/// Everything of the bucket can be written, and what is made anew has a number nobody had.
async fn assert_goes_on(bucket: &Bucket, before: &[Arc<CollectionsManifest>]) {
    for (_, scope, name) in collections(&bucket.manifest()) {
        fill(bucket, &scope, &name, "second").await;
    }
    let made = bucket.create_collection("_default", "fresh").await;
    let uid = made.expect("a collection");
    let id = bucket.collection("_default", "fresh").expect("it").id();
    for manifest in before {
        assert!(uid > manifest.uid);
        assert!(!manifest.collections.contains_key(&id), "{id:?} again");
    }
    fill(bucket, "_default", "fresh", "first").await;
    assert_all_follow(bucket);
    bucket.flush().await.expect("a flush");
}

#[test]
fn collections_and_documents_are_there_when_a_replica_takes_over() {
    run_either(1, async |here, there| {
        let (source, target) = (source(&here).await, created(&there).await);
        drop(copied(&source, &target).await);
        let (manifest, expected) = (source.manifest(), documents(&source).await);
        here.kill();
        become_state(&target, VbucketState::Active).await;
        assert_eq!(target.manifest(), manifest);
        assert_eq!(documents(&target).await, expected);
        assert_all_follow(&target);
        assert_goes_on(&target, &[manifest]).await;
        let expected = documents(&target).await;
        there.cut_power();
        let target = opened(&there).await;
        assert_eq!(documents(&target).await, expected);
        assert_all_follow(&target);
        // And back.
        let source = opened(&here).await;
        drop(copied(&target, &source).await);
        assert_same(&target, &source);
    });
}

/// What the target was before counts no more once none of its vbuckets is active: not even what it dropped.
#[test]
fn a_bucket_that_follows_with_all_it_has_becomes_its_source() {
    run(2, async |here, there| {
        let (source, target) = (source(&here).await, created(&there).await);
        for round in 0..8 {
            let made = target.create_collection("_default", "own").await;
            made.expect("a collection");
            if round < 7 {
                let dropped = target.drop_collection("_default", "own").await;
                dropped.expect("it goes");
            }
        }
        let own = target.manifest();
        assert!(own.uid > source.manifest().uid);
        drop(copied(&source, &target).await);
        let (manifest, expected) = (source.manifest(), documents(&source).await);
        source.shutdown().await.expect("an end");
        become_state(&target, VbucketState::Active).await;
        assert_eq!(collections(&target.manifest()), collections(&manifest));
        assert_eq!(documents(&target).await, expected);
        assert_goes_on(&target, &[manifest, own]).await;
    });
}

/// Promotes one vbucket after the other.
async fn promote(bucket: &Bucket, numbers: impl IntoIterator<Item = u16>) {
    for number in numbers {
        let become_it = SetVbucketState {
            state: VbucketState::Active,
            topology: None,
            is_takeover: false,
        };
        let actor = bucket.vbucket(vbucket(number)).expect("it");
        let promoted = actor.send(become_it).await.expect("it lives");
        promoted.expect("a promotion");
    }
}

#[test]
fn vbuckets_that_heard_of_other_changes_agree_in_the_end() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0]] {
        run(3, async |here, there| {
            let (source, target) = (source(&here).await, created(&there).await);
            drop(copied(&source, &target).await);
            let early = source.manifest();
            let dropped = source.drop_collection("shop", "orders").await;
            dropped.expect("it goes");
            make(&source, "shop", "orders").await;
            make(&source, "_default", "late").await;
            let some = [vbucket(2), vbucket(3)];
            let replication: Replication = source.replicate(some, &target).expect("it follows");
            caught_up(&replication).await;
            drop(replication);
            let (manifest, expected) = (source.manifest(), documents(&source).await);
            here.kill();
            promote(&target, order).await;
            assert_eq!(collections(&target.manifest()), collections(&manifest));
            // What the two of them heard is there; of the default collection and the older ones everything is.
            let found = documents(&target).await;
            for (place, documents) in &expected {
                let name = &place.1;
                let heard = |key: &String| {
                    let heard_late = some.contains(&target.vbucket_of(key.as_bytes()));
                    !matches!(name.as_str(), "late" | "orders") || heard_late
                };
                for (key, value) in documents.iter().filter(|(key, _)| heard(key)) {
                    assert_eq!(found[place].get(key), Some(value), "{key}");
                }
            }
            assert_goes_on(&target, &[early, manifest]).await;
        });
    }
}

#[test]
fn what_active_vbuckets_have_stays_beside_what_is_brought() {
    run(4, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        // The same numbers are not given to different things.
        make(&target, "_default", "own").await;
        source.create_scope("s").await.expect("a scope");
        source.drop_scope("s").await.expect("it goes");
        make(&source, "_default", "theirs").await;
        let replication = source.replicate([vbucket(1)], &target).expect("it follows");
        caught_up(&replication).await;
        drop(replication);
        let (theirs, own) = (source.manifest(), target.manifest());
        let expected = documents(&target).await;
        let of_source = documents(&source).await;
        here.kill();
        promote(&target, [1]).await;
        let (found, place) = (documents(&target).await, |name: &str| {
            ("_default".to_owned(), name.to_owned())
        });
        for (key, value) in &expected[&place("own")] {
            if target.vbucket_of(key.as_bytes()) != vbucket(1) {
                assert_eq!(found[&place("own")].get(key), Some(value), "{key}");
            }
        }
        for (key, value) in &of_source[&place("theirs")] {
            if target.vbucket_of(key.as_bytes()) == vbucket(1) {
                assert_eq!(found[&place("theirs")].get(key), Some(value), "{key}");
            }
        }
        assert_goes_on(&target, &[theirs, own]).await;
    });
}

#[test]
fn a_number_of_two_things_is_refused_before_anything_changes() {
    run(5, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        make(&source, "_default", "theirs").await;
        make(&target, "_default", "own").await;
        let before = documents(&target).await;
        let refused = source.replicate([vbucket(1)], &target);
        let Err(ReplicateError::Vbucket { error, .. }) = refused else {
            panic!("{refused:?}");
        };
        let OperationError::ManifestClash { vbucket: of, clash } = error else {
            panic!("{error}");
        };
        assert_eq!(of, vbucket(1));
        let name = |name: &str| Named::Collection {
            scope: "_default".to_owned(),
            collection: name.to_owned(),
            max_ttl_s: 0,
        };
        assert_eq!(clash.in_bucket, name("own"));
        assert_eq!(clash.in_vbucket, name("theirs"));
        assert_eq!(documents(&target).await, before, "still active");
        // All of them are another thing.
        drop(copied(&source, &target).await);
        become_state(&target, VbucketState::Active).await;
        assert_eq!(target.manifest(), source.manifest());
        assert_eq!(documents(&target).await, documents(&source).await);
    });
}
