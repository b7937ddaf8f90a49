//! Which vbucket a key lies in.
//!
//! Invariant: the rule is the one the field's clients use (CRC-32 of the key without its collection), so that data
//! moved between systems stays where clients look for it.

use storage::VbucketId;

/// The vbucket of a client's key in a bucket of `vbuckets` (a power of two, at most 1,024).
#[must_use]
pub fn vbucket_of(key: &[u8], vbuckets: u16) -> VbucketId {
    let hash = (crc32fast::hash(key) >> 16) & 0x7fff;
    let number = hash.checked_rem(u32::from(vbuckets)).unwrap_or(0);
    // At most 1,023, so it is always a number of a vbucket.
    let number = u16::try_from(number).unwrap_or(0);
    VbucketId::new(number).unwrap_or(VbucketId::FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_where_the_clients_of_the_field_look() {
        // CRC-32 of "123456789" is 0xcbf43926, the check value of the algorithm.
        let expected = (0xcbf4_3926_u32 >> 16) & 0x7fff;
        assert_eq!(
            u32::from(vbucket_of(b"123456789", 1024).get()),
            expected % 1024
        );
        assert_eq!(
            u32::from(vbucket_of(b"123456789", 128).get()),
            expected % 128
        );
        assert_eq!(vbucket_of(b"anything", 1).get(), 0);
    }

    #[test]
    fn keys_spread_over_all_vbuckets() {
        let mut counts = [0_u32; 128];
        for number in 0..128_000_u32 {
            let key = format!("key-{number}");
            counts[vbucket_of(key.as_bytes(), 128).index()] += 1;
        }
        assert!(
            counts.iter().all(|count| (700..1300).contains(count)),
            "{counts:?}"
        );
    }
}
