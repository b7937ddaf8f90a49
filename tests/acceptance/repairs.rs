//! A repair of a damaged bucket names every vbucket it sets aside, saves what can be read of it, and leaves a bucket that serves,
//! with all documents of the others; or it says that it cannot, and changes nothing. Without damage it changes nothing; nor where
//! a file is missing.

mod interrupted;
mod missing;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use piggin::messages::compactor::CompactOptions;
use piggin::messages::stream::{StreamEndReason, StreamEvent};
use piggin::storage::disk::{DiskErrorKind, Fault, SimulatedDisk, Verb};
use piggin::storage::log_store::Fault as Found;
use piggin::storage::{
    CollectionId, DocumentKey, KvStore, LogStore, Namespace, OpenOptions, Seqno, StorageError,
    VbucketId,
};
use piggin::{
    Bucket, BucketConfig, Change, KeepsSalvage, Location, RepairError, RepairOptions, RepairReport,
    SetAside,
};

use crate::support::{Result, block_on, key_in, made_small, small, vbucket};

/// Documents of each vbucket.
const EACH: usize = 12;
/// Of the bytes that are not zero, one in so many is damaged.
const STRIDE: usize = 211;

/// What is saved, in memory.
#[derive(Debug, Default)]
struct Kept {
    changes: Vec<Change>,
    /// What will be set aside, once that was all.
    report: Option<RepairReport>,
    /// Fails from this one on.
    fails_at: Option<usize>,
}

impl KeepsSalvage for Kept {
    fn keep(&mut self, change: Change) -> io::Result<()> {
        assert_eq!(self.report, None);
        if self.fails_at == Some(self.changes.len()) {
            return Err(io::Error::other("no room"));
        }
        self.changes.push(change);
        Ok(())
    }

    fn finish(&mut self, report: &RepairReport) -> io::Result<()> {
        self.report = Some(report.clone());
        Ok(())
    }
}

type Repaired = std::result::Result<RepairReport, RepairError>;

fn repair(place: Location, keeps: &mut Kept) -> Repaired {
    piggin::repair(place, RepairOptions::default(), keeps)
}

/// What is missing is lost.
fn repair_without(place: Location, keeps: &mut Kept) -> Repaired {
    let options = RepairOptions {
        missing_is_lost: true,
    };
    piggin::repair(place, options, keeps)
}

/// A bucket to be damaged, and what its documents were, the older versions first.
struct Victim {
    disk: SimulatedDisk,
    versions: BTreeMap<(VbucketId, String), Vec<String>>,
    /// The seqno of each document's newest version.
    newest: BTreeMap<(VbucketId, String), Seqno>,
    /// Written last of all: where a crash left them in the last frame of a log, damage looks as if it had been torn.
    last: BTreeSet<String>,
}

fn at(disk: &SimulatedDisk) -> Location {
    Location::Disk(Arc::new(disk.clone()))
}

fn config(disk: &SimulatedDisk) -> BucketConfig {
    let mut config = small(BucketConfig::on(Arc::new(disk.clone())));
    config.store.log_file_bytes_min = 16 << 10;
    config.store.log_file_bytes_max = 64 << 10;
    config.store.block_bytes = 512;
    config
}

/// Sealed, superseded and unsealed documents of four vbuckets in two log shards, of which the logs hold all there was.
fn victim(is_closed: bool) -> Result<Victim> {
    victim_of(is_closed, 900)
}

/// One that was closed, and whose logs do not begin with their first frame any more.
fn aged() -> Result<Victim> {
    let victim = victim_of(true, 1900)?;
    let files = victim.disk.files();
    let first = files.keys().find(|name| name.starts_with("log."));
    assert!(
        first.is_some_and(|name| name != "log.00.0000000001"),
        "{first:?}"
    );
    Ok(victim)
}

fn victim_of(is_closed: bool, length: usize) -> Result<Victim> {
    let disk = SimulatedDisk::new();
    let made = BucketConfig {
        log_shards: Some(2),
        ..made_small(config(&disk))
    };
    let bucket = block_on(Bucket::create(made))?;
    let mut versions: BTreeMap<(VbucketId, String), Vec<String>> = BTreeMap::new();
    let mut newest = BTreeMap::new();
    let mut last = BTreeSet::new();
    for round in 0..3 {
        for id in bucket.vbuckets() {
            for number in 0..EACH {
                if round == 2 && number % 3 != 0 {
                    continue;
                }
                let key = key_in(&bucket, id, number);
                let value = format!("{key} {round} {}", "v".repeat(length));
                let written = block_on(bucket.set(&key, value.clone()))?;
                newest.insert((id, key.clone()), written.token.seqno);
                versions.entry((id, key)).or_default().push(value);
            }
        }
        block_on(bucket.flush())?;
        if round < 2 {
            block_on(bucket.compact_all(CompactOptions::default()));
        }
    }
    for id in bucket.vbuckets() {
        let key = key_in(&bucket, id, 1000);
        let written = block_on(bucket.set(&key, "last").persisted())?;
        newest.insert((id, key.clone()), written.token.seqno);
        versions.insert((id, key.clone()), vec!["last".to_owned()]);
        last.insert(key);
    }
    if is_closed {
        block_on(bucket.shutdown())?;
        let disk = disk.crash_losing_everything_unsynced();
        settle(&disk)?;
        let last = BTreeSet::new();
        return Ok(Victim {
            disk,
            versions,
            newest,
            last,
        });
    }
    let left = disk.crash_losing_everything_unsynced();
    block_on(bucket.shutdown())?;
    settle(&left)?;
    Ok(Victim {
        disk: left,
        versions,
        newest,
        last,
    })
}

