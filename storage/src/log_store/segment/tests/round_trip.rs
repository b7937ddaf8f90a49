//! What went into a segment comes out, whatever it is and in whatever order it is asked for.

use super::*;

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
    assert_eq!(
        segment
            .find(b"\0\0key", Seqno::MAX, Patience::Waits)
            .unwrap(),
        None
    );
    assert!(!segment.may_hold(hash(b"\0\0key")));
    assert_eq!(scan(&segment, Seqno::ZERO, 1).unwrap(), []);
    assert_eq!(faults(&segment), []);
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
            .find(index_key.as_bytes(), Seqno::MAX, Patience::Waits)
            .unwrap()
            .unwrap();
        assert_eq!(found.seqno, Seqno(n));
        assert_eq!(
            segment
                .find(index_key.as_bytes(), Seqno(n - 1), Patience::Waits)
                .unwrap(),
            None
        );
    }
}
