//! A replica follows its source's scopes and collections with the documents in them, and stores what it followed.

use piggin::Bucket;

use crate::common::{assert_same, caught_up, copied, created, opened, replicate, run, write};

fn assert_same_manifest(source: &Bucket, target: &Bucket) {
    for vbucket in source.vbuckets() {
        let manifest = |bucket: &Bucket| {
            let core = bucket.vbucket_core(vbucket).expect("it");
            core.collections_manifest()
        };
        assert_eq!(manifest(source), manifest(target), "vbucket {vbucket}");
    }
}

#[test]
fn collections_begin_and_end_with_those_of_the_source() {
    run(1, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        let replication = replicate(&source, &target);
        write(&source, 0..20, "default").await;
        for round in 0..3 {
            for name in ["orders", "people"] {
                let made = source.create_collection("_default", name).await;
                made.expect("a collection");
                let collection = source.collection("_default", name).expect("it");
                for number in 0..20 {
                    let key = format!("{round} {number}");
                    collection.set(key, name).await.expect("a write");
                }
            }
            caught_up(&replication).await;
            assert_same_manifest(&source, &target);
            assert_same(&source, &target);
            let dropped = source.drop_collection("_default", "orders").await;
            dropped.expect("it is dropped");
            if round < 2 {
                let dropped = source.drop_collection("_default", "people").await;
                dropped.expect("it is dropped");
            }
            caught_up(&replication).await;
            assert_same_manifest(&source, &target);
            here.sleep(std::time::Duration::from_secs(5)).await;
            assert_same(&source, &target);
        }
        drop(replication);
        target.shutdown().await.expect("an end");
        let target = opened(&there).await;
        assert_same_manifest(&source, &target);
        assert_same(&source, &target);
    });
}

#[test]
fn collections_come_from_disk_too() {
    run(2, async |here, there| {
        let source = created(&here).await;
        for name in ["kept", "gone"] {
            let made = source.create_collection("_default", name).await;
            made.expect("a collection");
            let collection = source.collection("_default", name).expect("it");
            for number in 0..40 {
                let key = format!("{number}");
                collection.set(key, name).await.expect("a write");
            }
        }
        let dropped = source.drop_collection("_default", "gone").await;
        dropped.expect("it is dropped");
        source.shutdown().await.expect("an end");
        let (source, target) = (opened(&here).await, created(&there).await);
        drop(copied(&source, &target).await);
        assert_same_manifest(&source, &target);
        assert_same(&source, &target);
    });
}
