//! What is read of a vbucket is all that is left of it, whichever frame of the log is damaged.

use bytes::Bytes;

use super::*;
use crate::cas::Cas;
use crate::disk::{Disk, Fault, SimulatedDisk, Verb};
use crate::document::{
    CollectionId, Datatype, Document, DocumentKey, Expiry, Operation, Predecessor, RevSeqno,
};
use crate::kv_store::{Batch, CommitDurability, KvStore};
use crate::log_store::log::frame::HEADER_LENGTH;
use crate::log_store::log::payload::{self, Record};
use crate::log_store::options::{CreateOptions, OpenOptions};
use crate::memory::MemoryToken;
use crate::outcome::Outcome;
use crate::vbucket::VbucketUuid;

const ONE: VbucketId = VbucketId::FIRST;

struct World {
    disk: SimulatedDisk,
    store: LogStore,
}

fn options() -> OpenOptions {
    OpenOptions {
        block_bytes: 512,
        ..OpenOptions::new(5)
    }
}

fn item(seqno: u64, value: &str) -> Arc<Item> {
    Arc::new(Item {
        seqno: Seqno(seqno),
        operation: Operation::Mutation,
        predecessor: Predecessor::Unknown,
        document: Document {
            key: DocumentKey::new(CollectionId::DEFAULT, format!("{seqno} {value}").as_bytes())
                .unwrap(),
            value: Bytes::from(format!("{value} {}", "v".repeat(200))),
            datatype: Datatype::RAW,
            flags: 0,
            expiry: Expiry(0),
            cas: Cas(seqno),
            rev_seqno: RevSeqno(1),
        },
        token: MemoryToken::default(),
    })
}

fn done<T: std::fmt::Debug>(outcome: &Outcome<T>) {
    assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
}

impl World {
    fn new() -> World {
        World::with(options())
    }

    fn with(options: OpenOptions) -> World {
        let disk = SimulatedDisk::new();
        let shape = CreateOptions::of(2, 1);
        let store = LogStore::create(Arc::new(disk.clone()), shape, options).unwrap();
        let state = VbucketStateRecord::new(VbucketUuid(7));
        store.create_vbucket(ONE, &state).unwrap();
        World { disk, store }
    }

    /// A commit of its own, of so many more items.
    fn write(&self, count: u64, value: &str) {
        self.write_to(0, count, value);
    }

    fn write_to(&self, number: usize, count: u64, value: &str) {
        let status = self.store.vbuckets().remove(number);
        let position = status.position.unwrap();
        let high = position.high_seqno.0;
        let items = (high + 1..=high + count).map(|seqno| item(seqno, value));
        let batch = Batch::of_documents(status.vbucket, &position, items.collect(), high + count);
        for answer in self.store.commit(&[batch], CommitDurability::Synced) {
            answer.unwrap();
        }
    }

    fn seal(&self) {
        done(&self.store.seal_all(Seqno::ZERO));
    }

    fn merge(&self) {
        done(&self.store.merge(ONE, Seqno::ZERO));
    }

    fn roll_back(&self, to: u64) {
        done(&self.store.rollback(ONE, Seqno(to)));
    }

    /// Killed, and the last of these frames is damaged.
    fn damage(self, is_it: impl Fn(&Edit) -> bool) -> World {
        // Whatever came before is proven durable by what comes behind.
        self.write(1, "last");
        self.write(1, "last");
        let (_, found) = log_of(&self.store.shards()[0]).unwrap();
        let has_it = |frame: &&crate::log_store::log::reader::FoundFrame| {
            let records = payload::read(&frame.payload).unwrap();
            let mut records = records.iter();
            records.any(|record| matches!(record, Record::Edit(edit) if is_it(edit)))
        };
        let frame = found.frames.iter().rfind(has_it).unwrap();
        let (name, at) = (frame.file_name.to_string(), frame.offset);
        let World { disk, store } = self;
        drop(store);
        disk.flip_bit(&name, at + HEADER_LENGTH as u64 + 3, 2)
            .unwrap();
        World::open(disk)
    }

    fn open(disk: SimulatedDisk) -> World {
        let store = LogStore::open(Arc::new(disk.clone()), options()).unwrap();
        World { disk, store }
    }

