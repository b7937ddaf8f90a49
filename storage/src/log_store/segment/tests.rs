//! Promises of segments: what went in comes out, damage never does, and the format does not change by accident.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::block::{BlockHeader, BlockTable};
use super::fields::saturating_usize;
use super::filter::Filter;
use super::footer::{END_BYTES, Footer};
use super::key_index::{IndexTop, Page};
use super::seqno_cursor::RawRecord;
use super::*;
use crate::cas::Cas;
use crate::disk::{DiskError, DiskErrorKind, DiskFile, Verb};
use crate::document::{
    CollectionId, Datatype, DeleteSource, Document, Expiry, Item, Operation, Predecessor, RevSeqno,
};
use crate::durability::DurabilityLevel;
use crate::error::{Refusal, StorageError};
use crate::kv_store::ItemView;
use crate::memory::MemoryToken;
use crate::seqno::SnapshotRange;
use crate::vbucket::{Incarnation, RollbackEpoch, SnapshotKind, VbucketId, Watermarks};

/// Where segments of these tests begin in their file: not at its beginning, and not aligned to anything.
const START: u64 = 777;

#[derive(Debug, Default)]
struct MemoryFile(RwLock<Vec<u8>>);

impl MemoryFile {
    fn error(verb: Verb, kind: DiskErrorKind) -> DiskError {
        DiskError {
            verb,
            file: "memory".to_owned(),
            kind,
        }
    }

    fn flip(&self, at: usize, mask: u8) {
        self.0.write()[at] ^= mask;
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        let bytes = self.0.read();
        let start = saturating_usize(offset);
        let source = bytes
            .get(start..start.saturating_add(buffer.len()))
            .ok_or_else(|| MemoryFile::error(Verb::Read, DiskErrorKind::EndOfFile))?;
        buffer.copy_from_slice(source);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        let mut bytes = self.0.write();
        let start = saturating_usize(offset);
        let end = start + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0xee);
        }
        bytes[start..end].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn length(&self) -> Result<u64, DiskError> {
        Ok(self.0.read().len() as u64)
    }

    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.0.write().resize(saturating_usize(length), 0);
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.write_at(&vec![0; saturating_usize(length)], offset)
    }

    fn punch(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.zero(offset, length)
    }
}

fn ident() -> SegmentIdent {
    SegmentIdent {
        vbucket: VbucketId::new(513).unwrap(),
        incarnation: Incarnation(7),
        epoch: RollbackEpoch(3),
    }
}

fn tail() -> SegmentTail<'static> {
    SegmentTail {
        id: 42,
        container: 9,
        exact_from: Seqno::ZERO,
        kills: &[],
        boundaries: &[],
        first_seqno_ceiling: Seqno::MAX,
        last_seqno_floor: Seqno::ZERO,
    }
}

fn plain(block_bytes: usize) -> SegmentOptions {
    SegmentOptions {
        block_bytes,
        compression: Compression::None,
    }
}

fn lz4(block_bytes: usize) -> SegmentOptions {
    SegmentOptions {
        block_bytes,
        compression: Compression::Lz4,
    }
}

/// Owned index entries, in the index's order.
type Entries = BTreeMap<(Vec<u8>, std::cmp::Reverse<Seqno>), FoundEntry>;

struct Written {
    file: Arc<MemoryFile>,
    meta: SegmentMeta,
    entries: Entries,
}

impl Written {
    fn open(&self) -> Result<Arc<Segment>, StorageError> {
        self.open_as(self.meta.clone())
    }

    fn open_as(&self, meta: SegmentMeta) -> Result<Arc<Segment>, StorageError> {
        let file: Arc<dyn DiskFile> = self.file.clone();
        Segment::open(file, "container-9".into(), meta).map(Arc::new)
    }

    /// The same with other bytes in the file.
    fn with_bytes(&self, bytes: Vec<u8>) -> Written {
        Written {
            file: Arc::new(MemoryFile(RwLock::new(bytes))),
            meta: self.meta.clone(),
            entries: self.entries.clone(),
        }
    }
}

fn index_key(item: &Item) -> Vec<u8> {
    IndexKey::new(item.namespace(), item.document.key.as_encoded())
        .as_bytes()
        .to_vec()
}

fn write(items: &[Item], options: SegmentOptions, tail: SegmentTail<'_>) -> Written {
    let file = Arc::new(MemoryFile::default());
    let out = ExtentWriter::new(file.clone(), "container-9".into(), START);
    let mut writer = SegmentWriter::new(out, options, ident());
    let mut entries = Entries::new();
    for item in items {
        let location = writer.push(&ItemView::of(item)).unwrap();
        let found = FoundEntry {
            seqno: item.seqno,
            location,
            is_tombstone: item.operation.is_tombstone(),
            user_bytes: item.user_bytes(),
        };
        entries.insert((index_key(item), std::cmp::Reverse(item.seqno)), found);
    }
    let (meta, mut out) = finish(writer, &entries, tail).unwrap();
    out.flush().unwrap();
    Written {
        file,
        meta,
        entries,
    }
}

