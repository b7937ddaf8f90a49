//! What lies behind the records of a segment: kills, boundaries and the fields of its end.

use super::*;

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
