//! What no segment may hold is refused when it is written.

use super::*;

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
