//! A frame: the unit in which the log is written, checked and replayed.
//!
//! Invariant: a header is valid only in the file and at the offset it was written for, because its checksum covers
//! the file's nonce, its number and the offset (rule R4): bytes inside a value, or frames left in a recycled file,
//! never pass as a frame. Drawn in `docs/storage-format.md`, section "Frame".

use crate::vbucket::VbucketId;

/// Bytes of a frame's header; frames begin at multiples of it.
pub(crate) const HEADER_LENGTH: usize = 64;
const MAGIC: u32 = u32::from_le_bytes(*b"PGFR");

/// Which log file, by number, and what tells it from a recycled one of the same number elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    pub(crate) number: u64,
    pub(crate) nonce: u64,
}

/// A place in the log: a frame's sequence and the number of the file it lies in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogPosition {
    pub(crate) file: u64,
    pub(crate) sequence: u64,
}

/// The vbuckets a frame speaks of, as bits of their numbers modulo 128: exact up to 128 vbuckets a shard, too
/// many (never too few) beyond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched(pub(crate) u128);

impl Touched {
    /// Every vbucket.
    pub(crate) const ALL: Touched = Touched(u128::MAX);

    pub(crate) fn insert(&mut self, vbucket: VbucketId) {
        self.0 |= 1u128 << (vbucket.get() % 128);
    }

    pub(crate) fn contains(self, vbucket: VbucketId) -> bool {
        self.0 & (1u128 << (vbucket.get() % 128)) != 0
    }
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Its number; rises by one from frame to frame, through all files.
    pub(crate) sequence: u64,
    /// Every frame up to this sequence was durable before this one was written.
    pub(crate) synced_through: u64,
    pub(crate) payload_length: u32,
    pub(crate) payload_crc: u32,
    pub(crate) touched: Touched,
    /// The place this frame's file goes on after; the same in all frames of a file.
    pub(crate) continues: LogPosition,
}

impl FrameHeader {
    /// The header as bytes for `offset` of `file`.
    pub(crate) fn encode(&self, file: FileIdentity, offset: u64) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0u8; HEADER_LENGTH];
        let fields: [&[u8]; 8] = [
            &self.sequence.to_le_bytes(),
            &self.synced_through.to_le_bytes(),
            &self.payload_length.to_le_bytes(),
            &self.payload_crc.to_le_bytes(),
            &self.touched.0.to_le_bytes(),
            &self.continues.file.to_le_bytes(),
            &self.continues.sequence.to_le_bytes(),
            &[],
        ];
        let mut rest = bytes.iter_mut().skip(8);
        for byte in fields.into_iter().flatten() {
            if let Some(slot) = rest.next() {
                *slot = *byte;
            }
        }
        let crc = checksum(file, offset, bytes.get(8..).unwrap_or_default());
        let head = MAGIC.to_le_bytes().into_iter().chain(crc.to_le_bytes());
        for (slot, byte) in bytes.iter_mut().zip(head) {
            *slot = byte;
        }
        bytes
    }

    /// The header at `offset` of `file`, if there is a valid one.
    pub(crate) fn decode(bytes: &[u8], file: FileIdentity, offset: u64) -> Option<FrameHeader> {
        let header = FrameHeader::unverified(bytes)?;
        let (crc, body) = take_u32(bytes.get(4..HEADER_LENGTH)?)?;
        (checksum(file, offset, body) == crc).then_some(header)
    }

    /// What bytes that begin like a header say, verified by nothing: for a file whose own header, and with it what
    /// the checksum covers, is lost.
    pub(crate) fn unverified(bytes: &[u8]) -> Option<FrameHeader> {
        let (magic, rest) = take_u32(bytes)?;
        if magic != MAGIC {
            return None;
        }
        let (_, rest) = take_u32(rest)?;
        let (sequence, rest) = take_u64(rest)?;
        let (synced_through, rest) = take_u64(rest)?;
        let (payload_length, rest) = take_u32(rest)?;
        let (payload_crc, rest) = take_u32(rest)?;
        let (touched, rest) = rest.split_first_chunk::<16>()?;
        let (continues_file, rest) = take_u64(rest)?;
        let (continues_sequence, _) = take_u64(rest)?;
        Some(FrameHeader {
            sequence,
            synced_through,
            payload_length,
            payload_crc,
            touched: Touched(u128::from_le_bytes(*touched)),
            continues: LogPosition {
                file: continues_file,
                sequence: continues_sequence,
            },
        })
    }

    /// Bytes of the whole frame on disk: header, payload, and padding to the next frame.
    pub(crate) fn frame_length(&self) -> usize {
        frame_length(self.payload_length as usize)
    }
}

/// Bytes on disk of a frame with a payload of that length.
pub(crate) fn frame_length(payload_length: usize) -> usize {
    payload_length
        .saturating_add(HEADER_LENGTH)
        .next_multiple_of(HEADER_LENGTH)
}

fn checksum(file: FileIdentity, offset: u64, body: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&file.nonce.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &file.number.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &offset.to_le_bytes());
    crc32c::crc32c_append(seed, body)
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*head), rest))
}

#[cfg(test)]
mod tests;
