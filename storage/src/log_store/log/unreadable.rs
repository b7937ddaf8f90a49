//! A log file that cannot be read as one: its header is damaged, or the disk does not give its bytes.
//!
//! Invariant: nothing in such a file is ever replayed, because what the checksums of its frames cover is in the header
//! that is lost. What its bytes look like only decides how far the file may have reached, and where they leave that
//! in doubt, it may have reached as far as there is room in it.

use std::sync::Arc;

use crate::disk::{Disk, DiskError, OpenMode};
use crate::error::StorageError;
use crate::log_store::log::file::FRAMES_BEGIN;
use crate::log_store::log::frame::{FrameHeader, HEADER_LENGTH};
use crate::log_store::log::reader::LogBounds;
use crate::log_store::names::Name;

/// A log file that cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct UnreadableFile {
    pub(crate) number: u64,
    pub(crate) error: StorageError,
    pub(crate) reach: Reach,
}

/// How far the frames of an unreadable file may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It holds no frame that the manifest does not cover.
    Nothing,
    /// To this sequence at most.
    Until(u64),
    /// Nobody can say.
    Unknown,
}

impl UnreadableFile {
    /// The file that could not be read because of `error`.
    pub(crate) fn of(
        disk: &Arc<dyn Disk>,
        name: Name,
        error: StorageError,
        bounds: LogBounds,
    ) -> UnreadableFile {
        // What the disk does not give may be as it should be, and give itself up next time.
        let is_damaged = matches!(error, StorageError::Corruption { .. });
        let bytes = is_damaged.then(|| read_whole(disk, name));
        let reach = match bytes {
            Some(Ok(bytes)) => Reach::of(&bytes, name.number, bounds),
            Some(Err(_)) | None => Reach::Unknown,
        };
        UnreadableFile {
            number: name.number,
            error,
            reach,
        }
    }
}

fn read_whole(disk: &Arc<dyn Disk>, name: Name) -> Result<Vec<u8>, DiskError> {
    let file = disk.open(&name.to_string(), OpenMode::Existing)?;
    let mut bytes = vec![0u8; usize::try_from(file.length()?).unwrap_or(0)];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl Reach {
    /// Of log file `number` with these bytes and a header that is lost.
    pub(crate) fn of(bytes: &[u8], number: u64, bounds: LogBounds) -> Reach {
        let LogBounds { begin, synced, .. } = bounds;
        // Every frame takes at least the room of its header; no value in the file can claim more.
        let room = (bytes.len() / HEADER_LENGTH) as u64;
        let most = synced.sequence.saturating_add(room).saturating_add(1);
        let frames = plausible_frames(bytes, most);
        let is_believable = if number == synced.file {
            frames.last().is_some_and(|last| *last >= synced.sequence)
        } else {
            !frames.is_empty() || is_blank(bytes)
        };
        let mut news = frames.iter().copied();
        let Some(first) = news.find(|sequence| *sequence > begin.sequence) else {
            return if is_believable {
                Reach::Nothing
            } else {
                Reach::Until(most)
            };
        };
        let last = news.try_fold(first, |before, next| {
            (next == before.saturating_add(1)).then_some(next)
        });
        match last {
            Some(last) if is_believable => Reach::Until(last),
            Some(_) | None => Reach::Until(most),
        }
    }
}

/// Whether nothing was ever written behind the header.
fn is_blank(bytes: &[u8]) -> bool {
    let frames = usize::try_from(FRAMES_BEGIN)
        .ok()
        .and_then(|begin| bytes.get(begin..));
    frames.is_some_and(|frames| !frames.is_empty() && frames.iter().all(|byte| *byte == 0))
}

/// Sequences, rising, of what looks like whole frames. A payload is passed over with its frame, so what a value holds
/// is not taken for one.
fn plausible_frames(bytes: &[u8], most: u64) -> Vec<u64> {
    let mut found: Vec<u64> = Vec::new();
    let mut offset = usize::try_from(FRAMES_BEGIN).unwrap_or(usize::MAX);
    while let Some(rest) = bytes
        .get(offset..)
        .filter(|rest| rest.len() >= HEADER_LENGTH)
    {
        let frame = FrameHeader::unverified(rest).filter(|header| {
            let end = HEADER_LENGTH.saturating_add(header.payload_length as usize);
            let payload = rest.get(HEADER_LENGTH..end);
            let rises = found.last().is_none_or(|last| *last < header.sequence);
            rises
                && header.sequence <= most
                && payload.is_some_and(|payload| crc32c::crc32c(payload) == header.payload_crc)
        });
        let step = frame.map_or(HEADER_LENGTH, |header| {
            found.push(header.sequence);
            header.frame_length()
        });
        offset = offset.saturating_add(step);
    }
    found
}

#[cfg(test)]
mod tests;