    fn salvage(&self) -> (Vec<(u64, String)>, Salvaged) {
        let mut found = Vec::new();
        let mut visit = |view: ItemView<'_>| {
            let value = String::from_utf8(view.value.to_vec()).unwrap();
            let word = value.split(' ').next().unwrap_or_default();
            found.push((view.seqno.0, word.to_owned()));
        };
        let salvaged = self.store.salvage(ONE, &mut visit).unwrap();
        let rises = found.windows(2).all(|two| two[0].0 < two[1].0);
        assert!(rises, "{found:?}");
        (found, salvaged)
    }

    fn assert_down(&self) {
        let down = self.store.state(ONE).unwrap_err();
        assert!(matches!(down, StorageError::VbucketDown { .. }), "{down}");
    }

    /// Killed, and the vbucket's entry in the manifest is damaged: nothing says how it began, or which segments it has.
    fn damage_entry(self) -> World {
        let World { disk, store } = self;
        let names = disk.list().unwrap();
        let names = names.iter().filter_map(|name| Name::parse(name));
        let manifest = names.filter(|name| name.kind == Kind::Manifest).max();
        let number = manifest.unwrap().number;
        let (store_id, shard) = (store.shards()[0].store_id, 0);
        let owner = ManifestOwner {
            store_id,
            shard,
            number,
        };
        let name = manifest.unwrap().to_string();
        let read = manifest::read(&disk, &name, owner).unwrap();
        let entry = read.entries.iter().find(|(_, entry)| entry.vbucket == ONE);
        drop(store);
        disk.flip_bit(&name, entry.unwrap().0 + 3, 1).unwrap();
        World::open(disk)
    }
}

/// Two segments of 800 each, of which the log has neither the items nor the first seal.
fn moved_on() -> World {
    let world = World::with(OpenOptions {
        log_file_bytes_min: 64 << 10,
        log_file_bytes_max: 64 << 10,
        ..options()
    });
    for _ in 0..2 {
        for _ in 0..40 {
            world.write(20, "old");
        }
        world.seal();
        world.store.checkpoint().unwrap();
    }
    let (begin, _) = log_of(&world.store.shards()[0]).unwrap();
    assert!(begin > 50, "{begin}");
    world
}

fn range(first: u64, last: Seqno) -> Vec<SeqnoRange> {
    let first = Seqno(first);
    vec![SeqnoRange { first, last }]
}

fn named(range: std::ops::RangeInclusive<u64>, value: &str) -> Vec<(u64, String)> {
    range.map(|seqno| (seqno, value.to_owned())).collect()
}

fn is_seal(edit: &Edit) -> bool {
    matches!(edit, Edit::Seal { .. })
}

fn is_rollback(edit: &Edit) -> bool {
    matches!(edit, Edit::Rollback { .. })
}

#[test]
fn what_a_merge_left_is_read_though_one_of_its_inputs_is_unknown() {
    let world = World::new();
    for _ in 0..2 {
        world.write(20, "old");
        world.seal();
    }
    world.store.checkpoint().unwrap();
    world.write(20, "old");
    world.seal();
    world.merge();
    // What it was made of is given back.
    for _ in 0..20 {
        done(&world.store.maintain());
    }
    let world = world.damage(is_seal);
    world.assert_down();
    let (found, salvaged) = world.salvage();
    let expected = [named(1..=60, "old"), named(61..=62, "last")].concat();
    assert_eq!(found, expected);
    assert_eq!((salvaged.versions, salvaged.lost), (62, Vec::new()));
    assert_eq!(salvaged.known_high, Some(Seqno(62)));
    assert_eq!(salvaged.commit_time_ms, 62);
}

#[test]
fn what_came_behind_a_lost_rollback_is_read_and_not_what_it_undid() {
    let world = World::new();
    world.write(20, "old");
    world.seal();
    world.write(20, "undone");
    world.roll_back(10);
    world.write(5, "new");
    let world = world.damage(is_rollback);
    world.assert_down();
    let (found, _) = world.salvage();
    let new = [named(11..=15, "new"), named(16..=17, "last")].concat();
    assert_eq!(found, [named(1..=10, "old"), new].concat());
}

#[test]
fn what_was_sealed_and_merged_behind_a_lost_rollback_is_read() {
    for merges in [false, true] {
        let world = World::new();
        world.write(20, "old");
        world.seal();
        world.store.checkpoint().unwrap();
        world.write(20, "undone");
        world.roll_back(10);
        world.write(5, "new");
        world.seal();
        if merges {
            world.write(5, "new");
            world.seal();
            world.merge();
        }
        let world = world.damage(is_rollback);
        world.assert_down();
        let (found, _) = world.salvage();
        let end = if merges { 20 } else { 15 };
        let new = [named(11..=end, "new"), named(end + 1..=end + 2, "last")].concat();
        assert_eq!(found, [named(1..=10, "old"), new].concat(), "{merges}");
    }
}