fn finish(
    mut writer: SegmentWriter,
    entries: &Entries,
    tail: SegmentTail<'_>,
) -> Result<(SegmentMeta, ExtentWriter), StorageError> {
    writer.begin_index()?;
    for ((key, _), found) in entries {
        writer.push_index(entry(key, found))?;
    }
    writer.finish(tail)
}

fn entry<'a>(key: &'a [u8], found: &FoundEntry) -> IndexEntry<'a> {
    IndexEntry {
        key,
        seqno: found.seqno,
        location: found.location,
        is_tombstone: found.is_tombstone,
        user_bytes: found.user_bytes,
    }
}

fn item(seqno: u64, key: &[u8], value: &[u8], operation: Operation) -> Item {
    Item {
        seqno: Seqno(seqno),
        operation,
        predecessor: Predecessor::Unknown,
        document: Document {
            key: DocumentKey::new(CollectionId::DEFAULT, key).unwrap(),
            value: Bytes::copy_from_slice(value),
            datatype: Datatype::JSON,
            flags: 0xdead_beef,
            expiry: Expiry(17),
            cas: Cas(seqno << 16),
            rev_seqno: RevSeqno(seqno),
        },
        token: MemoryToken::default(),
    }
}

fn mutation(seqno: u64, key: &[u8], value: &[u8]) -> Item {
    item(seqno, key, value, Operation::Mutation)
}

fn scan(segment: &Arc<Segment>, from: Seqno, bytes_max: usize) -> Result<Vec<Item>, StorageError> {
    let mut cursor = SeqnoCursor::new(Arc::clone(segment), from);
    let mut items = Vec::new();
    while let Some(mut chunk) = cursor.next_chunk(bytes_max)? {
        while let Some(record) = chunk.next() {
            let record = record?;
            let value = Bytes::copy_from_slice(record.item.value);
            items.push(record.item.to_item(value).unwrap());
        }
    }
    Ok(items)
}

fn scan_keys(segment: &Arc<Segment>, from: &[u8]) -> Result<Entries, StorageError> {
    let mut cursor = KeyCursor::new(Arc::clone(segment), from)?;
    let mut entries = Entries::new();
    while let Some(at) = cursor.peek() {
        let key = (at.key.to_vec(), std::cmp::Reverse(at.seqno));
        assert!(
            entries.last_key_value().is_none_or(|(last, _)| *last < key),
            "keys rise"
        );
        entries.insert(key, at.without_key());
        cursor.advance()?;
    }
    Ok(entries)
}

fn faults(segment: &Segment) -> Vec<(u64, String)> {
    let mut faults = Vec::new();
    segment.verify(&mut |offset, what| faults.push((offset, what)));
    faults
}

/// For answers that only must not panic.
fn ignore<T>(answer: T) {
    drop(answer);
}

/// What the newest version of each key at `at_most` is, by the items themselves.
fn newest<'i>(items: &'i [Item], key: &[u8], at_most: Seqno) -> Option<&'i Item> {
    items
        .iter()
        .rev()
        .find(|item| item.seqno <= at_most && index_key(item) == key)
}

/// Everything a segment can be asked, against the items it was made of.
fn check_all(written: &Written, items: &[Item]) {
    let segment = written.open().unwrap();
    for bytes_max in [0, 5_000, usize::MAX] {
        assert_eq!(scan(&segment, Seqno::ZERO, bytes_max).unwrap(), items);
    }
    assert_eq!(scan_keys(&segment, &[]).unwrap(), written.entries);
    for item in items {
        let key = index_key(item);
        assert!(segment.may_hold(hash(&key)));
        for at_most in [item.seqno, Seqno(item.seqno.0 - 1), Seqno::MAX] {
            check_find(&segment, items, &key, at_most);
        }
        check_find(&segment, items, key.get(1..).unwrap(), Seqno::MAX);
        let mut longer = key.clone();
        longer.push(0);
        check_find(&segment, items, &longer, Seqno::MAX);
        let rest = scan(&segment, item.seqno, 5_000).unwrap();
        assert!(
            rest.iter()
                .eq(items.iter().filter(|other| other.seqno >= item.seqno))
        );
        let rest = scan_keys(&segment, &key).unwrap();
        assert!(
            rest.iter().eq(written
                .entries
                .iter()
                .filter(|((other, _), _)| *other >= key))
        );
    }
    let sound = segment.verify(&mut |offset, what| panic!("fault at {offset}: {what}"));
    assert_eq!(sound, items.len() as u64);
}

