//! The log's reading end, used at open: from files to the frames that count.
//!
//! Invariant: what is given back is exactly what was durable, and perhaps frames written after the last sync; a torn
//! tail is cut, a file abandoned after a failed sync counts up to the frame its successor names, and damage to
//! frames known durable is reported with its place, never skipped in silence. A file that cannot be read at all is
//! damage as far as its frames may have reached, and one that is not there is told as missing. Without a manifest that
//! must have been, nothing counts.

use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskError, DiskErrorKind, DiskFile, OpenMode, Verb};
use crate::error::StorageError;
use crate::log_store::log::chain::{Chain, Limit, follow_chain};
use crate::log_store::log::file::{FRAMES_BEGIN, LogFile, LogFileHeader};
use crate::log_store::log::frame::{FrameHeader, HEADER_LENGTH, LogPosition, Touched};
use crate::log_store::log::unreadable::{Reach, UnreadableFile};
use crate::log_store::log::writer::LogFileSpan;
use crate::log_store::names::{Kind, Name};

/// A frame that counts.
#[derive(Debug)]
pub(crate) struct FoundFrame {
    pub(crate) position: LogPosition,
    pub(crate) file_name: Arc<str>,
    pub(crate) offset: u64,
    pub(crate) payload: Bytes,
}

/// Durable bytes of the log that cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct LogDamage {
    /// First sequence missing.
    pub(crate) sequence: u64,
    /// Last sequence missing.
    pub(crate) until: u64,
    /// The vbuckets that may have had records there.
    pub(crate) touched: Touched,
    pub(crate) error: StorageError,
}

/// All that recovery learns from the log.
#[derive(Debug, Default)]
pub(crate) struct FoundLog {
    pub(crate) frames: Vec<FoundFrame>,
    pub(crate) damage: Vec<LogDamage>,
    /// The last frame that counts.
    pub(crate) last: LogPosition,
    /// Files that count, oldest first.
    pub(crate) files: Vec<LogFileSpan>,
    /// Files that do not: unused, or abandoned before anything in them was durable.
    pub(crate) unused: Vec<String>,
    /// Files that cannot be read and of which nothing is needed; they stay until the log has moved on.
    pub(crate) unreadable: Vec<UnreadableFile>,
    /// Why nobody can say where the log begins, or ends.
    pub(crate) lost: Option<StorageError>,
    /// Highest file number seen.
    pub(crate) highest_number: u64,
    /// Of the last file, the frames nothing proves durable, as they were read: its file, and place and bytes of each.
    pub(crate) unproven: Option<Unproven>,
    /// The last file, the place behind its last frame and the place it goes on after, when it may be written on.
    pub(crate) tail: Option<(LogFile, u64, LogPosition)>,
}

/// A log file, and frames of it: place and bytes of each.
pub(crate) type Unproven = (Arc<dyn DiskFile>, Vec<(u64, Bytes)>);

/// What the manifest knows of the log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogBounds {
    /// The oldest file needed, and the last frame before it.
    pub(crate) begin: LogPosition,
    /// Frames up to here were durable when the manifest was written.
    pub(crate) synced: LogPosition,
    /// The store was closed in order right after `synced`.
    pub(crate) is_clean: bool,
}

