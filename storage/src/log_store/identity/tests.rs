//! The identity comes back, and what is not one says why.

use super::*;
use crate::disk::SimulatedDisk;
use crate::log_store::samples;

const IDENTITY: Identity = samples::IDENTITY;

#[test]
fn what_went_in_comes_out() {
    let bytes = IDENTITY.encode(FORMAT_VERSION);
    assert_eq!(bytes.len(), LENGTH);
    assert_eq!(Identity::decode(&bytes), Ok(IDENTITY));
}

const WITH_HISTORY: Identity = Identity {
    retention: Some(Retention {
        window_s: 86_400,
        bytes: Some(10 << 30),
    }),
    ..IDENTITY
};

#[test]
fn a_history_comes_back_and_every_flipped_bit_of_it_is_corruption() {
    let unbounded = Identity {
        retention: Some(Retention::of_seconds(u32::MAX)),
        ..IDENTITY
    };
    for identity in [WITH_HISTORY, unbounded] {
        let bytes = identity.encode(FORMAT_VERSION);
        assert_eq!(bytes.len(), LENGTH + HISTORY_LENGTH);
        assert_eq!(Identity::decode(&bytes), Ok(identity));
    }
    let disk = SimulatedDisk::new();
    WITH_HISTORY.create(&disk).unwrap();
    assert_eq!(Identity::open(&disk), Ok(WITH_HISTORY));
    let bytes = WITH_HISTORY.encode(FORMAT_VERSION);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Identity::decode(&damaged).is_err(), "bit {bit}");
    }
    for end in 0..bytes.len() {
        assert!(Identity::decode(&bytes[..end]).is_err(), "cut off at {end}");
    }
}

/// Where what leaves memory is stored; zero before it was.
const EVICTION: usize = 15;

#[test]
fn what_leaves_memory_comes_back_and_zero_is_the_default() {
    for eviction in Eviction::ALL {
        let identity = Identity {
            shape: IDENTITY.shape.evicting(eviction),
            ..IDENTITY
        };
        let bytes = identity.encode(FORMAT_VERSION);
        assert_eq!(bytes[EVICTION], eviction.byte());
        assert_eq!(Identity::decode(&bytes), Ok(identity));
    }
    let of_old = IDENTITY.encode(FORMAT_VERSION);
    assert_eq!(of_old[EVICTION], 0);
    assert_eq!(
        Identity::decode(&of_old).unwrap().shape.eviction,
        Eviction::default()
    );
    let mut unknown = of_old;
    unknown[EVICTION] = 3;
    let crc = crc32c::crc32c(&unknown[..LENGTH - 4]);
    unknown[LENGTH - 4..].copy_from_slice(&crc.to_le_bytes());
    let refused = Identity::decode(&unknown).unwrap_err();
    assert!(
        matches!(refused, StorageError::Corruption { .. }),
        "{refused}"
    );
}

#[test]
fn another_version_is_named_when_the_bytes_are_sound() {
    for found in [0, 2, u32::MAX] {
        let refused = Identity::decode(&IDENTITY.encode(found)).unwrap_err();
        let expected = FORMAT_VERSION;
        assert_eq!(refused, StorageError::FormatVersion { found, expected });
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_corruption() {
    let bytes = IDENTITY.encode(FORMAT_VERSION);
    let is_corrupt = |bytes: &[u8]| {
        let read = Identity::decode(bytes);
        matches!(read, Err(StorageError::Corruption { offset: 0, .. }))
    };
    for bit in 0..LENGTH * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(is_corrupt(&damaged), "bit {bit}");
    }
    for end in 0..LENGTH {
        assert!(is_corrupt(&bytes[..end]), "cut off at {end}");
    }
}

#[test]
fn an_impossible_shape_is_refused_though_its_checksum_fits() {
    for (vbuckets, log_shards) in [(0, 1), (3, 1), (2048, 1), (8, 0), (8, 9), (4, 8)] {
        let shape = CreateOptions::of(vbuckets, log_shards);
        let lie = Identity { shape, ..IDENTITY };
        let refused = Identity::decode(&lie.encode(FORMAT_VERSION)).unwrap_err();
        assert!(matches!(refused, StorageError::Setting(_)), "{refused}");
    }
}

#[test]
fn a_store_is_made_of_an_empty_directory_only() {
    let disk = SimulatedDisk::new();
    assert_eq!(Identity::open(&disk), Err(StorageError::NoStore));
    IDENTITY.create(&disk).unwrap();
    assert_eq!(Identity::open(&disk), Ok(IDENTITY));
    assert_eq!(IDENTITY.create(&disk), Err(StorageError::StoreExists));
    let foreign = SimulatedDisk::from_files([("a.txt".to_owned(), vec![])].into());
    let refused = StorageError::ForeignDirectory("a.txt".into());
    assert_eq!(IDENTITY.create(&foreign), Err(refused.clone()));
    assert_eq!(Identity::open(&foreign), Err(refused));
}

#[test]
fn an_interrupted_creation_is_no_store_and_may_be_repeated() {
    for cut in 1..=5 {
        let disk = SimulatedDisk::new();
        disk.cut_power_at_call(cut);
        let created = IDENTITY.create(&disk);
        assert!(created.is_err(), "creation makes more calls than {cut}");
        for seed in 0..8 {
            let left = disk.crash(seed);
            match Identity::open(&left) {
                Ok(identity) => assert_eq!(identity, IDENTITY),
                Err(error) => {
                    assert_eq!(error, StorageError::NoStore, "cut {cut}, seed {seed}");
                    IDENTITY.create(&left).unwrap();
                    assert_eq!(Identity::open(&left), Ok(IDENTITY));
                }
            }
        }
    }
}