fn check_find(segment: &Segment, items: &[Item], key: &[u8], at_most: Seqno) {
    let found = segment.find(key, at_most).unwrap();
    let read = found.map(|found| {
        let item = segment.read_record(found.location, found.seqno).unwrap();
        assert_eq!(found.is_tombstone, item.operation.is_tombstone());
        assert_eq!(found.user_bytes, item.user_bytes());
        item
    });
    assert_eq!(read.as_ref(), newest(items, key, at_most));
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let level = prop_oneof![
        Just(DurabilityLevel::Majority),
        Just(DurabilityLevel::MajorityAndPersistOnActive),
        Just(DurabilityLevel::PersistToMajority),
    ];
    let source = prop_oneof![Just(DeleteSource::Explicit), Just(DeleteSource::Expiration)];
    prop_oneof![
        4 => Just(Operation::Mutation),
        2 => (any::<u32>(), source)
            .prop_map(|(deleted_at, source)| Operation::Deletion { deleted_at, source }),
        1 => (level, any::<bool>())
            .prop_map(|(level, is_deletion)| Operation::Prepare { level, is_deletion }),
        1 => (any::<u64>(), any::<u32>()).prop_map(|(seqno, deleted_at)| Operation::Abort {
            prepare_seqno: Seqno(seqno),
            deleted_at
        }),
        1 => any::<u64>().prop_map(|seqno| Operation::CommitMutation { prepare_seqno: Seqno(seqno) }),
        1 => (any::<u64>(), any::<u32>()).prop_map(|(seqno, deleted_at)| Operation::CommitDeletion {
            prepare_seqno: Seqno(seqno),
            deleted_at
        }),
        1 => Just(Operation::SystemEventBegin),
        1 => Just(Operation::SystemEventEnd),
    ]
}

fn any_predecessor() -> impl Strategy<Value = Predecessor> {
    prop_oneof![
        Just(Predecessor::Unknown),
        Just(Predecessor::Absent),
        any::<u64>().prop_map(|seqno| Predecessor::At(Seqno(seqno))),
    ]
}

/// Keys that collide, share long prefixes, are prefixes of each other, or are as long as can be.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0u8..20).prop_map(|n| format!("user::profile::{n:04}").into_bytes()),
        2 => (1usize..20).prop_map(|n| vec![b'a'; n]),
        1 => vec(any::<u8>(), 1..249),
        1 => (0u8..8).prop_map(|n| { let mut key = vec![0; 249]; key[248] = n; key }),
    ]
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => Just(Vec::new()),
        4 => vec(any::<u8>(), 0..200),
        1 => (0usize..20_000).prop_map(|length| vec![b'z'; length]),
        1 => vec(any::<u8>(), 0..9_000),
    ]
}

type Parts = (Vec<u8>, Vec<u8>, Operation, Predecessor, u64, u32);

fn any_items() -> impl Strategy<Value = Vec<Item>> {
    let parts = (
        any_key(),
        any_value(),
        any_operation(),
        any_predecessor(),
        any::<u64>(),
        0u32..3,
    );
    btree_map(1u64..5_000_000_000, parts, 1..120).prop_map(|raw| {
        raw.into_iter()
            .map(|(seqno, parts)| item_of(seqno, parts))
            .collect()
    })
}