/// Reads the log of one shard from the files in `names`, which are all there are of it.
pub(crate) fn read_log(
    disk: &Arc<dyn Disk>,
    names: &[Name],
    store_id: u64,
    bounds: LogBounds,
    shard: u16,
) -> Result<FoundLog, StorageError> {
    let mut found = FoundLog {
        last: bounds.begin,
        ..FoundLog::default()
    };
    let mut files = Vec::new();
    for name in names.iter().filter(|name| name.kind == Kind::Log) {
        found.highest_number = found.highest_number.max(name.number);
        if name.number < bounds.begin.file {
            found.unused.push(name.to_string());
        } else {
            files.push(LogFileFound::read(disk, *name, store_id, bounds)?);
        }
    }
    let is_there = names
        .iter()
        .any(|name| name.kind == Kind::Log && name.number == bounds.synced.file);
    let chain = follow_chain(files, bounds, &mut found);
    if let Some(error) = chain.lacks_manifest(names, shard) {
        return Ok(FoundLog {
            lost: Some(error),
            ..FoundLog::default()
        });
    }
    let Chain { files, missing } = chain;
    let newest = files.len().saturating_sub(1);
    let mut walk = Walk {
        found,
        bounds,
        shard,
        missing,
        is_newest_missing: !is_there,
        expected: bounds.begin.sequence.saturating_add(1),
    };
    for (index, (file, limit)) in files.into_iter().enumerate() {
        match file {
            LogFileFound::Readable(file) => walk.file(file, limit, index == newest),
            LogFileFound::Unreadable(file) => walk.unreadable(file, limit),
        }
    }
    Ok(walk.end())
}

/// A log file as it was found.
pub(super) enum LogFileFound {
    Readable(ScannedFile),
    Unreadable(UnreadableFile),
}

impl LogFileFound {
    fn read(
        disk: &Arc<dyn Disk>,
        name: Name,
        store_id: u64,
        bounds: LogBounds,
    ) -> Result<LogFileFound, StorageError> {
        match ScannedFile::read(disk, name, store_id) {
            Ok(file) => Ok(LogFileFound::Readable(file)),
            Err(error) if error.is_of_one_file() => {
                tracing::warn!(file = %name, %error, "a log file cannot be read");
                let file = UnreadableFile::of(disk, name, error, bounds);
                Ok(LogFileFound::Unreadable(file))
            }
            Err(error) => Err(error),
        }
    }
}

/// A log file in memory, and every frame that can be made out in it.
pub(super) struct ScannedFile {
    pub(super) name: Arc<str>,
    pub(super) header: LogFileHeader,
    file: Arc<dyn DiskFile>,
    bytes: Bytes,
    /// Valid frames by offset; their sequences rise.
    frames: Vec<(u64, FrameHeader)>,
    /// Valid headers whose payload is damaged.
    damaged: Vec<(u64, FrameHeader)>,
}

impl ScannedFile {
    fn read(disk: &Arc<dyn Disk>, name: Name, store_id: u64) -> Result<ScannedFile, StorageError> {
        let text: Arc<str> = name.to_string().into();
        let file = disk.open(&text, OpenMode::Existing)?;
        let header = LogFileHeader::read(&*file, &text)?;
        let belongs = header.store_id == store_id
            && header.shard == name.shard
            && header.identity.number == name.number;
        if !belongs {
            return Err(StorageError::corruption(
                &*text,
                0,
                "the log file belongs elsewhere",
            ));
        }
        let length = usize::try_from(file.length()?.min(header.capacity)).unwrap_or(0);
        let mut bytes = vec![0u8; length];
        file.read_at(&mut bytes, 0)?;
        let bytes = Bytes::from(bytes);
        let (frames, damaged) = (Vec::new(), Vec::new());
        let mut scanned = ScannedFile {
            name: text,
            header,
            file,
            bytes,
            frames,
            damaged,
        };
        scanned.find_frames();
        Ok(scanned)
    }