/// Without what an opening removes because nothing needs it.
fn settle(disk: &SimulatedDisk) -> Result {
    drop(opened(disk)?);
    Ok(())
}

fn copy_of(disk: &SimulatedDisk) -> SimulatedDisk {
    SimulatedDisk::from_files(disk.files())
}

fn opened(disk: &SimulatedDisk) -> std::result::Result<LogStore, StorageError> {
    LogStore::open(Arc::new(disk.clone()), OpenOptions::new(5))
}

fn value(store: &LogStore, id: VbucketId, key: &str) -> Option<Vec<u8>> {
    let key = DocumentKey::new(CollectionId::DEFAULT, key.as_bytes()).unwrap();
    let found = store.get(id, Namespace::Committed, &key).unwrap();
    found.map(|item| item.document.value.to_vec())
}

/// The others have all of theirs, those set aside have nothing, and nothing is damaged any more.
fn assert_serves(victim: &Victim, disk: &SimulatedDisk, report: &RepairReport, what: &str) {
    let store = opened(disk).unwrap();
    assert_eq!(store.verify().faults, [], "{what}");
    let aside: BTreeSet<VbucketId> = report.set_aside.iter().map(|one| one.vbucket).collect();
    for ((id, key), versions) in &victim.versions {
        let found = value(&store, *id, key);
        if aside.contains(id) {
            assert_eq!(found, None, "{what}: {key}");
        } else if found.is_none() {
            assert!(victim.last.contains(key), "{what}: {key} is missing");
        } else {
            let newest = versions.last().map(String::as_bytes);
            assert_eq!(found.as_deref(), newest, "{what}: {key}");
        }
    }
    for id in &aside {
        let state = store.state(*id).unwrap();
        assert_eq!(state.watermarks.high_seqno, Seqno::ZERO, "{what}");
        assert_eq!(state.identity.failover_table.entries().len(), 1, "{what}");
    }
    for one in &report.set_aside {
        let Some(before) = &one.salvaged.identity else {
            continue;
        };
        // A history of its own: nobody takes it for the one before.
        let state = store.state(one.vbucket).unwrap();
        let begun = state.identity.failover_table.entries()[0].uuid;
        let mut known = before.failover_table.entries().iter();
        assert!(known.all(|branch| branch.uuid != begun), "{what}");
    }
}

/// What a look at the bucket says is damaged, but for a bucket that cannot be opened.
fn damaged_in(disk: &SimulatedDisk) -> BTreeSet<VbucketId> {
    let Ok(store) = opened(&copy_of(disk)) else {
        return BTreeSet::new();
    };
    let faults = store.verify().faults;
    faults
        .into_iter()
        .flat_map(|fault| fault.vbuckets)
        .collect()
}

/// What was saved are versions that were written, of vbuckets that were set aside, by rising seqno; how many of the newest.
fn assert_saved(victim: &Victim, report: &RepairReport, kept: &Kept, what: &str) -> usize {
    let is_any = !report.set_aside.is_empty() || !report.others.is_empty();
    assert_eq!(kept.report.as_ref(), is_any.then_some(report), "{what}");
    let mut newest = BTreeMap::new();
    let mut before: Option<(VbucketId, Seqno)> = None;
    for Change { vbucket, event } in &kept.changes {
        let StreamEvent::Mutation(item) = event else {
            continue;
        };
        let place = (*vbucket, item.seqno);
        assert!(before.is_none_or(|before| before < place), "{what}");
        before = Some(place);
        let key = String::from_utf8(item.document.key.key().to_vec()).unwrap();
        let value = String::from_utf8(item.document.value.to_vec()).unwrap();
        let known = victim.versions.get(&(*vbucket, key.clone()));
        assert!(
            known.is_some_and(|all| all.contains(&value)),
            "{what}: {key}"
        );
        newest.insert((*vbucket, key), value);
    }
    for one in &report.set_aside {
        assert!(!one.faults.is_empty(), "{what}");
        let of_it = kept
            .changes
            .iter()
            .filter(|change| change.vbucket == one.vbucket);
        assert_eq!(of_it.count() as u64, one.salvaged.versions, "{what}");
        assert_accounted(victim, one, kept, what);
    }
    let is_newest = |(place, value): (&(VbucketId, String), &String)| {
        victim.versions.get(place).and_then(|all| all.last()) == Some(value)
    };
    newest.iter().filter(|one| is_newest(*one)).count()
}

