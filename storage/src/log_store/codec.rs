//! The only file that names bincode: metadata (edits, manifests, footers, identities) as bytes.
//!
//! Invariant: the first byte is the codec's version; a decoder reads no more than it is given, allocates no more
//! than its limit, and takes nothing but the whole input. Callers check a checksum before they decode.

use bincode::config;
use serde::Serialize;
use serde::de::DeserializeOwned;

const VERSION: u8 = 1;

/// Most bytes of one piece of metadata; a manifest of 1,024 vbuckets stays far below.
const LIMIT: usize = 64 * 1024 * 1024;

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
    let config = config::standard().with_limit::<LIMIT>();
    let (value, read) = bincode::serde::decode_from_slice(body, config)
        .map_err(|error| CodecError(error.to_string()))?;
    if read == body.len() {
        Ok(value)
    } else {
        Err(CodecError("bytes left over".into()))
    }
}

/// Bytes that are not the metadata they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata cannot be read: {0}")]
pub(crate) struct CodecError(pub(crate) String);
