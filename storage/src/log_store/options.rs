//! Settings of a log store: those stored at creation, and those of one opening.
//!
//! Invariant: what decides where data lies (vbucket count, log shards) is stored once and never given again
//! (rule R5); everything else may differ from opening to opening.

use crate::error::StorageError;
use crate::eviction::Eviction;
use crate::log_store::log::writer::LogSizes;
use crate::log_store::segment::{Compression, SegmentOptions};
use crate::vbucket::VbucketId;

/// Decided at creation and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// How many vbuckets the store may hold: a power of two, 1 to 1,024.
    pub vbuckets: u16,
    /// How many logs: vbuckets are dealt to them, and each has its own sync. 1 to 8, at most one per vbucket.
    pub log_shards: u16,
    /// What leaves memory when it is short: the store itself does nothing about it.
    pub eviction: Eviction,
}

impl Default for CreateOptions {
    fn default() -> Self {
        CreateOptions::of(128, 1)
    }
}

impl CreateOptions {
    /// So many vbuckets and logs, and what is usual.
    #[must_use]
    pub const fn of(vbuckets: u16, log_shards: u16) -> CreateOptions {
        CreateOptions {
            vbuckets,
            log_shards,
            eviction: Eviction::Documents,
        }
    }

    /// With this to leave memory.
    #[must_use]
    pub const fn evicting(self, eviction: Eviction) -> CreateOptions {
        CreateOptions { eviction, ..self }
    }

    /// Most log shards of a store.
    pub const LOG_SHARDS_MAX: u16 = 8;

    pub(crate) fn check(self) -> Result<(), StorageError> {
        let vbuckets_fit = self.vbuckets.is_power_of_two() && self.vbuckets <= VbucketId::COUNT_MAX;
        if !vbuckets_fit {
            let what = format!(
                "{} vbuckets: give a power of two from 1 to 1024",
                self.vbuckets
            );
            return Err(StorageError::Setting(what));
        }
        let most = Self::LOG_SHARDS_MAX.min(self.vbuckets);
        if self.log_shards == 0 || self.log_shards > most {
            let what = format!("{} log shards: give 1 to {most}", self.log_shards);
            return Err(StorageError::Setting(what));
        }
        Ok(())
    }
}

/// How segments compress their blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockCompression {
    /// Not at all: a point read reads just its record.
    #[default]
    None,
    /// With LZ4: a point read reads and expands a block.
    Lz4,
}

/// Of one opening.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Size of a store's first log file; each next one is twice as long, up to `log_file_bytes_max`.
    pub log_file_bytes_min: u64,
    /// Full size of a log file.
    pub log_file_bytes_max: u64,
    /// A frame is closed when it holds this much; one batch is never divided.
    pub frame_bytes_max: usize,
    /// Bytes a commit may leave without a sync ([`crate::CommitDurability::Buffered`]); beyond, it syncs.
    pub unsynced_bytes_max: usize,
    /// Items that are in no segment yet, in key and value bytes per shard, that make maintenance seal.
    pub unsealed_bytes: u64,
    /// Segments per vbucket that make maintenance merge the newest of them: every point read may look at each. With
    /// `usize::MAX` maintenance merges nothing, whatever is dead.
    pub segments_max: usize,
    /// Ends of batches that a merge keeps of a vbucket, but for those that its items do not tell: a rollback knows the
    /// snapshot and the commit time of these only.
    pub batch_ends_max: usize,
    /// Vbuckets whose newest items a seal freezes, and whose segments it publishes, at a time: a commit waits for so
    /// many at most.
    pub published_at_once: usize,
    /// Container files of less than this are not copied out when they are mostly dead.
    pub container_bytes_min: u64,
    /// Memory for index pages, for the whole store: a point read whose page is here reads the disk once.
    pub index_cache_bytes: usize,
    /// Uncompressed size of a block.
    pub block_bytes: usize,
    /// How blocks are compressed.
    pub compression: BlockCompression,
    /// Versions whose killer is at or below this seqno may be dropped by maintenance; rollback below the killers
    /// of those is a reset. The default drops all superseded versions at once.
    pub history_floor: crate::seqno::Seqno,
    /// Randomness of this opening; tells recycled log frames from new ones. Another number each time, whatever the
    /// last opening had.
    pub entropy: u64,
    /// For a simulation on one thread: a job that would wait for another yields instead.
    pub is_stepped: bool,
}

impl OpenOptions {
    /// The usual settings. `entropy` must be another number at every opening of a store, such as one from the
    /// system's source of randomness: with one that was used before, frames left in a recycled log file could pass
    /// for new ones.
    #[must_use]
    pub fn new(entropy: u64) -> OpenOptions {
        OpenOptions {
            log_file_bytes_min: 1 << 20,
            log_file_bytes_max: 16 << 20,
            frame_bytes_max: 1 << 20,
            unsynced_bytes_max: 8 << 20,
            unsealed_bytes: 32 << 20,
            segments_max: 8,
            batch_ends_max: 1024,
            published_at_once: 32,
            container_bytes_min: 4 << 20,
            index_cache_bytes: 64 << 20,
            block_bytes: 64 << 10,
            compression: BlockCompression::None,
            history_floor: crate::seqno::Seqno::MAX,
            entropy,
            is_stepped: false,
        }
    }

    pub(crate) fn log_sizes(&self) -> LogSizes {
        // Two frames of the smallest useful size must fit, recovery reads a file whole, and the sizes must be in order.
        let file_bytes_min = self.log_file_bytes_min.clamp(64 << 10, 1 << 30);
        let file_bytes_max = self.log_file_bytes_max.clamp(file_bytes_min, 1 << 30);
        let file_bytes_min = file_bytes_min.next_multiple_of(4096);
        let file_bytes_max = file_bytes_max.next_multiple_of(4096);
        LogSizes {
            file_bytes_min,
            file_bytes_max,
        }
    }

    pub(crate) fn segment_options(&self) -> SegmentOptions {
        SegmentOptions {
            block_bytes: self.block_bytes.clamp(4 << 10, 1 << 20),
            compression: match self.compression {
                BlockCompression::None => Compression::None,
                BlockCompression::Lz4 => Compression::Lz4,
            },
        }
    }
}