/// A segment of which nothing is known: the log has what it was made of.
#[test]
fn what_was_sealed_by_a_lost_frame_is_read_from_the_log() {
    let world = World::new();
    world.write(20, "old");
    world.seal();
    world.store.checkpoint().unwrap();
    world.write(20, "old");
    world.seal();
    world.write(20, "old");
    world.seal();
    let is_first = |edit: &Edit| matches!(edit, Edit::Seal { sealed, .. } if sealed.0 == 40);
    let world = world.damage(is_first);
    world.assert_down();
    let (found, _) = world.salvage();
    let expected = [named(1..=60, "old"), named(61..=62, "last")].concat();
    assert_eq!(found, expected);
}

/// A life of which the beginning is lost.
#[test]
fn a_vbucket_that_was_created_anew_is_of_its_newest_life() {
    let world = World::new();
    world.write(20, "old");
    world.seal();
    world.store.checkpoint().unwrap();
    let state = VbucketStateRecord::new(VbucketUuid(8));
    world.store.renew_vbucket(ONE, &state).unwrap();
    world.write(5, "new");
    let world = world.damage(|edit| matches!(edit, Edit::Create { .. }));
    world.assert_down();
    let (found, _) = world.salvage();
    let expected = [named(1..=5, "new"), named(6..=7, "last")].concat();
    assert_eq!(found, expected);
}

/// Blocks of a segment are damaged: what it was made of is still in the log.
#[test]
fn what_a_segment_lost_is_read_from_the_log() {
    let world = World::new();
    world.write(20, "old");
    world.seal();
    world.write(5, "last");
    let World { disk, store } = world;
    drop(store);
    let name = disk.list().unwrap();
    let name = name.iter().find(|name| name.starts_with("container"));
    disk.flip_bit(name.unwrap(), 4096 + 60, 1).unwrap();
    let world = World::open(disk);
    let faults = world.store.verify().faults;
    assert!(!faults.is_empty());
    let (found, salvaged) = world.salvage();
    assert_eq!(
        found,
        [named(1..=20, "old"), named(21..=25, "last")].concat()
    );
    assert_eq!(salvaged.lost, []);
}

/// What the disk does not give is not lost.
#[test]
fn what_cannot_be_read_is_an_error() {
    let world = World::new();
    world.write(20, "old");
    world.seal();
    for verb in [Verb::Open, Verb::Read] {
        let broken = DiskErrorKind::Other("broken".to_owned());
        let fault = Fault::failed_call(broken).on(verb);
        world.disk.inject(fault.of_files("container").lasting());
        let refused = world.store.salvage(ONE, &mut |_| {});
        assert!(matches!(refused, Err(StorageError::Disk(_))), "{refused:?}");
        world.disk.clear_faults();
    }
    let (found, _) = world.salvage();
    assert_eq!(found.len(), 20);
}

/// Whatever is neither saved nor told to be lost was never there.
#[test]
fn of_a_vbucket_of_unknown_beginning_all_that_is_not_saved_is_told_to_be_lost() {
    let world = moved_on();
    for is_more in [false, true] {
        let copy = World::open(SimulatedDisk::from_files(world.disk.files()));
        if is_more {
            copy.write(20, "new");
        }
        let copy = copy.damage_entry();
        copy.assert_down();
        let (found, salvaged) = copy.salvage();
        // The log has the last seal.
        let (first, last) = (801, if is_more { 1620 } else { 1600 });
        let seqnos: Vec<u64> = found.iter().map(|one| one.0).collect();
        assert_eq!(seqnos, (first..=last).collect::<Vec<u64>>());
        assert_eq!(salvaged.lost, range(1, Seqno(first - 1)));
    }
}

/// The log went on with what is of others.
#[test]
fn a_vbucket_of_which_nothing_is_left_is_lost_from_its_beginning_on() {
    let world = moved_on();
    let state = VbucketStateRecord::new(VbucketUuid(9));
    let other = VbucketId::new(1).unwrap();
    world.store.create_vbucket(other, &state).unwrap();
    for _ in 0..40 {
        world.write_to(1, 20, "other");
    }
    world.seal();
    world.store.checkpoint().unwrap();
    let world = world.damage_entry();
    world.assert_down();
    let (found, salvaged) = world.salvage();
    assert_eq!((found, salvaged.known_high), (Vec::new(), None));
    assert_eq!(salvaged.lost, range(1, Seqno::MAX));
}
