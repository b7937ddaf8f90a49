//! A log file has its name only when it is ready, and its header is refused when it is damaged.

use proptest::prelude::*;

use super::*;
use crate::disk::SimulatedDisk;
use crate::log_store::samples;

proptest! {
    #[test]
    fn what_went_in_comes_out(
        words in any::<[u64; 4]>(),
        shard in any::<u16>(),
    ) {
        let [store_id, number, nonce, capacity] = words;
        let identity = FileIdentity { number, nonce };
        let header = LogFileHeader { store_id, shard, identity, capacity };
        prop_assert_eq!(LogFileHeader::decode(&header.encode()), Some(header));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let bytes = samples::LOG_FILE_HEADER.encode();
    assert_eq!(bytes.len(), HEADER_LENGTH);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(LogFileHeader::decode(&damaged), None, "bit {bit}");
    }
    for end in 0..bytes.len() {
        let found = LogFileHeader::decode(&bytes[..end]);
        assert_eq!(found, None, "cut off at {end}");
    }
}

fn header() -> LogFileHeader {
    LogFileHeader {
        capacity: ZERO_STEP_BYTES + 4096,
        ..samples::LOG_FILE_HEADER
    }
}

#[test]
fn a_file_of_the_log_is_ready_whenever_the_power_goes() {
    let calls = {
        let disk = SimulatedDisk::new();
        PrepareLogFile::new(Arc::new(disk.clone()), header(), None)
            .run()
            .unwrap();
        disk.mutating_calls()
    };
    for cut in 1..=calls + 1 {
        let disk = SimulatedDisk::new();
        disk.cut_power_at_call(cut);
        let ready = PrepareLogFile::new(Arc::new(disk.clone()), header(), None).run();
        assert_eq!(ready.is_ok(), cut > calls);
        for seed in 0..4 {
            let left = disk.crash(seed);
            let name = Name::new(Kind::Log, 1, 5).to_string();
            let files = left.list().unwrap();
            assert!(ready.is_err() || files.contains(&name));
            if files.contains(&name) {
                let file = left.open(&name, OpenMode::Existing).unwrap();
                let read = LogFileHeader::read(&*file, &name).unwrap();
                assert_eq!(read, header(), "cut {cut}, seed {seed}");
                assert_eq!(file.length(), Ok(header().capacity));
            }
        }
    }
}

#[test]
fn a_recycled_file_keeps_its_bytes_and_loses_its_name() {
    let disk = SimulatedDisk::new();
    let old = PrepareLogFile::new(Arc::new(disk.clone()), header(), None)
        .run()
        .unwrap();
    old.file.write_at(b"old frame", FRAMES_BEGIN).unwrap();
    let identity = FileIdentity {
        number: 6,
        nonce: 1,
    };
    let next = LogFileHeader {
        identity,
        ..header()
    };
    let new = PrepareLogFile::new(Arc::new(disk.clone()), next, Some(old.name))
        .run()
        .unwrap();
    assert_eq!(disk.list().unwrap(), std::slice::from_ref(&new.name));
    assert_eq!(LogFileHeader::read(&*new.file, &new.name).unwrap(), next);
    let mut bytes = [0; 9];
    new.file.read_at(&mut bytes, FRAMES_BEGIN).unwrap();
    assert_eq!(&bytes, b"old frame");
}

#[test]
fn a_preparation_that_failed_leaves_nothing_behind() {
    let disk = SimulatedDisk::new();
    disk.fail_call(2, DiskErrorKind::Full);
    let failed = PrepareLogFile::new(Arc::new(disk.clone()), header(), None).run();
    assert!(failed.is_err());
    assert!(disk.list().unwrap().is_empty());
}

#[test]
fn a_file_too_short_for_a_header_is_corruption_that_names_it() {
    let bytes = samples::LOG_FILE_HEADER.encode();
    for end in [0, 1, HEADER_LENGTH - 1] {
        let disk = SimulatedDisk::from_files([("l".to_owned(), bytes[..end].to_vec())].into());
        let file = disk.open("l", OpenMode::Existing).unwrap();
        let read = LogFileHeader::read(&*file, "l").unwrap_err();
        let is_named = matches!(&read, StorageError::Corruption { file, .. } if file == "l");
        assert!(is_named, "{read}");
    }
}
