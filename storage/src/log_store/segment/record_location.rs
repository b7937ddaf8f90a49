//! Records inside a block: an item's bytes with their length and checksum, and the address of one.
//!
//! Invariant: a record verifies on its own, without the block around it, so that a point read reads only it; and
//! it holds nothing that depends on its place, so that a merge may copy it as it is.

use super::fields::{Decoded, saturating_u32};
use crate::kv_store::ItemView;
use crate::leb128::{put_u32, take_u32};
use crate::log_store::record;

/// Address of a record: its place in the block's uncompressed bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordLocation {
    /// Number of the block in its segment.
    pub(crate) block: u32,
    /// Where the record begins among the block's uncompressed bytes.
    pub(crate) offset: u32,
    /// Its whole length, checksum included.
    pub(crate) length: u32,
}

/// Appends the record of `body`, an encoded item, and returns its length.
pub(super) fn frame(out: &mut Vec<u8>, body: &[u8]) -> u32 {
    let before = out.len();
    out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    put_u32(out, saturating_u32(body.len()));
    out.extend_from_slice(body);
    saturating_u32(out.len().saturating_sub(before))
}

/// A record taken off the front of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framed<'a> {
    crc: u32,
    body: &'a [u8],
    /// The record as it stands, checksum and length included.
    pub(super) whole: &'a [u8],
}

/// Takes a record off the front: it, and the bytes behind it. Its checksum is not looked at.
#[inline]
pub(super) fn take(bytes: &[u8]) -> Decoded<(Framed<'_>, &[u8])> {
    split(bytes).ok_or("a record is cut off")
}

fn split(bytes: &[u8]) -> Option<(Framed<'_>, &[u8])> {
    let (crc, rest) = bytes.split_first_chunk()?;
    let (length, rest) = take_u32(rest)?;
    let (body, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let whole = bytes.get(..bytes.len().checked_sub(rest.len())?)?;
    let crc = u32::from_le_bytes(*crc);
    Some((Framed { crc, body, whole }, rest))
}

impl<'a> Framed<'a> {
    /// The item in it, without a look at the checksum: for bytes a block's checksum vouches for.
    #[inline]
    pub(super) fn item(&self) -> Decoded<ItemView<'a>> {
        match record::decode(self.body) {
            Ok((item, [])) => Ok(item),
            Ok(_) => Err("bytes left over in a record"),
            Err(_) => Err("a record holds no item"),
        }
    }

    /// The item in it, its checksum verified.
    pub(super) fn verified_item(&self) -> Decoded<ItemView<'a>> {
        if crc32c::crc32c(self.body) != self.crc {
            return Err("a record's checksum does not match");
        }
        self.item()
    }
}

/// The item of exactly one record, its checksum verified.
pub(super) fn decode_one(bytes: &[u8]) -> Decoded<ItemView<'_>> {
    match take(bytes)? {
        (framed, []) => framed.verified_item(),
        _ => Err("a record is shorter than its index entry says"),
    }
}
