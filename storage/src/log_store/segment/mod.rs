//! Segments: immutable runs of one vbucket's items, each an extent of a container file.
//!
//! Invariant: a segment never changes once written, and every byte of it is bound to its [`SegmentMeta`]: the meta
//! names the footer's crc, the footer those of its sections, the block table that of every block header (and it the
//! block's), the index top that of every index page. Bytes of another time or place are corruption, never data.
//! Drawn byte by byte in `docs/storage-format.md`, section "Segment".
//!
//! ```text
//!  offset                                                                            offset + length
//!    | blocks ... | index pages ... | kills | boundaries | filter | block table | index top | footer | trailer |
//!                                     '--- on demand ---'  '------- read at open, in two preads at most -------'
//!
//!   point read:  filter --maybe--> index top --page--> 1 pread: index page --location--> 1 pread: record
//!   seqno scan:  block table ----> 1 pread: several blocks, one after the other
//!   key scan:    index top ------> 1 pread: several pages, one after the other
//! ```

mod fields;
mod record_location;
mod block;
mod key_index;
mod filter;
mod kill_list;
mod boundaries;
mod footer;
mod extent_writer;
mod writer;
mod page_cache;
mod reader;
mod section_cursor;
mod seqno_cursor;
mod key_cursor;
mod verify;
mod salvage;
#[cfg(any(test, feature = "fuzzing"))]
mod lies;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::document::{DocumentKey, Namespace};
use crate::seqno::Seqno;

pub(crate) use block::Compression;
pub(crate) use boundaries::MarkCursor;
pub(crate) use extent_writer::ExtentWriter;
pub(crate) use filter::hash;
pub(crate) use key_cursor::KeyCursor;
pub(crate) use key_index::{FoundEntry, IndexEntry};
pub(crate) use kill_list::{Kill, KillCursor};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use lies::{decode_parts, reseal};
pub(crate) use page_cache::PageCache;
pub(crate) use reader::{Patience, Segment};
pub(crate) use record_location::RecordLocation;
pub(crate) use salvage::{Salvage, salvage};
pub(crate) use seqno_cursor::{Chunk, RawRecord, SeqnoCursor};
pub(crate) use writer::{SegmentIdent, SegmentOptions, SegmentTail, SegmentWriter};

/// Version of everything between a segment's first and last byte.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Where a segment lies and what is in it: what the manifest remembers of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentMeta {
    /// Its number, never used twice in a store.
    pub(crate) id: u64,
    /// The container file it lies in.
    pub(crate) container: u64,
    /// Where in the file its first byte is.
    pub(crate) offset: u64,
    /// Its length in bytes.
    pub(crate) length: u64,
    /// First seqno it answers for; its first record may be higher.
    pub(crate) first_seqno: Seqno,
    /// Last seqno it answers for; its last record may be lower.
    pub(crate) last_seqno: Seqno,
    /// Lowest seqno a rollback to which is exact (rule R11).
    pub(crate) exact_from: Seqno,
    /// Records in it, those above `cut` included.
    pub(crate) records: u64,
    /// Bytes of those records.
    pub(crate) data_bytes: u64,
    /// Entries of its kill list, those above `cut` included.
    pub(crate) kills: u64,
    /// Checksum of its footer, which binds this meta to these bytes.
    pub(crate) footer_crc: u32,
    /// Set by a rollback: records, kills and boundaries above it are invisible.
    pub(crate) cut: Option<Seqno>,
}

impl SegmentMeta {
    /// Highest seqno that may be seen.
    pub(crate) fn visible_last(&self) -> Seqno {
        self.cut.unwrap_or(Seqno::MAX)
    }
}

/// A key as the index orders it: the namespace's byte, then the encoded document key. Lives on the stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexKey {
    bytes: [u8; IndexKey::LENGTH_MAX],
    length: usize,
}

impl IndexKey {
    /// Longest index key in bytes.
    pub(crate) const LENGTH_MAX: usize = DocumentKey::LENGTH_MAX + 1;

    /// The index key of `encoded`, an encoded document key. Of one beyond the limits, which are checked where keys
    /// are made, it is empty: a key that no index holds.
    pub(crate) fn new(namespace: Namespace, encoded: &[u8]) -> IndexKey {
        let mut bytes = [namespace as u8; IndexKey::LENGTH_MAX];
        let length = encoded.len().saturating_add(1);
        let Some(place) = bytes.get_mut(1..length) else {
            return IndexKey { bytes, length: 0 };
        };
        place.copy_from_slice(encoded);
        IndexKey { bytes, length }
    }

    /// Its bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }
}