fn item_of(seqno: u64, parts: Parts) -> Item {
    let (key, value, operation, predecessor, number, collection) = parts;
    let mut item = item(seqno, &key, &value, operation);
    item.document.key = DocumentKey::new(CollectionId(collection), &key).unwrap();
    item.document.cas = Cas(number);
    item.document.rev_seqno = RevSeqno(number >> 7);
    item.predecessor = predecessor;
    item
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_went_in_comes_out(items in any_items(), block_bytes in 1usize..40_000, is_lz4 in any::<bool>()) {
        let options = if is_lz4 { lz4(block_bytes) } else { plain(block_bytes) };
        check_all(&write(&items, options, tail()), &items);
    }

    #[test]
    fn a_cut_hides_what_is_above_it(items in any_items(), at in any::<prop::sample::Index>()) {
        let mut written = write(&items, lz4(4_000), tail());
        let cut = at.get(&items).seqno;
        written.meta.cut = Some(cut);
        let segment = written.open().unwrap();
        let visible: Vec<Item> =
            items.iter().filter(|item| item.seqno <= cut).cloned().collect();
        prop_assert_eq!(scan(&segment, Seqno::ZERO, 9_000).unwrap(), visible.clone());
        for item in &items {
            check_find(&segment, &visible, &index_key(item), Seqno::MAX);
        }
        written.entries.retain(|_, found| found.seqno <= cut);
        prop_assert_eq!(scan_keys(&segment, &[]).unwrap(), written.entries);
        prop_assert_eq!(faults(&segment), vec![]);
    }

    #[test]
    fn a_merge_may_copy_records_as_they_are(items in any_items()) {
        let from = write(&items, lz4(4_000), tail()).open().unwrap();
        let file = Arc::new(MemoryFile::default());
        let out = ExtentWriter::new(file.clone(), "container-9".into(), START);
        let mut writer = SegmentWriter::new(out, plain(7_000), ident());
        let mut cursor = SeqnoCursor::new(from, Seqno::ZERO);
        let mut entries = Entries::new();
        while let Some(mut chunk) = cursor.next_chunk(10_000).unwrap() {
            while let Some(record) = chunk.next() {
                let RawRecord { item, raw, .. } = record.unwrap();
                let location = writer.push_raw_record(item.seqno, raw).unwrap();
                let key = IndexKey::new(item.namespace(), item.key).as_bytes().to_vec();
                let found = FoundEntry {
                    seqno: item.seqno,
                    location,
                    is_tombstone: item.operation.is_tombstone(),
                    user_bytes: (item.key.len() + item.value.len()) as u64,
                };
                entries.insert((key, std::cmp::Reverse(item.seqno)), found);
            }
        }
        let (meta, mut out) = finish(writer, &entries, tail()).unwrap();
        out.flush().unwrap();
        check_all(&Written { file, meta, entries }, &items);
    }
}

#[test]
fn the_largest_value_comes_back() {
    let value: Vec<u8> = (0..Document::VALUE_LENGTH_MAX)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect();
    let items = [
        mutation(1, b"before", b"x"),
        mutation(2, b"large", &value),
        mutation(3, b"after", b""),
    ];
    for options in [SegmentOptions::default(), lz4(64 << 10), lz4(usize::MAX)] {
        check_all(&write(&items, options, tail()), &items);
    }
}

#[test]
fn versions_of_one_key_may_fill_many_pages() {
    let mut items: Vec<Item> = (1..400).map(|n| mutation(n * 3, b"busy", b"v")).collect();
    items.push(mutation(2_000, b"buzz", b"v"));
    items.push(mutation(2_001, b"aardvark", b"v"));
    let written = write(&items, plain(4_000), tail());
    assert!(written.open().unwrap().index_top.len() > 5);
    check_all(&written, &items);
}

#[test]
fn a_segment_without_records_holds_kills_and_boundaries() {
    let kills = [Kill {
        victim: Seqno(3),
        killer: Seqno(9),
        victim_bytes: 77,
    }];
    let boundaries = [watermarks(10)];
    let tail = SegmentTail {
        kills: &kills,
        boundaries: &boundaries,
        first_seqno_ceiling: Seqno(5),
        last_seqno_floor: Seqno(10),
        ..tail()
    };
    let written = write(&[], plain(100), tail);
    assert_eq!(
        (written.meta.first_seqno, written.meta.last_seqno),
        (Seqno(5), Seqno(10))
    );
    let segment = written.open().unwrap();
    assert_eq!(segment.kills().unwrap(), kills);
    assert_eq!(segment.boundaries().unwrap(), boundaries);
    assert_eq!(segment.find(b"\0\0key", Seqno::MAX).unwrap(), None);
    assert!(!segment.may_hold(hash(b"\0\0key")));
    assert_eq!(scan(&segment, Seqno::ZERO, 1).unwrap(), []);
    assert_eq!(faults(&segment), []);
}

fn watermarks(high: u64) -> Watermarks {
    Watermarks {
        high_seqno: Seqno(high),
        max_visible_seqno: Seqno(high.saturating_sub(1)),
        prepared_seqno: Seqno(high / 2),
        completed_seqno: Seqno(high / 3),
        high_prepared_seqno: Seqno(high % 5),
        purge_seqno: Seqno(high % 7),
        snapshot: SnapshotRange {
            start: Seqno(high / 2),
            end: Seqno(high + 4),
        },
        snapshot_kind: if high.is_multiple_of(2) {
            SnapshotKind::Disk
        } else {
            SnapshotKind::Memory
        },
        commit_time_ms: 1_700_000_000_000 + high,
    }
}