    /// Looks for a frame at every place one may begin.
    fn find_frames(&mut self) {
        let bytes = self.bytes.clone();
        let mut offset = FRAMES_BEGIN;
        while let Some(rest) = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)) {
            if rest.len() < HEADER_LENGTH {
                return;
            }
            let mut step = HEADER_LENGTH;
            if let Some(header) = FrameHeader::decode(rest, self.header.identity, offset) {
                if self.is_whole(&header, rest) {
                    step = header.frame_length();
                    self.frames.push((offset, header));
                } else {
                    self.damaged.push((offset, header));
                }
            }
            offset = offset.saturating_add(step as u64);
        }
    }

    fn is_whole(&self, header: &FrameHeader, rest: &[u8]) -> bool {
        let end = HEADER_LENGTH.saturating_add(header.payload_length as usize);
        let payload = rest.get(HEADER_LENGTH..end);
        let rises = self
            .frames
            .last()
            .is_none_or(|(_, last)| last.sequence < header.sequence);
        rises && payload.is_some_and(|payload| crc32c::crc32c(payload) == header.payload_crc)
    }

    fn payload(&self, offset: u64, header: &FrameHeader) -> Bytes {
        let begin = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .saturating_add(HEADER_LENGTH);
        let end = begin
            .saturating_add(header.payload_length as usize)
            .min(self.bytes.len());
        self.bytes.slice(begin.min(end)..end)
    }

    /// A frame as it stands in the file, header and padding included.
    fn whole(&self, offset: u64, header: &FrameHeader) -> Bytes {
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = begin
            .saturating_add(header.frame_length())
            .min(self.bytes.len());
        self.bytes.slice(begin.min(end)..end)
    }

    /// The place this file goes on after.
    pub(super) fn continues(&self) -> Option<LogPosition> {
        self.frames
            .iter()
            .chain(&self.damaged)
            .next()
            .map(|(_, header)| header.continues)
    }

    /// Highest frame the file itself knows to have been durable.
    fn told_durable(&self) -> u64 {
        self.frames
            .iter()
            .map(|(_, header)| header.synced_through)
            .max()
            .unwrap_or(0)
    }

    /// Highest frame of the log that this file or the manifest's place in it proves to have been durable.
    pub(super) fn proven_durable(&self, bounds: LogBounds) -> u64 {
        let is_synced = self.header.identity.number == bounds.synced.file;
        let synced = if is_synced { bounds.synced.sequence } else { 0 };
        self.told_durable().max(synced)
    }

    fn damage(&self, sequence: u64, until: u64, offset: u64) -> LogDamage {
        let single = self
            .damaged
            .iter()
            .find(|(_, header)| header.sequence == sequence);
        let touched = match single {
            Some((_, header)) if until == sequence => header.touched,
            _ => Touched::ALL,
        };
        let offset = single.map_or(offset, |(offset, _)| *offset);
        let what = format!("log frames {sequence} to {until} are damaged");
        let error = StorageError::corruption(&*self.name, offset, what);
        LogDamage {
            sequence,
            until,
            touched,
            error,
        }
    }
}

/// The way through the chain, frame by frame.
struct Walk {
    found: FoundLog,
    bounds: LogBounds,
    shard: u16,
    /// The last frame before the oldest file, where the file that held it is not there.
    missing: Option<LogPosition>,
    /// The last file the manifest knows is not there.
    is_newest_missing: bool,
    /// The next sequence there should be.
    expected: u64,
}

impl Walk {
    fn file(&mut self, file: ScannedFile, limit: Limit, is_newest: bool) {
        let limit = match limit {
            Limit::At(sequence) => Some(sequence),
            Limit::Open => None,
        };
        let number = file.header.identity.number;
        self.found.files.push(LogFileSpan {
            name: file.name.to_string(),
            number,
            capacity: file.header.capacity,
            after: file
                .continues()
                .map_or(self.found.last.sequence, |after| after.sequence),
        });
        let durable = limit.unwrap_or_else(|| file.told_durable().max(self.bounds.synced.sequence));
        let mut unproven = Vec::new();
        let mut end = FRAMES_BEGIN;
        for (offset, header) in &file.frames {
            if limit.is_some_and(|limit| header.sequence > limit) {
                break;
            }
            if header.sequence >= self.expected {
                if header.sequence > self.expected {
                    if durable < self.expected {
                        break;
                    }
                    self.hole(&file, header.sequence.saturating_sub(1), end);
                }
                if header.sequence > durable {
                    unproven.push((*offset, file.whole(*offset, header)));
                }
                self.take(&file, number, *offset, header);
            }
            end = offset.saturating_add(header.frame_length() as u64);
        }
        if durable >= self.expected {
            if self.is_newest_missing && limit.is_none() {
                self.gone(self.bounds.synced.file, durable);
            } else {
                let damage = file.damage(self.expected, durable, end);
                self.found.damage.push(damage);
            }
            self.found.last = LogPosition {
                file: number,
                sequence: durable,
            };
            self.expected = durable.saturating_add(1);
        }
        if !unproven.is_empty() {
            self.found.unproven = Some((Arc::clone(&file.file), unproven));
        }
        if is_newest {
            self.keep_tail(file, end);
        }
    }

