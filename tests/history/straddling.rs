//! Changes with history that begin before the history: what the bucket was when it began, then every version, as one
//! snapshot under two markers; whoever begins inside of the history gets one. A failed read of either part ends the stream.

use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::compactor::CompactOptions;
use piggin::messages::failure::ScanPurpose;
use piggin::messages::stream::{SnapshotFlags, StreamEndReason, StreamEvent};
use piggin::storage::Retention;
use piggin::{
    Bucket, BucketConfig, Changes, ChangesOptions, ChangesToken, CompactionConfig,
    CompactionPolicy, Since, Until,
};
use supervisor::testing::{Fault, World};

const WINDOW: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(60);

fn config(world: &World) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(1),
        actor_threads: Some(1),
        history: Some(Retention::of_seconds(3600)),
        compaction: CompactionConfig {
            policy: CompactionPolicy::NEVER,
            ..CompactionConfig::default()
        },
        ..world.config()
    }
}

async fn set(bucket: &Bucket, key: &str, value: &str) {
    let set = bucket.set(key, value.to_owned()).persisted().await;
    set.expect("a write");
}

async fn compacted(bucket: &Bucket) {
    let report = bucket.compact_all(CompactOptions::default()).await;
    assert_eq!(report.failed().count(), 0, "{report:?}");
}

/// Nothing is in memory but the documents.
async fn from_disk(world: &World, bucket: Bucket) -> Bucket {
    bucket.shutdown().await.expect("an end");
    world.open(config(world)).await.expect("the bucket")
}

/// Two versions of `a` before the history, three inside of it, one of which superseded the last of before.
async fn straddled(world: &World) -> Bucket {
    let bucket = world.create(config(world)).await.expect("a bucket");
    set(&bucket, "a", "one").await;
    set(&bucket, "b", "only").await;
    set(&bucket, "a", "two").await;
    world.sleep(WINDOW * 2).await;
    set(&bucket, "a", "three").await;
    set(&bucket, "c", "only").await;
    set(&bucket, "a", "four").await;
    compacted(&bucket).await;
    from_disk(world, bucket).await
}

fn options(since: Since) -> ChangesOptions {
    ChangesOptions {
        since,
        until: Until::Now,
        history: true,
        ..ChangesOptions::default()
    }
}

fn shown(event: &StreamEvent) -> String {
    match event {
        StreamEvent::SnapshotMarker(marker) => {
            let is_disk = marker.flags.has(SnapshotFlags::DISK);
            let source = if is_disk { "disk" } else { "memory" };
            let has_history = marker.flags.has(SnapshotFlags::HISTORY);
            let what = if has_history { " history" } else { "" };
            let repeats = marker.flags.has(SnapshotFlags::MAY_CONTAIN_DUPLICATES);
            assert_eq!(repeats, has_history && is_disk);
            format!("{source}{what} {}-{}", marker.start, marker.end)
        }
        StreamEvent::Mutation(item) => {
            let key = String::from_utf8_lossy(item.document.key.key()).into_owned();
            let value = String::from_utf8_lossy(&item.document.value).into_owned();
            format!("{} {key}={value}", item.seqno)
        }
        StreamEvent::Deletion(item) => {
            let key = String::from_utf8_lossy(item.document.key.key()).into_owned();
            format!("{} {key} deleted", item.seqno)
        }
        StreamEvent::SystemEvent(event) => format!("{} event", event.seqno),
        StreamEvent::SeqnoAdvanced(seqno) => format!("up to {seqno}"),
        StreamEvent::StreamEnd(reason) => reason.name().to_owned(),
        StreamEvent::Expiration(_)
        | StreamEvent::Prepare(_)
        | StreamEvent::Commit(_)
        | StreamEvent::Abort(_) => panic!("{event:?}"),
    }
}

async fn next(changes: &mut Changes) -> Option<String> {
    let next = timeout(PATIENCE, changes.next()).await.expect("progress");
    next.map(|change| shown(&change.event))
}

async fn told(bucket: &Bucket, options: ChangesOptions) -> (Vec<String>, ChangesToken) {
    let mut changes = bucket.changes(options).await.expect("changes");
    let mut told = Vec::new();
    while let Some(one) = next(&mut changes).await {
        told.push(one);
    }
    (told, changes.token())
}

#[test]
fn what_was_before_comes_first_then_every_version() {
    World::run(31, async |world| {
        let bucket = straddled(&world).await;
        let (all, token) = told(&bucket, options(Since::Beginning)).await;
        let expected = [
            "disk 0-6",
            "2 b=only",
            "3 a=two",
            "disk history 0-6",
            "4 a=three",
            "5 c=only",
            "6 a=four",
            "ok",
        ];
        assert_eq!(all, expected);
        let newest = ChangesOptions {
            history: false,
            ..options(Since::Beginning)
        };
        let (some, _) = told(&bucket, newest).await;
        assert_eq!(some, ["disk 0-6", "2 b=only", "5 c=only", "6 a=four", "ok"]);
        // Behind all of it only what is new, from memory, and nothing twice.
        for value in ["five", "six"] {
            bucket.set("a", value).await.expect("a write");
        }
        let (rest, _) = told(&bucket, options(Since::Token(token))).await;
        let expected = [
            "memory history 6-7",
            "7 a=five",
            "memory history 8-8",
            "8 a=six",
            "ok",
        ];
        assert_eq!(rest, expected);
        bucket.shutdown().await.expect("an end");
    })
    .expect("a run that ends");
}

