//! A manifest comes back, belongs to one store, shard and number, and a damaged entry harms no other.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::disk::SimulatedDisk;
use crate::log_store::samples;

/// Entries of the vbuckets 510 to 514.
fn entries() -> Vec<RawEntry> {
    let entry = |number| {
        let mut image = samples::image(samples::place().unwrap());
        image.place.vbucket = VbucketId::new(number).unwrap();
        RawEntry::of(&image).unwrap()
    };
    (510..515).map(entry).collect()
}

fn whole() -> Vec<u8> {
    encode(samples::OWNER, samples::SHARD_RECORD, &entries()).unwrap()
}

fn read_back(bytes: Vec<u8>) -> Result<Manifest, StorageError> {
    decode(&bytes.into(), "manifest", samples::OWNER)
}

#[test]
fn what_went_in_comes_out() {
    let bytes = whole();
    let manifest = read_back(bytes.clone()).unwrap();
    assert_eq!(manifest.record, samples::SHARD_RECORD);
    let read: Vec<RawEntry> = manifest
        .entries
        .iter()
        .map(|(_, entry)| entry.clone())
        .collect();
    assert_eq!(read, entries());
    for (offset, entry) in &manifest.entries {
        let begin = usize::try_from(*offset).unwrap();
        assert!(
            bytes[begin..].starts_with(&entry.bytes),
            "the offset leads there"
        );
        let mut expected = samples::image(samples::place().unwrap());
        expected.place.vbucket = entry.vbucket;
        assert_eq!(entry.image(), Ok(expected));
    }
}

#[test]
fn a_damaged_entry_keeps_the_others_readable() {
    let bytes = whole();
    let begin = bytes.len() - entries().iter().map(|e| e.bytes.len()).sum::<usize>();
    for at in begin..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x20;
        let manifest = read_back(damaged).unwrap();
        let sound = manifest.entries.iter().filter(|(_, e)| e.image().is_ok());
        assert_eq!(sound.count(), 4, "byte {at}");
    }
}

#[test]
fn a_cut_manifest_keeps_the_entries_that_are_whole() {
    let bytes = whole();
    let begin = bytes.len() - entries().iter().map(|e| e.bytes.len()).sum::<usize>();
    for end in 0..bytes.len() {
        let Ok(manifest) = read_back(bytes[..end].to_vec()) else {
            assert!(end < begin, "cut at {end}");
            continue;
        };
        assert_eq!(manifest.entries.len(), 5);
        let whole = (end - begin) / entries()[0].bytes.len();
        let sound = manifest.entries.iter().filter(|(_, e)| e.image().is_ok());
        assert_eq!(sound.count(), whole, "cut at {end}");
    }
}

#[test]
fn a_damaged_head_is_corruption_that_names_the_file() {
    let bytes = whole();
    let begin = bytes.len() - entries().iter().map(|e| e.bytes.len()).sum::<usize>();
    for at in 0..begin {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x04;
        let error = read_back(damaged).unwrap_err();
        let is_named =
            matches!(&error, StorageError::Corruption { file, .. } if file == "manifest");
        assert!(is_named, "byte {at}: {error}");
    }
}

#[test]
fn a_manifest_of_another_owner_is_refused() {
    let owner = samples::OWNER;
    for other in [
        ManifestOwner {
            store_id: 1,
            ..owner
        },
        ManifestOwner { shard: 0, ..owner },
        ManifestOwner { number: 8, ..owner },
    ] {
        let refused = decode(&whole().into(), "manifest", other).unwrap_err();
        assert!(refused.to_string().contains("belongs elsewhere"));
    }
}

#[test]
fn an_entry_of_another_vbucket_is_refused() {
    let mut entry = entries().remove(0);
    entry.vbucket = VbucketId::new(3).unwrap();
    assert!(entry.image().is_err());
    let unreadable = RawEntry::unreadable(entry.vbucket);
    let bytes = encode(samples::OWNER, samples::SHARD_RECORD, &[unreadable]).unwrap();
    let manifest = read_back(bytes).unwrap();
    assert!(manifest.entries[0].1.image().is_err());
}

#[test]
fn it_is_read_from_its_file() {
    let disk = SimulatedDisk::from_files([("m".to_owned(), whole())].into());
    let manifest = read(&disk, "m", samples::OWNER).unwrap();
    assert_eq!(manifest.entries.len(), 5);
    assert!(read(&disk, "other", samples::OWNER).is_err());
}

proptest! {
    #[test]
    fn any_bytes_may_be_given(bytes in vec(any::<u8>(), 0..300)) {
        crate::log_store::fuzzing::manifest(&bytes);
    }

    /// Directories that claim more than there is: sealed, so that they are believed.
    #[test]
    fn lengths_beyond_the_file_allocate_nothing(lengths in vec(any::<u32>(), 0..20)) {
        let directory = lengths.iter().zip(0u16..).map(|(length, number)| DirectoryEntry {
            vbucket: VbucketId::new(number).unwrap(),
            length: *length,
            crc: 0,
        });
        let ManifestOwner { store_id, shard, number } = samples::OWNER;
        let directory = directory.collect();
        let record = samples::SHARD_RECORD;
        let head = codec::encode(&Head { store_id, shard, number, record, directory }).unwrap();
        let mut bytes = prefix(&head);
        bytes.extend_from_slice(&head);
        let manifest = read_back(bytes).unwrap();
        prop_assert!(manifest.entries.iter().all(|(_, entry)| entry.bytes.is_empty()));
    }
}