prop_compose! {
    fn any_watermarks()(
        fields in any::<[u64; 8]>(),
        is_disk in any::<bool>(),
        shift in 0u32..64,
    ) -> Watermarks {
        let [visible, prepared, completed, high_prepared, purge, start, end, time] =
            fields.map(|field| field >> shift);
        Watermarks {
            high_seqno: Seqno::ZERO,
            max_visible_seqno: Seqno(visible),
            prepared_seqno: Seqno(prepared),
            completed_seqno: Seqno(completed),
            high_prepared_seqno: Seqno(high_prepared),
            purge_seqno: Seqno(purge),
            snapshot: SnapshotRange { start: Seqno(start), end: Seqno(end) },
            snapshot_kind: if is_disk { SnapshotKind::Disk } else { SnapshotKind::Memory },
            commit_time_ms: time,
        }
    }
}

proptest! {
    #[test]
    fn kill_lists_come_back(
        raw in btree_map((any::<u32>(), 1u64..1_000_000_000_000), any::<u32>(), 0..50)
    ) {
        let kill = |((victim, gap), victim_bytes): (&(u32, u64), &u32)| Kill {
            victim: Seqno(u64::from(*victim)),
            killer: Seqno(u64::from(*victim) + gap),
            victim_bytes: *victim_bytes,
        };
        let kills: Vec<Kill> = raw.iter().map(kill).collect();
        let mut list = kill_list::KillList::default();
        for kill in &kills {
            list.push(kill).unwrap();
        }
        let bytes = list.bytes;
        prop_assert_eq!(kill_list::decode(&bytes, kills.len() as u64).unwrap(), kills);
    }

    #[test]
    fn boundaries_come_back(mut list in vec((any_watermarks(), any::<u64>()), 0..20)) {
        let mut highs: Vec<u64> = list.iter().map(|(_, high)| *high).collect();
        highs.sort_unstable();
        for ((boundary, _), high) in list.iter_mut().zip(highs) {
            boundary.high_seqno = Seqno(high);
        }
        let list: Vec<Watermarks> = list.into_iter().map(|(boundary, _)| boundary).collect();
        let bytes = boundaries::encode(&list).unwrap();
        prop_assert_eq!(boundaries::decode(&bytes, list.len() as u64).unwrap(), list);
    }

    /// Any bytes may be met on a disk.
    #[test]
    fn decoders_take_any_bytes(bytes in vec(any::<u8>(), 0..300), a in any::<u64>(), b in 0u64..40) {
        ignore(BlockHeader::decode(&bytes));
        ignore(BlockTable::decode(&bytes, a, b));
        ignore(IndexTop::decode(&bytes, a));
        ignore(Filter::decode(&bytes));
        ignore(Footer::decode(&bytes, a));
        ignore(record_location::decode_one(&bytes));
        for count in [a, b] {
            ignore(kill_list::decode(&bytes, count));
            ignore(boundaries::decode(&bytes, count));
        }
        if let Ok(page) = Page::parse(&bytes) {
            ignore(page.first_from(&bytes, Seqno(a)));
            for number in 0..page.len().min(50) {
                ignore(page.entry(number));
            }
        }
    }

    /// A footer may be sound and lie: the trailer's checksums are made to fit.
    #[test]
    fn footers_that_lie_are_refused(at in 0usize..footer::FOOTER_BYTES, byte in any::<u8>()) {
        let written = small();
        let length = written.meta.length;
        let bytes = written.file.0.read().clone();
        let end = bytes.len() - END_BYTES;
        let mut lie = bytes[end..end + footer::FOOTER_BYTES].to_vec();
        lie[at] = byte;
        let crc = crc32c::crc32c(&lie);
        let mut trailer = bytes[end + footer::FOOTER_BYTES..].to_vec();
        trailer[24..28].copy_from_slice(&crc.to_le_bytes());
        let trailer_crc = crc32c::crc32c(&trailer[..28]);
        trailer[28..].copy_from_slice(&trailer_crc.to_le_bytes());
        lie.extend_from_slice(&trailer);
        let mut changed = bytes.clone();
        changed[end..].copy_from_slice(&lie);
        let mut liar = written.with_bytes(changed);
        liar.meta.footer_crc = crc;
        if let Ok((footer, _)) = Footer::decode(&lie, length) {
            liar.meta.first_seqno = footer.first_seqno;
            liar.meta.last_seqno = footer.last_seqno;
            liar.meta.exact_from = footer.exact_from;
            liar.meta.records = footer.records;
            liar.meta.data_bytes = footer.data_bytes;
            liar.meta.kills = footer.kills;
        }
        if let Ok(segment) = liar.open() {
            ignore(scan(&segment, Seqno::ZERO, 1));
            ignore(scan_keys(&segment, &[]));
            ignore(faults(&segment));
        }
    }
}