/// What counted was saved, or is told to be lost; of what the log lost nobody knows.
fn assert_accounted(victim: &Victim, one: &SetAside, kept: &Kept, what: &str) {
    if one.faults.iter().any(Found::is_of_log) {
        return;
    }
    let of_it = kept
        .changes
        .iter()
        .filter(|change| change.vbucket == one.vbucket);
    let saved: BTreeSet<Seqno> = of_it
        .filter_map(|change| {
            let StreamEvent::Mutation(item) = &change.event else {
                return None;
            };
            Some(item.seqno)
        })
        .collect();
    for ((id, key), seqno) in &victim.newest {
        let is_lost = one.salvaged.lost.iter().any(|range| range.contains(*seqno));
        assert!(
            *id != one.vbucket || is_lost || saved.contains(seqno),
            "{what}: {key} at {seqno} is neither saved nor told to be lost: {one:?}"
        );
    }
}

#[derive(Debug, Default)]
struct Tried {
    mended: usize,
    set_aside: usize,
    saved: usize,
    beyond: usize,
    harmless: usize,
}

fn try_one(victim: &Victim, disk: &SimulatedDisk, what: &str, tried: &mut Tried) {
    let mut kept = Kept::default();
    let damaged = disk.files();
    let found = damaged_in(disk);
    let repaired = repair(at(disk), &mut kept);
    if let Ok(report) = &repaired {
        assert_eq!(names_of(report), found, "{what}");
    }
    judge(victim, disk, &damaged, (repaired, &kept), what, tried);
}