    /// Frames up to `until` are not there in front of this place of a file.
    fn hole(&mut self, file: &ScannedFile, until: u64, offset: u64) {
        let gone = self.missing.take();
        if let Some(gone) = gone.filter(|gone| gone.sequence >= self.expected) {
            self.gone(gone.file, gone.sequence.min(until));
        }
        if until >= self.expected {
            let damage = file.damage(self.expected, until, offset);
            self.found.damage.push(damage);
        }
    }

    /// Frames up to `until` lie in a file that is not there.
    fn gone(&mut self, file: u64, until: u64) {
        let error = DiskError {
            verb: Verb::Open,
            file: Name::new(Kind::Log, self.shard, file).to_string(),
            kind: DiskErrorKind::NotFound,
        };
        self.found.damage.push(LogDamage {
            sequence: self.expected,
            until,
            touched: Touched::ALL,
            error: error.into(),
        });
        self.expected = until.saturating_add(1);
    }

    /// All frames of this file that are still expected are missing.
    fn unreadable(&mut self, file: UnreadableFile, limit: Limit) {
        let until = match (limit, file.reach) {
            (Limit::At(limit), _) => limit,
            (Limit::Open, Reach::Until(until)) => until,
            (Limit::Open, Reach::Nothing) => 0,
            (Limit::Open, Reach::Unknown) => return self.found.lost = Some(file.error),
        };
        if until < self.expected {
            return self.found.unreadable.push(file);
        }
        self.found.damage.push(LogDamage {
            sequence: self.expected,
            until,
            touched: Touched::ALL,
            error: file.error,
        });
        self.found.last = LogPosition {
            file: file.number,
            sequence: until,
        };
        self.expected = until.saturating_add(1);
    }

    fn take(&mut self, file: &ScannedFile, number: u64, offset: u64, header: &FrameHeader) {
        self.found.last = LogPosition {
            file: number,
            sequence: header.sequence,
        };
        self.expected = header.sequence.saturating_add(1);
        self.found.frames.push(FoundFrame {
            position: self.found.last,
            file_name: Arc::clone(&file.name),
            offset,
            payload: file.payload(offset, header),
        });
    }

    /// After an orderly close the last file may be written on; after anything else its rest may hold frames that
    /// were cut, which a new frame in front of them could bring back.
    fn keep_tail(&mut self, file: ScannedFile, end: u64) {
        let is_whole = self.bounds.is_clean
            && self.found.damage.is_empty()
            && self.found.last == self.bounds.synced
            && file
                .frames
                .last()
                .is_none_or(|(_, last)| last.sequence == self.found.last.sequence);
        let after = file.continues();
        if let (true, Some(after)) = (is_whole, after) {
            let ScannedFile {
                name,
                header: LogFileHeader {
                    identity, capacity, ..
                },
                file,
                ..
            } = file;
            let log = LogFile {
                file,
                name: name.to_string(),
                identity,
                capacity,
            };
            self.found.tail = Some((log, end, after));
        }
    }

    fn end(mut self) -> FoundLog {
        if self.found.lost.is_some() {
            // What is not found of it may be where nobody could look.
            return self.found;
        }
        let LogPosition {
            file,
            sequence: synced,
        } = self.bounds.synced;
        if synced >= self.expected && self.is_newest_missing {
            self.gone(file, synced);
            self.found.last.sequence = synced;
        } else if synced >= self.expected {
            let what = format!("log frames {} to {synced} are missing", self.expected);
            self.found.damage.push(LogDamage {
                sequence: self.expected,
                until: synced,
                touched: Touched::ALL,
                error: StorageError::corruption("log", 0, what),
            });
            self.found.last.sequence = synced;
        }
        self.found
    }
}