/// Every kind of thing a segment holds, small enough to try every byte of it.
fn small_items() -> Vec<Item> {
    let deletion = Operation::Deletion {
        deleted_at: 1_700_000_000,
        source: DeleteSource::Explicit,
    };
    let prepare = Operation::Prepare {
        level: DurabilityLevel::Majority,
        is_deletion: false,
    };
    let mut items = vec![
        mutation(1, b"apple", b"{\"colour\":\"green\"}"),
        mutation(2, b"banana", b""),
        item(4, b"apple", b"", deletion),
        item(5, b"cherry", b"prepared", prepare),
        item(9, b"events", b"begin", Operation::SystemEventBegin),
    ];
    items.extend((10..30).map(|seqno| {
        mutation(
            seqno,
            format!("key-{:02}", seqno % 16).as_bytes(),
            &[b'v'; 40],
        )
    }));
    items
}

fn small_with(options: SegmentOptions) -> Written {
    let kills = [
        Kill {
            victim: Seqno(1),
            killer: Seqno(4),
            victim_bytes: 60,
        },
        Kill {
            victim: Seqno(10),
            killer: Seqno(26),
            victim_bytes: 75,
        },
    ];
    let boundaries = [watermarks(4), watermarks(9), watermarks(29)];
    let tail = SegmentTail {
        kills: &kills,
        boundaries: &boundaries,
        exact_from: Seqno(1),
        ..tail()
    };
    write(&small_items(), options, tail)
}

fn small() -> Written {
    small_with(plain(600))
}

/// Everything a reader may ask, as one value; errors other than corruption are refused.
fn ask_everything(written: &Written) -> Vec<String> {
    let mut answers = Vec::new();
    let mut answer = |what: &str, result: Result<String, StorageError>| match result {
        Ok(answer) => answers.push(format!("{what}: {answer}")),
        Err(StorageError::Corruption { offset, .. }) => {
            let end = written.meta.offset + written.meta.length;
            assert!(
                (written.meta.offset..end).contains(&offset),
                "{offset} is in the segment"
            );
            answers.push("corruption".to_owned());
        }
        Err(other) => panic!("{what}: {other}"),
    };
    let segment = match written.open() {
        Ok(segment) => segment,
        Err(error) => {
            answer("open", Err(error));
            return answers;
        }
    };
    answer(
        "scan",
        scan(&segment, Seqno::ZERO, 700).map(|items| format!("{items:?}")),
    );
    answer(
        "scan from",
        scan(&segment, Seqno(12), 9_000).map(|items| format!("{items:?}")),
    );
    answer(
        "keys",
        scan_keys(&segment, &[]).map(|entries| format!("{entries:?}")),
    );
    answer(
        "keys from",
        scan_keys(&segment, b"\0\0k").map(|entries| format!("{entries:?}")),
    );
    answer("kills", segment.kills().map(|kills| format!("{kills:?}")));
    answer(
        "boundaries",
        segment.boundaries().map(|list| format!("{list:?}")),
    );
    for ((key, std::cmp::Reverse(seqno)), found) in &written.entries {
        answer(
            "find",
            segment.find(key, *seqno).map(|found| format!("{found:?}")),
        );
        let read = segment.read_record(found.location, *seqno);
        answer("read", read.map(|item| format!("{item:?}")));
    }
    answers
}

#[test]
fn every_flipped_bit_is_found_and_none_gives_wrong_data() {
    for options in [plain(600), lz4(600)] {
        let written = small_with(options);
        let right = ask_everything(&written);
        assert!(!right.contains(&"corruption".to_owned()));
        let segment = written.open().unwrap();
        let end = written.file.0.read().len();
        for at in saturating_usize(START)..end {
            let mask = 1 << (at % 8);
            written.file.flip(at, mask);
            let answers = ask_everything(&written);
            if answers.len() > 1 {
                for (answer, right) in answers.iter().zip(&right) {
                    assert!(
                        answer == right || answer == "corruption",
                        "flip at {at}: {answer}"
                    );
                }
            }
            // There is no padding: an open segment's verify sees a flip of any byte.
            assert_ne!(faults(&segment), [], "flip at {at} is not found");
            written.file.flip(at, mask);
        }
        assert_eq!(faults(&segment), []);
    }
}

#[test]
fn a_cut_file_is_corruption() {
    let written = small();
    let bytes = written.file.0.read().clone();
    for length in (0..bytes.len()).step_by(7) {
        let cut = written.with_bytes(bytes[..length].to_vec());
        assert!(
            matches!(cut.open(), Err(StorageError::Corruption { .. })),
            "cut at {length}"
        );
    }
    let segment = written.open().unwrap();
    written.file.truncate(START + 100).unwrap();
    assert!(matches!(
        scan(&segment, Seqno::ZERO, 1 << 20),
        Err(StorageError::Corruption { offset: START, .. })
    ));
    assert_ne!(faults(&segment), []);
}

