//! Damage is found, at its place, and is never taken for data; and the bytes are what they were.

use super::*;

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
            segment
                .find(key, *seqno, Patience::Waits)
                .map(|found| format!("{found:?}")),
        );
        let read = segment.read_record(found.location, *seqno, Patience::Waits);
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
    let other = small_of(&items, plain(600));
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
    let read = |location, seqno| segment.read_record(location, seqno, Patience::Waits);
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

/// The bytes of one fixed segment may never change without a new format version. Plain only: another version of the
/// compressor may compress otherwise, and what it wrote is read all the same.
#[test]
fn the_format_is_what_it_was() {
    let bytes = small().file.0.read()[saturating_usize(START)..].to_vec();
    // A crc would miss what lies before another crc at the end.
    let hash = xxhash_rust::xxh3::xxh3_64(&bytes);
    assert_eq!((bytes.len(), hash), (2_586, 1_312_352_887_432_634_837));
}
