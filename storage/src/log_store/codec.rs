//! The only file that names bincode: metadata (edits, manifests, footers, identities) as bytes.
//!
//! Invariant: the first byte is the codec's version; a decoder reads no more than it is given, allocates no more
//! than a small multiple of it, whatever lengths the input claims, and takes nothing but the whole input. Callers
//! check a checksum before they decode.

use bincode::config;
use serde::Serialize;
use serde::de::DeserializeOwned;

const VERSION: u8 = 1;

/// Most bytes of one piece of metadata; a manifest of 1,024 vbuckets stays far below.
const LIMIT: usize = 64 * 1024 * 1024;
const SMALL: usize = 4 * 1024;
const MEDIUM: usize = 256 * 1024;
const EXPANSION: usize = 16;

/// `value` as bytes.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![VERSION];
    let config = config::standard().with_limit::<LIMIT>();
    bincode::serde::encode_into_std_write(value, &mut out, config)
        .map_err(|error| CodecError(error.to_string()))?;
    Ok(out)
}

/// The value that `bytes`, all of them, hold.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let body = match bytes.split_first() {
        Some((&VERSION, body)) => body,
        Some((version, _)) => return Err(CodecError(format!("codec version {version}"))),
        None => return Err(CodecError("no bytes".into())),
    };
    // The limit counts bytes in memory, of which a byte of input gives up to eight. It is a constant of the type, so
    // there is one for each size of input: a text of four bytes that claims sixty million must not get them first.
    let (value, read) = if body.len() <= SMALL {
        decode_within::<T, { SMALL * EXPANSION }>(body)
    } else if body.len() <= MEDIUM {
        decode_within::<T, { MEDIUM * EXPANSION }>(body)
    } else {
        decode_within::<T, LIMIT>(body)
    }?;
    if read == body.len() {
        Ok(value)
    } else {
        Err(CodecError("bytes left over".into()))
    }
}

fn decode_within<T: DeserializeOwned, const BYTES: usize>(
    body: &[u8],
) -> Result<(T, usize), CodecError> {
    let config = config::standard().with_limit::<BYTES>();
    bincode::serde::decode_from_slice(body, config).map_err(|error| CodecError(error.to_string()))
}

/// Bytes that are not the metadata they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata cannot be read: {0}")]
pub(crate) struct CodecError(pub(crate) String);

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn the_encoding_is_a_version_and_varints() {
        let value = (1u8, 250u64, 251u64, -1i64, Some("ab"), vec![7u16, 300]);
        let bytes = encode(&value).unwrap();
        let expected = [
            1, 1, 250, 251, 251, 0, 1, 1, 2, b'a', b'b', 2, 7, 251, 0x2c, 1,
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn another_version_and_bytes_left_over_are_refused() {
        let bytes = encode(&7u32).unwrap();
        assert_eq!(decode::<u32>(&bytes), Ok(7));
        assert!(decode::<u32>(&[2, 7]).unwrap_err().0.contains("version 2"));
        assert!(
            decode::<u32>(&[1, 7, 0])
                .unwrap_err()
                .0
                .contains("left over")
        );
        assert!(decode::<u32>(&[]).is_err());
    }

    /// Only the limit refuses it; without one the text would be allocated before its end is missed.
    #[test]
    fn a_length_beyond_the_input_allocates_nothing() {
        let mut bytes = vec![VERSION, 252];
        bytes.extend_from_slice(&60_000_000u32.to_le_bytes());
        let error = decode::<String>(&bytes).unwrap_err();
        assert!(error.0.contains("Limit"), "{error}");
        let lists = decode::<Vec<Vec<u64>>>(&bytes);
        assert!(lists.is_err());
    }

    #[test]
    fn input_of_every_size_comes_back() {
        for length in [10, SMALL - 9, SMALL + 9, MEDIUM, MEDIUM * 2] {
            let dense = vec![1u64; length];
            assert_eq!(decode(&encode(&dense).unwrap()), Ok(dense), "{length}");
            let text = "x".repeat(length);
            assert_eq!(decode(&encode(&text).unwrap()), Ok(text), "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_may_be_given(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&[VERSION], &*bytes].concat();
            drop(decode::<Vec<(String, Option<u64>)>>(&bytes));
            drop(decode::<std::collections::BTreeMap<u32, Vec<i64>>>(&bytes));
        }
    }
}