#[test]
fn bytes_of_another_segment_are_never_taken_for_this_one() {
    let written = small();
    let mut items = small_items();
    items[7].document.cas = Cas(1);
    let kills = [
        Kill {
            victim: Seqno(1),
            killer: Seqno(4),
            victim_bytes: 60,
        },
        Kill {
            victim: Seqno(10),
            killer: Seqno(26),
            victim_bytes: 75,
        },
    ];
    let boundaries = [watermarks(4), watermarks(9), watermarks(29)];
    let tail = SegmentTail {
        kills: &kills,
        boundaries: &boundaries,
        exact_from: Seqno(1),
        ..tail()
    };
    let other = write(&items, plain(600), tail);
    assert_eq!(written.meta.length, other.meta.length);
    let wrong = written.with_bytes(other.file.0.read().clone());
    assert!(matches!(wrong.open(), Err(StorageError::Corruption { .. })));
    // A sound block of the other segment in the place of this one's, as a lost write would leave it.
    let blocks = saturating_usize(START)..saturating_usize(START) + 1_200;
    let mut bytes = written.file.0.read().clone();
    bytes[blocks.clone()].copy_from_slice(&other.file.0.read()[blocks]);
    let mixed = written.with_bytes(bytes).open().unwrap();
    assert!(scan(&mixed, Seqno::ZERO, 1 << 20).is_err());
    assert_ne!(faults(&mixed), []);
}

#[test]
fn a_record_is_refused_under_another_seqno_or_outside_its_block() {
    let written = small();
    let segment = written.open().unwrap();
    let found = written.entries.values().next().unwrap();
    let read = |location, seqno| segment.read_record(location, seqno);
    assert!(read(found.location, found.seqno).is_ok());
    assert!(read(found.location, found.seqno.next()).is_err());
    let RecordLocation {
        block,
        offset,
        length,
    } = found.location;
    for location in [
        RecordLocation {
            block: 1_000,
            offset,
            length,
        },
        RecordLocation {
            block,
            offset: u32::MAX,
            length,
        },
        RecordLocation {
            block,
            offset,
            length: u32::MAX,
        },
        RecordLocation {
            block,
            offset,
            length: length - 1,
        },
        RecordLocation {
            block,
            offset,
            length: 0,
        },
    ] {
        let error = read(location, found.seqno).unwrap_err();
        assert!(matches!(error, StorageError::Corruption { .. }), "{error}");
    }
}

#[test]
fn an_index_that_lies_is_found_by_verify() {
    let items = small_items();
    let lies: [fn(&mut FoundEntry); 4] = [
        |found| found.is_tombstone = !found.is_tombstone,
        |found| found.user_bytes += 1,
        |found| found.seqno = Seqno(found.seqno.0 + 1_000),
        |found| found.location.offset += 1,
    ];
    for lie in lies {
        let file = Arc::new(MemoryFile::default());
        let out = ExtentWriter::new(file.clone(), "container-9".into(), START);
        let mut writer = SegmentWriter::new(out, plain(600), ident());
        for item in &items {
            writer.push(&ItemView::of(item)).unwrap();
        }
        let mut entries = small().entries;
        lie(entries.first_entry().unwrap().get_mut());
        let (meta, mut out) = finish(writer, &entries, tail()).unwrap();
        out.flush().unwrap();
        let segment = Written {
            file,
            meta,
            entries,
        }
        .open()
        .unwrap();
        assert_eq!(faults(&segment).len(), 1);
    }
}

#[test]
fn what_is_out_of_order_is_refused() {
    let file = Arc::new(MemoryFile::default());
    let out = ExtentWriter::new(file, "container-9".into(), START);
    let mut writer = SegmentWriter::new(out, plain(600), ident());
    let key = b"\0\0apple".as_slice();
    let found = *small().entries.values().next().unwrap();
    assert!(writer.push_index(entry(key, &found)).is_err());
    let location = writer
        .push(&ItemView::of(&mutation(5, b"apple", b"")))
        .unwrap();
    let again = writer.push(&ItemView::of(&mutation(5, b"apple", b"")));
    assert!(matches!(
        again,
        Err(StorageError::Refused {
            refusal: Refusal::SeqnoOrder { at: Seqno(5) },
            ..
        })
    ));
    let too_large = mutation(6, b"apple", &vec![0; Document::VALUE_LENGTH_MAX + 1]);
    assert!(writer.push(&ItemView::of(&too_large)).is_err());
    writer.begin_index().unwrap();
    assert!(writer.begin_index().is_err());
    assert!(
        writer
            .push(&ItemView::of(&mutation(7, b"apple", b"")))
            .is_err()
    );
    let found = FoundEntry {
        seqno: Seqno(5),
        location,
        is_tombstone: false,
        user_bytes: 6,
    };
    writer.push_index(entry(key, &found)).unwrap();
    assert!(writer.push_index(entry(key, &found)).is_err());
    let newer = FoundEntry {
        seqno: Seqno(6),
        ..found
    };
    assert!(writer.push_index(entry(key, &newer)).is_err());
    assert!(writer.push_index(entry(&[0; 252], &newer)).is_err());
    assert!(writer.push_index(entry(&[], &newer)).is_err());
    let kills = [Kill {
        victim: Seqno(5),
        killer: Seqno(5),
        victim_bytes: 1,
    }];
    assert!(
        writer
            .finish(SegmentTail {
                kills: &kills,
                ..tail()
            })
            .is_err()
    );
}