fn judge(
    victim: &Victim,
    disk: &SimulatedDisk,
    damaged: &BTreeMap<String, Vec<u8>>,
    (repaired, kept): (Repaired, &Kept),
    what: &str,
    tried: &mut Tried,
) {
    match repaired {
        Ok(report) => {
            assert_serves(victim, disk, &report, what);
            tried.saved += assert_saved(victim, &report, kept, what);
            tried.set_aside += report.set_aside.len();
            tried.mended += usize::from(!report.set_aside.is_empty());
            tried.harmless += usize::from(report.set_aside.is_empty());
            // There is nothing left to repair.
            let again = repair(at(disk), &mut Kept::default());
            assert_eq!(again, Ok(RepairReport::default()), "{what}");
        }
        Err(RepairError::Store(_) | RepairError::BeyondRepair { .. }) => {
            tried.beyond += 1;
            assert_eq!(kept.changes, [], "{what}");
            assert_same(disk, damaged, what);
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

/// Nothing of what was there is gone or other than it was.
fn assert_same(disk: &SimulatedDisk, before: &BTreeMap<String, Vec<u8>>, what: &str) {
    let files = disk.files();
    let same = |name: &String| files.get(name) == before.get(name);
    assert!(before.keys().all(same), "{what}: changed");
}

/// A bit flips anywhere, in segments, index pages, footers, the log, manifests, headers.
#[test]
fn whatever_byte_is_damaged() -> Result {
    for (is_closed, is_aged) in [(true, false), (false, false), (true, true)] {
        let victim = if is_aged { aged()? } else { victim(is_closed)? };
        let mut tried = Tried::default();
        let mut kinds = BTreeSet::new();
        for (name, bytes) in victim.disk.files() {
            let written = (0..bytes.len()).filter(|at| bytes[*at] != 0);
            for at in written.step_by(STRIDE) {
                let disk = copy_of(&victim.disk);
                disk.flip_bit(&name, at as u64, 3)?;
                kinds.insert(name.split('.').next().unwrap_or_default().to_owned());
                try_one(&victim, &disk, &format!("{name} at {at}"), &mut tried);
            }
        }
        println!("closed: {is_closed}, aged: {is_aged}: {tried:?} {kinds:?}");
        // What a crash left is nearly all needed.
        assert!(tried.mended > 0 && tried.beyond > 0 && (tried.harmless > 0 || !is_closed));
        // The log has what the segments lose, unless it is younger.
        let least = if is_aged {
            0
        } else {
            tried.set_aside * EACH / 2
        };
        assert!(tried.saved > least, "{tried:?}");
    }
    Ok(())
}

/// A damaged block, and what a repair of it comes to.
fn damaged_by_a_bit() -> Result<(Victim, RepairReport)> {
    let victim = victim(true)?;
    let files = victim.disk.files();
    let name = files
        .keys()
        .find(|name| name.starts_with("container"))
        .unwrap();
    victim.disk.flip_bit(name, 4096 + 60, 1)?;
    let report = repair(at(&copy_of(&victim.disk)), &mut Kept::default())?;
    assert_eq!(report.set_aside.len(), 1);
    Ok((victim, report))
}

fn names_of(report: &RepairReport) -> BTreeSet<VbucketId> {
    report.set_aside.iter().map(|one| one.vbucket).collect()
}

#[test]
fn without_damage_nothing_is_changed() -> Result {
    let victim = victim(true)?;
    let before = victim.disk.files();
    let mut kept = Kept::default();
    assert_eq!(
        repair(at(&victim.disk), &mut kept),
        Ok(RepairReport::default())
    );
    assert_eq!(kept.report, None);
    assert!(victim.disk.files() == before, "changed");
    // Not one that is in use either.
    let bucket = block_on(Bucket::open(config(&victim.disk)))?;
    let refused = repair(at(&victim.disk), &mut kept);
    let is_locked = matches!(
        &refused,
        Err(RepairError::Store(StorageError::Disk(disk))) if disk.kind == DiskErrorKind::Locked
    );
    assert!(is_locked, "{refused:?}");
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn what_cannot_be_saved_is_not_given_up() -> Result {
    let victim = victim(true)?;
    let files = victim.disk.files();
    let name = files
        .keys()
        .find(|name| name.starts_with("container"))
        .unwrap();
    victim.disk.flip_bit(name, 4096 + 60, 1)?;
    let before = victim.disk.files();
    let mut kept = Kept {
        fails_at: Some(3),
        ..Kept::default()
    };
    let refused = repair(at(&victim.disk), &mut kept);
    assert!(
        matches!(refused, Err(RepairError::Save { .. })),
        "{refused:?}"
    );
    assert!(victim.disk.files() == before, "changed");
    Ok(())
}

/// A bucket serves again: also the vbucket that is empty now, with the collections there are, and over a restart.
#[test]
fn the_bucket_serves_again() -> Result {
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(made_small(config(&disk))))?;
    block_on(bucket.create_collection("_default", "fruit"))?;
    let keys: Vec<String> = bucket.vbuckets().map(|id| key_in(&bucket, id, 1)).collect();
    let fruit = bucket.collection("_default", "fruit")?;
    for key in &keys {
        block_on(bucket.set(key, "plain"))?;
        block_on(fruit.set(key, "fruit"))?;
    }
    let token = block_on(bucket.token())?;
    block_on(bucket.shutdown())?;
    let files = disk.files();
    let name = files
        .keys()
        .find(|name| name.starts_with("container"))
        .unwrap();
    disk.flip_bit(name, 4096 + 60, 1)?;
    let report = repair(at(&disk), &mut Kept::default())?;
    let aside: Vec<VbucketId> = report.set_aside.iter().map(|one| one.vbucket).collect();
    assert_eq!(aside.len(), 1);
    let bucket = block_on(Bucket::open(config(&disk)))?;
    let fruit = bucket.collection("_default", "fruit")?;
    for key in &keys {
        let is_aside = aside.contains(&bucket.vbucket_of(key.as_bytes()));
        assert_eq!(block_on(bucket.get(key)).is_err(), is_aside, "{key}");
        assert_eq!(block_on(fruit.get(key)).is_err(), is_aside, "{key}");
        block_on(bucket.set(key, "again").persisted())?;
        block_on(fruit.set(key, "again").persisted())?;
    }
    // Who followed it before is told to go back.
    let options = piggin::ChangesOptions {
        since: piggin::Since::Token(token),
        until: piggin::Until::Now,
        ..piggin::ChangesOptions::default()
    };
    let mut changes = block_on(bucket.changes(options))?;
    let mut rolled_back = Vec::new();
    while let Some(Change { vbucket, event }) = block_on(changes.next()) {
        if event == StreamEvent::StreamEnd(StreamEndReason::Rollback) {
            rolled_back.push(vbucket);
        }
    }
    assert_eq!(rolled_back, aside);
    drop(changes);
    block_on(bucket.shutdown())?;
    let bucket = block_on(Bucket::open(config(&disk)))?;
    let fruit = bucket.collection("_default", "fruit")?;
    for key in &keys {
        assert_eq!(block_on(bucket.get(key))?.value, "again");
        assert_eq!(block_on(fruit.get(key))?.value, "again");
    }
    drop(fruit);
    block_on(bucket.shutdown())?;
    assert_eq!(vbucket(0).get(), 0);
    Ok(())
}
