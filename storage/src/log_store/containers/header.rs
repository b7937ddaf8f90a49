//! The header of a container file: whose it is.
//!
//! Invariant: a container whose header is not exactly the one expected is never read.

use crate::disk::{DiskErrorKind, DiskFile};
use crate::error::StorageError;

const MAGIC: [u8; 8] = *b"PIGGCON1";

pub(crate) fn header(store_id: u64, shard: u16, number: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&store_id.to_le_bytes());
    bytes.extend_from_slice(&u64::from(shard).to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&u64::from(crc).to_le_bytes());
    bytes
}

pub(super) fn check_header(
    file: &dyn DiskFile,
    name: &str,
    store_id: u64,
    shard: u16,
    number: u64,
) -> Result<(), StorageError> {
    let expected = header(store_id, shard, number);
    let mut bytes = vec![0u8; expected.len()];
    match file.read_at(&mut bytes, 0) {
        // Too short for a header: not the one expected.
        Err(error) if error.kind == DiskErrorKind::EndOfFile => {}
        read => read?,
    }
    if bytes == expected {
        return Ok(());
    }
    Err(StorageError::corruption(
        name,
        0,
        "the container's header is not the one expected",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, OpenMode, SimulatedDisk};

    fn check(bytes: &[u8], number: u64) -> Result<(), StorageError> {
        let disk = SimulatedDisk::from_files([("c".to_owned(), bytes.to_vec())].into());
        let file = disk.open("c", OpenMode::Existing).unwrap();
        check_header(&*file, "c", 11, 1, number)
    }

    #[test]
    fn a_header_that_is_damaged_cut_or_of_another_container_is_corruption() {
        let bytes = header(11, 1, 5);
        assert_eq!(check(&bytes, 5), Ok(()));
        let is_corrupt = |bytes: &[u8], number| {
            let checked = check(bytes, number);
            matches!(checked, Err(StorageError::Corruption { offset: 0, .. }))
        };
        assert!(is_corrupt(&bytes, 6));
        assert!(is_corrupt(&header(12, 1, 5), 5) && is_corrupt(&header(11, 0, 5), 5));
        for end in 0..bytes.len() {
            assert!(is_corrupt(&bytes[..end], 5), "cut off at {end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(is_corrupt(&damaged, 5), "bit {bit}");
        }
    }
}