#[test]
fn whoever_begins_inside_of_the_history_gets_one_snapshot() {
    World::run(32, async |world| {
        let bucket = straddled(&world).await;
        let mut changes = bucket.changes(options(Since::Beginning)).await;
        let changes = changes.as_mut().expect("changes");
        let mut tokens = Vec::new();
        while let Some(one) = next(changes).await {
            tokens.push((one, changes.token()));
        }
        let behind = |what: &str| {
            let found = tokens.iter().find(|(one, _)| one == what);
            Since::Token(found.expect("it was told").1.clone())
        };
        let (inside, _) = told(&bucket, options(behind("4 a=three"))).await;
        assert_eq!(inside, ["disk history 0-6", "5 c=only", "6 a=four", "ok"]);
        // Right where the history begins, too: nothing lies before.
        let (at, _) = told(&bucket, options(behind("3 a=two"))).await;
        assert_eq!(at[..2], ["disk history 0-6", "4 a=three"]);
        let (before, _) = told(&bucket, options(behind("2 b=only"))).await;
        let expected = ["disk 0-6", "3 a=two", "disk history 0-6", "4 a=three"];
        assert_eq!(before[..4], expected);
        bucket.shutdown().await.expect("an end");
    })
    .expect("a run that ends");
}

#[test]
fn memory_goes_on_where_the_disk_ended() {
    World::run(33, async |world| {
        let bucket = straddled(&world).await;
        let forever = ChangesOptions {
            until: Until::Forever,
            ..options(Since::Beginning)
        };
        let mut changes = bucket.changes(forever).await.expect("changes");
        let mut all = Vec::new();
        while all.last().is_none_or(|last| last != "6 a=four") {
            all.extend(next(&mut changes).await);
        }
        for (seqno, value) in [(7, "five"), (8, "six")] {
            set(&bucket, "a", value).await;
            let marker = format!("memory history {seqno}-{seqno}");
            assert_eq!(next(&mut changes).await, Some(marker));
            let version = format!("{seqno} a={value}");
            assert_eq!(next(&mut changes).await, Some(version));
        }
        drop(changes);
        bucket.shutdown().await.expect("an end");
    })
    .expect("a run that ends");
}

/// MB-55557: what was written of a collection that was dropped since is history; its begin comes before, its end behind.
#[test]
fn a_dropped_collection_is_told_between_its_begin_and_its_end() {
    World::run(34, async |world| {
        let bucket = world.create(config(&world)).await.expect("a bucket");
        let made = bucket.create_collection("_default", "fruit").await;
        made.expect("a collection");
        let fruit = bucket.collection("_default", "fruit").expect("it");
        let write = fruit.set("k", "early").persisted().await;
        write.expect("a write");
        world.sleep(WINDOW * 2).await;
        let write = fruit.set("k", "late").persisted().await;
        write.expect("a write");
        let dropped = bucket.drop_collection("_default", "fruit").await;
        dropped.expect("a drop");
        set(&bucket, "other", "one").await;
        compacted(&bucket).await;
        let bucket = from_disk(&world, bucket).await;
        let (all, _) = told(&bucket, options(Since::Beginning)).await;
        let told_versions: Vec<&str> = all
            .iter()
            .map(String::as_str)
            .filter(|one| !one.starts_with("disk"))
            .collect();
        let expected = [
            "1 event",
            "2 k=early",
            "3 k=late",
            "4 event",
            "5 other=one",
            "ok",
        ];
        assert_eq!(told_versions, expected, "{all:?}");
        // Out of the window it is gone, and nothing of it is told.
        world.sleep(WINDOW * 2).await;
        set(&bucket, "other", "two").await;
        compacted(&bucket).await;
        let bucket = from_disk(&world, bucket).await;
        let (all, _) = told(&bucket, options(Since::Beginning)).await;
        assert!(!all.iter().any(|one| one.contains("k=")), "{all:?}");
        assert!(all.contains(&"6 other=two".to_owned()), "{all:?}");
        bucket.shutdown().await.expect("an end");
    })
    .expect("a run that ends");
}

/// MB-47790, in either part.
#[test]
fn a_failed_read_of_either_part_ends_the_stream_and_loses_nothing() {
    let mut failed = 0;
    for nth in 1..8 {
        failed += World::run(35, async |world| {
            let bucket = straddled(&world).await;
            let (expected, _) = told(&bucket, options(Since::Beginning)).await;
            world.inject(Fault::ScanFor(ScanPurpose::Backfill, nth));
            let (mut all, token) = told(&bucket, options(Since::Beginning)).await;
            let end = all.pop().expect("an end");
            let is_failed = end == StreamEndReason::BackfillFail.name();
            assert!(is_failed || end == "ok", "{end}");
            world.clear_faults();
            let (rest, _) = told(&bucket, options(Since::Token(token))).await;
            all.extend(rest.into_iter().filter(|_| is_failed));
            let is_version = |one: &&String| one.contains('=');
            let versions = |all: &[String]| -> Vec<String> {
                all.iter().filter(is_version).cloned().collect()
            };
            assert_eq!(versions(&all), versions(&expected), "step {nth}");
            bucket.shutdown().await.expect("an end");
            u32::from(is_failed)
        })
        .expect("a run that ends");
    }
    assert!(failed > 1, "each part has a step at least");
}