#[test]
fn an_index_that_is_not_complete_is_refused() {
    let out = ExtentWriter::new(Arc::new(MemoryFile::default()), "container-9".into(), START);
    let mut writer = SegmentWriter::new(out, plain(600), ident());
    writer
        .push(&ItemView::of(&mutation(5, b"apple", b"")))
        .unwrap();
    writer.begin_index().unwrap();
    assert!(writer.finish(tail()).is_err());
}

#[test]
fn segments_follow_each_other_in_one_extent_writer() {
    let file = Arc::new(MemoryFile::default());
    let mut out = ExtentWriter::new(file.clone(), "container-9".into(), START);
    let mut metas = Vec::new();
    for round in 0..3u64 {
        let item = mutation(round + 1, b"key", &vec![round.to_le_bytes()[0]; 700_000]);
        let mut writer = SegmentWriter::new(out, SegmentOptions::default(), ident());
        let location = writer.push(&ItemView::of(&item)).unwrap();
        let found = FoundEntry {
            seqno: item.seqno,
            location,
            is_tombstone: false,
            user_bytes: item.user_bytes(),
        };
        let entries = Entries::from([((index_key(&item), std::cmp::Reverse(item.seqno)), found)]);
        let (meta, back) = finish(writer, &entries, tail()).unwrap();
        out = back;
        metas.push((meta, entries, item));
    }
    out.flush().unwrap();
    assert_eq!(out.position(), file.length().unwrap());
    for (meta, entries, item) in metas {
        check_all(
            &Written {
                file: file.clone(),
                meta,
                entries,
            },
            &[item],
        );
    }
}

#[test]
fn the_filter_denies_most_absent_keys() {
    let hashes: Vec<u64> = (0..50_000u32).map(|n| hash(&n.to_le_bytes())).collect();
    let filter = Filter::decode(&Filter::build(&hashes).encode()).unwrap();
    assert!(hashes.iter().all(|hash| filter.may_hold(*hash)));
    let absent = (50_000..150_000u32).map(|n| hash(&n.to_le_bytes()));
    let wrong = absent.filter(|hash| filter.may_hold(*hash)).count();
    assert!(wrong < 1_600, "{wrong} of 100000 absent keys got through");
}

/// The bytes of one fixed segment may never change without a new format version. Plain only: another version of the
/// compressor may compress otherwise, and what it wrote is read all the same.
#[test]
fn the_format_is_what_it_was() {
    let bytes = small().file.0.read()[saturating_usize(START)..].to_vec();
    // A crc would miss what lies before another crc at the end.
    let hash = xxhash_rust::xxh3::xxh3_64(&bytes);
    assert_eq!((bytes.len(), hash), (2_586, 1_312_352_887_432_634_837));
}

/// Pages whose first keys share more than the top's dense heads can tell apart.
#[test]
fn keys_with_long_shared_prefixes_are_found() {
    let key = |n: u64| format!("{}::a-rather-long-prefix::{:05}", n % 2, n / 2);
    let items: Vec<Item> = (1..1_200)
        .map(|n| mutation(n, key(n).as_bytes(), b"v"))
        .collect();
    let segment = write(&items, plain(8_000), tail()).open().unwrap();
    assert!(segment.index_top.len() > 20);
    for n in 1..1_200 {
        let index_key = IndexKey::new(Namespace::Committed, &[b"\0", key(n).as_bytes()].concat());
        let found = segment
            .find(index_key.as_bytes(), Seqno::MAX)
            .unwrap()
            .unwrap();
        assert_eq!(found.seqno, Seqno(n));
        assert_eq!(
            segment.find(index_key.as_bytes(), Seqno(n - 1)).unwrap(),
            None
        );
    }
}
