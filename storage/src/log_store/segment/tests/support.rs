//! Segments in memory, and what the tests of their promises write into them.

use super::*;

/// Where segments of these tests begin in their file: not at its beginning, and not aligned to anything.
pub(super) const START: u64 = 777;

#[derive(Debug, Default)]
pub(super) struct MemoryFile(pub(super) RwLock<Vec<u8>>);

impl MemoryFile {
    pub(super) fn error(verb: Verb, kind: DiskErrorKind) -> DiskError {
        DiskError {
            verb,
            file: "memory".to_owned(),
            kind,
        }
    }

    pub(super) fn flip(&self, at: usize, mask: u8) {
        self.0.write()[at] ^= mask;
    }
}

impl DiskFile for MemoryFile {
    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.read_at(buffer, offset)
    }

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

pub(super) fn ident() -> SegmentIdent {
    SegmentIdent {
        vbucket: VbucketId::new(513).unwrap(),
        incarnation: Incarnation(7),
        epoch: RollbackEpoch(3),
    }
}

pub(super) fn tail() -> SegmentTail<'static> {
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

pub(super) fn plain(block_bytes: usize) -> SegmentOptions {
    SegmentOptions {
        block_bytes,
        compression: Compression::None,
    }
}

pub(super) fn lz4(block_bytes: usize) -> SegmentOptions {
    SegmentOptions {
        block_bytes,
        compression: Compression::Lz4,
    }
}

/// Owned index entries, in the index's order.
pub(super) type Entries = BTreeMap<(Vec<u8>, std::cmp::Reverse<Seqno>), FoundEntry>;

pub(super) struct Written {
    pub(super) file: Arc<MemoryFile>,
    pub(super) meta: SegmentMeta,
    pub(super) entries: Entries,
}

impl Written {
    pub(super) fn open(&self) -> Result<Arc<Segment>, StorageError> {
        self.open_as(self.meta.clone())
    }

    pub(super) fn open_as(&self, meta: SegmentMeta) -> Result<Arc<Segment>, StorageError> {
        let file: Arc<dyn DiskFile> = self.file.clone();
        Segment::open(file, "container-9".into(), meta).map(Arc::new)
    }

    /// The same with other bytes in the file.
    pub(super) fn with_bytes(&self, bytes: Vec<u8>) -> Written {
        Written {
            file: Arc::new(MemoryFile(RwLock::new(bytes))),
            meta: self.meta.clone(),
            entries: self.entries.clone(),
        }
    }
}

pub(super) fn index_key(item: &Item) -> Vec<u8> {
    IndexKey::new(item.namespace(), item.document.key.as_encoded())
        .as_bytes()
        .to_vec()
}

pub(super) fn write(items: &[Item], options: SegmentOptions, tail: SegmentTail<'_>) -> Written {
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

pub(super) fn finish(
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

pub(super) fn entry<'a>(key: &'a [u8], found: &FoundEntry) -> IndexEntry<'a> {
    IndexEntry {
        key,
        seqno: found.seqno,
        location: found.location,
        is_tombstone: found.is_tombstone,
        user_bytes: found.user_bytes,
    }
}

pub(super) fn item(seqno: u64, key: &[u8], value: &[u8], operation: Operation) -> Item {
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

pub(super) fn mutation(seqno: u64, key: &[u8], value: &[u8]) -> Item {
    item(seqno, key, value, Operation::Mutation)
}

pub(super) fn scan(
    segment: &Arc<Segment>,
    from: Seqno,
    bytes_max: usize,
) -> Result<Vec<Item>, StorageError> {
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

pub(super) fn scan_keys(segment: &Arc<Segment>, from: &[u8]) -> Result<Entries, StorageError> {
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

pub(super) fn faults(segment: &Segment) -> Vec<(u64, String)> {
    let mut faults = Vec::new();
    segment.verify(&mut |error| {
        let shown = error.to_string();
        if let StorageError::Corruption { offset, what, .. } = error {
            faults.push((offset, what));
        } else {
            faults.push((0, shown));
        }
    });
    faults
}

/// For answers that only must not panic.
pub(super) fn ignore<T>(answer: T) {
    drop(answer);
}

/// What the newest version of each key at `at_most` is, by the items themselves.
pub(super) fn newest<'i>(items: &'i [Item], key: &[u8], at_most: Seqno) -> Option<&'i Item> {
    items
        .iter()
        .rev()
        .find(|item| item.seqno <= at_most && index_key(item) == key)
}

/// Everything a segment can be asked, against the items it was made of.
pub(super) fn check_all(written: &Written, items: &[Item]) {
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
    let sound = segment.verify(&mut |error| panic!("{error}"));
    assert_eq!(sound, items.len() as u64);
}

pub(super) fn check_find(segment: &Segment, items: &[Item], key: &[u8], at_most: Seqno) {
    let found = segment.find(key, at_most, Patience::Waits).unwrap();
    let read = found.map(|found| {
        let item = segment
            .read_record(found.location, found.seqno, Patience::Waits)
            .unwrap();
        assert_eq!(found.is_tombstone, item.operation.is_tombstone());
        assert_eq!(found.user_bytes, item.user_bytes());
        item
    });
    assert_eq!(read.as_ref(), newest(items, key, at_most));
}

pub(super) fn any_operation() -> impl Strategy<Value = Operation> {
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

pub(super) fn any_predecessor() -> impl Strategy<Value = Predecessor> {
    prop_oneof![
        Just(Predecessor::Unknown),
        Just(Predecessor::Absent),
        any::<u64>().prop_map(|seqno| Predecessor::At(Seqno(seqno))),
    ]
}

/// Keys that collide, share long prefixes, are prefixes of each other, or are as long as can be.
pub(super) fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0u8..20).prop_map(|n| format!("user::profile::{n:04}").into_bytes()),
        2 => (1usize..20).prop_map(|n| vec![b'a'; n]),
        1 => vec(any::<u8>(), 1..249),
        1 => (0u8..8).prop_map(|n| { let mut key = vec![0; 249]; key[248] = n; key }),
    ]
}

pub(super) fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => Just(Vec::new()),
        4 => vec(any::<u8>(), 0..200),
        1 => (0usize..20_000).prop_map(|length| vec![b'z'; length]),
        1 => vec(any::<u8>(), 0..9_000),
    ]
}

pub(super) type Parts = (Vec<u8>, Vec<u8>, Operation, Predecessor, u64, u32);

pub(super) fn any_items() -> impl Strategy<Value = Vec<Item>> {
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

pub(super) fn item_of(seqno: u64, parts: Parts) -> Item {
    let (key, value, operation, predecessor, number, collection) = parts;
    let mut item = item(seqno, &key, &value, operation);
    item.document.key = DocumentKey::new(CollectionId(collection), &key).unwrap();
    item.document.cas = Cas(number);
    item.document.rev_seqno = RevSeqno(number >> 7);
    item.predecessor = predecessor;
    item
}

pub(super) fn watermarks(high: u64) -> Watermarks {
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
    pub(super) fn any_watermarks()(
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

/// Every kind of thing a segment holds, small enough to try every byte of it.
pub(super) fn small_items() -> Vec<Item> {
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

/// `items` with kills and boundaries, as a small segment has them.
pub(super) fn small_of(items: &[Item], options: SegmentOptions) -> Written {
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
    write(items, options, tail)
}

pub(super) fn small_with(options: SegmentOptions) -> Written {
    small_of(&small_items(), options)
}

pub(super) fn small() -> Written {
    small_with(plain(600))
}
