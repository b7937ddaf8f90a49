//! The log's writing end: frames in, one write and one sync out.
//!
//! Invariant: a frame stays in `buffer` until a sync that covers it has succeeded. A write or sync that fails leaves
//! its file with unknown content, so the file is abandoned, never written or synced again, and everything not known
//! durable is written to a new file, whose first frame names the last place known durable (rule R3).

use std::ops::Range;
use std::sync::Arc;

use crate::disk::{Disk, DiskError};
use crate::log_store::log::file::{FRAMES_BEGIN, LogFile, LogFileHeader, PrepareLogFile};
use crate::log_store::log::frame::{
    FileIdentity, FrameHeader, HEADER_LENGTH, LogPosition, Touched, frame_length,
};

/// Sizes of the log's files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSizes {
    /// Size of a store's first log file; each next one is twice as long, up to `file_bytes_max`.
    pub(crate) file_bytes_min: u64,
    /// Full size of a log file.
    pub(crate) file_bytes_max: u64,
}

/// Who writes: goes into file headers and nonces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogOwner {
    pub(crate) store_id: u64,
    pub(crate) shard: u16,
    /// Random per opening of the store, so that a nonce is never used twice.
    pub(crate) entropy: u64,
}

/// A file of the log that still exists, and the frames it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogFileSpan {
    pub(crate) name: String,
    pub(crate) number: u64,
    pub(crate) capacity: u64,
    /// Sequence of the last frame before the file's first.
    pub(crate) after: u64,
}

/// Frames of the buffer: written to the current file, or not yet.
#[derive(Clone, Copy, Debug)]
struct BufferedFrame {
    start: usize,
    length: usize,
    payload_length: u32,
    payload_crc: u32,
    touched: Touched,
}

#[derive(Debug)]
pub(crate) struct LogWriter {
    disk: Arc<dyn Disk>,
    owner: LogOwner,
    sizes: LogSizes,
    /// The file frames go to; `None` after it was abandoned, and before the first frame.
    current: Option<Current>,
    /// A file prepared in the background.
    spare: Option<LogFile>,
    /// Prepared files that turned out useless.
    discarded: Vec<String>,
    next_number: u64,
    /// Capacity the next file should have.
    next_capacity: u64,
    /// Every file of the log that exists, oldest first, the current one last.
    files: Vec<LogFileSpan>,
    /// The last frame known durable.
    synced: LogPosition,
    buffer: Vec<u8>,
    frames: Vec<BufferedFrame>,
    /// How many of `frames` are written to the current file.
    written: usize,
    /// An abandoned file may hold frames that were given up, and no later file holds a durable frame yet: a recovery
    /// now could take them for the end of the log.
    is_in_doubt: bool,
    /// Files abandoned, or made on the commit path because none was prepared.
    pub(crate) abandoned_files: u64,
    pub(crate) files_made_inline: u64,
}

#[derive(Debug)]
struct Current {
    log: LogFile,
    position: u64,
    /// The last frame before this file.
    continues: LogPosition,
    /// Something was written since the last sync.
    is_unsynced: bool,
}

impl Current {
    fn new(log: LogFile, position: u64, continues: LogPosition) -> Current {
        Current {
            log,
            position,
            continues,
            is_unsynced: false,
        }
    }
}

/// Where the log goes on after recovery.
#[derive(Debug)]
pub(crate) struct LogResume {
    pub(crate) synced: LogPosition,
    pub(crate) next_number: u64,
    pub(crate) files: Vec<LogFileSpan>,
    /// The last file and the place behind its last frame, if more may be written there.
    pub(crate) current: Option<(LogFile, u64, LogPosition)>,
}

impl LogWriter {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        owner: LogOwner,
        sizes: LogSizes,
        resume: LogResume,
    ) -> LogWriter {
        let newest = resume.files.iter().map(|span| span.capacity).max();
        LogWriter {
            disk,
            owner,
            sizes,
            current: resume
                .current
                .map(|(log, at, after)| Current::new(log, at, after)),
            spare: None,
            discarded: Vec::new(),
            next_number: resume.next_number,
            next_capacity: newest.map_or(sizes.file_bytes_min, |bytes| bytes.saturating_mul(2)),
            files: resume.files,
            synced: resume.synced,
            buffer: Vec::new(),
            frames: Vec::new(),
            written: 0,
            is_in_doubt: false,
            abandoned_files: 0,
            files_made_inline: 0,
        }
    }

    /// Appends a frame whose payload `fill` writes, and returns its sequence. Nothing reaches the disk yet.
    pub(crate) fn push_frame(&mut self, touched: Touched, fill: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let start = self.buffer.len();
        self.buffer.resize(start.saturating_add(HEADER_LENGTH), 0);
        let payload_start = self.buffer.len();
        fill(&mut self.buffer);
        let payload = self.buffer.get(payload_start..).unwrap_or_default();
        let payload_crc = crc32c::crc32c(payload);
        let payload_length = payload.len();
        let length = frame_length(payload_length);
        self.buffer.resize(start.saturating_add(length), 0);
        // A payload is bounded by what one commit may carry, far below 4 GiB.
        let payload_length = u32::try_from(payload_length).unwrap_or(u32::MAX);
        self.frames.push(BufferedFrame {
            start,
            length,
            payload_length,
            payload_crc,
            touched,
        });
        self.last_sequence()
    }

    /// Sequence of the newest frame, on disk or not.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.synced
            .sequence
            .saturating_add(self.frames.len() as u64)
    }

    /// The last frame known durable.
    pub(crate) fn synced(&self) -> LogPosition {
        self.synced
    }

    /// Bytes not known durable.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Number of the file the newest written frame lies in.
    pub(crate) fn current_file(&self) -> u64 {
        self.current
            .as_ref()
            .map_or(self.synced.file, |current| current.log.identity.number)
    }

    /// Writes every frame not yet written. After an error none of them may be counted on, but they are kept: call
    /// again, or [`LogWriter::forget_after`] what is no longer wanted.
    pub(crate) fn write(&mut self) -> Result<(), DiskError> {
        match self.try_write() {
            Ok(()) => Ok(()),
            Err(first) => {
                self.abandon(&first);
                self.try_write().inspect_err(|second| self.abandon(second))
            }
        }
    }

    /// Writes what is not yet written and makes it durable.
    pub(crate) fn sync(&mut self) -> Result<(), DiskError> {
        self.write()?;
        if let Err(first) = self.sync_current() {
            self.abandon(&first);
            self.try_write()
                .inspect_err(|second| self.abandon(second))?;
            self.sync_current()
                .inspect_err(|third| self.abandon(third))?;
        }
        Ok(())
    }

    /// Drops the frames above `sequence`, which their owner gave up. If any of them may have reached the file,
    /// the file is abandoned, so that recovery never sees them.
    pub(crate) fn forget_after(&mut self, sequence: u64) {
        let keep = usize::try_from(sequence.saturating_sub(self.synced.sequence)).unwrap_or(0);
        if keep >= self.frames.len() {
            return;
        }
        if self.written > keep {
            self.leave_current();
        }
        self.frames.truncate(keep);
        let end = self
            .frames
            .last()
            .map_or(0, |frame| frame.start.saturating_add(frame.length));
        self.buffer.truncate(end);
    }

    fn abandon(&mut self, why: &DiskError) {
        if let Some(log) = self.leave_current() {
            self.abandoned_files = self.abandoned_files.saturating_add(1);
            tracing::warn!(file = %log.name, error = %why, "log file abandoned");
        }
    }

    fn leave_current(&mut self) -> Option<LogFile> {
        self.written = 0;
        let current = self.current.take()?;
        self.is_in_doubt |= current.is_unsynced;
        Some(current.log)
    }

    /// Makes sure that the next sync leaves no doubt about what was given up: a durable frame in a new file, an
    /// empty one if there is no other, cuts off what abandoned files hold beyond the last frame that counts.
    pub(crate) fn settle_doubt(&mut self) {
        if self.is_in_doubt && self.frames.is_empty() {
            self.push_frame(Touched::default(), |_| {});
        }
    }

    fn try_write(&mut self) -> Result<(), DiskError> {
        while self.written < self.frames.len() {
            let room = match &self.current {
                Some(current) => current.log.capacity.saturating_sub(current.position),
                None => 0,
            };
            let run = self.run_that_fits(room);
            if run.is_empty() {
                self.rotate()?;
            } else {
                self.write_run(run)?;
            }
        }
        Ok(())
    }

    /// The unwritten frames, as many as fit into `room` bytes.
    fn run_that_fits(&self, room: u64) -> Range<usize> {
        let mut left = room;
        let fit = self.frames.iter().skip(self.written).take_while(|frame| {
            let fits = left >= frame.length as u64;
            left = left.saturating_sub(frame.length as u64);
            fits
        });
        self.written..self.written.saturating_add(fit.count())
    }

    fn write_run(&mut self, run: Range<usize>) -> Result<(), DiskError> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let begin = current.position;
        let mut position = begin;
        let mut bytes = 0..0;
        for index in run.clone() {
            let Some(frame) = self.frames.get(index) else {
                break;
            };
            let header = FrameHeader {
                sequence: self
                    .synced
                    .sequence
                    .saturating_add(index as u64)
                    .saturating_add(1),
                synced_through: self.synced.sequence,
                payload_length: frame.payload_length,
                payload_crc: frame.payload_crc,
                touched: frame.touched,
                continues: current.continues,
            };
            let encoded = header.encode(current.log.identity, position);
            let end = frame.start.saturating_add(HEADER_LENGTH);
            if let Some(slot) = self.buffer.get_mut(frame.start..end) {
                slot.copy_from_slice(&encoded);
            }
            if bytes.is_empty() {
                bytes = frame.start..frame.start;
            }
            bytes.end = frame.start.saturating_add(frame.length);
            position = position.saturating_add(frame.length as u64);
        }
        current.is_unsynced = true;
        current
            .log
            .file
            .write_at(self.buffer.get(bytes).unwrap_or_default(), begin)?;
        current.position = position;
        self.written = run.end;
        Ok(())
    }

    fn sync_current(&mut self) -> Result<(), DiskError> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if self.written == 0 {
            return Ok(());
        }
        current.log.file.sync()?;
        current.is_unsynced = false;
        self.is_in_doubt = false;
        self.synced = LogPosition {
            file: current.log.identity.number,
            sequence: self.synced.sequence.saturating_add(self.written as u64),
        };
        let rest = self.frames.split_off(self.written);
        let cut = rest.first().map_or(self.buffer.len(), |frame| frame.start);
        self.buffer.drain(..cut);
        self.frames = rest;
        for frame in &mut self.frames {
            frame.start = frame.start.saturating_sub(cut);
        }
        self.written = 0;
        Ok(())
    }

    /// Goes on in a new file. What the old one holds is made durable first, so that the new one's first frame can
    /// name its predecessor.
    fn rotate(&mut self) -> Result<(), DiskError> {
        self.sync_current()?;
        let need = self
            .frames
            .get(self.written)
            .map_or(0, |frame| frame.length as u64);
        let need = need.saturating_add(FRAMES_BEGIN);
        let log = match self.spare.take() {
            Some(spare) if spare.capacity >= need => spare,
            too_small => {
                self.discarded.extend(too_small.map(|spare| spare.name));
                self.make_inline(need)?
            }
        };
        self.next_capacity = log.capacity.saturating_mul(2);
        self.files.push(LogFileSpan {
            name: log.name.clone(),
            number: log.identity.number,
            capacity: log.capacity,
            after: self.synced.sequence,
        });
        self.current = Some(Current::new(log, FRAMES_BEGIN, self.synced));
        Ok(())
    }

    fn make_inline(&mut self, need: u64) -> Result<LogFile, DiskError> {
        self.files_made_inline = self.files_made_inline.saturating_add(1);
        let capacity = need
            .next_multiple_of(FRAMES_BEGIN)
            .max(self.capacity_wanted());
        let header = self.next_header(capacity);
        PrepareLogFile::sparse(Arc::clone(&self.disk), header).run()
    }

    /// The header of the next file.
    pub(crate) fn next_header(&mut self, capacity: u64) -> LogFileHeader {
        let number = self.next_number;
        self.next_number = number.saturating_add(1);
        let nonce = mix(self.owner.entropy ^ mix(number ^ (u64::from(self.owner.shard) << 48)));
        LogFileHeader {
            store_id: self.owner.store_id,
            shard: self.owner.shard,
            identity: FileIdentity { number, nonce },
            capacity,
        }
    }

    /// Whether a file should be prepared: none is ready, and the current one is in use.
    pub(crate) fn wants_spare(&self) -> bool {
        let in_use = |current: &Current| current.position >= current.log.capacity / 8;
        self.spare.is_none() && self.current.as_ref().is_some_and(in_use)
    }

    /// Capacity a file prepared now should have.
    pub(crate) fn capacity_wanted(&self) -> u64 {
        self.next_capacity
            .clamp(self.sizes.file_bytes_min, self.sizes.file_bytes_max)
    }

    /// Takes over a prepared file. Its number is below that of every file made later, so it is used only if no
    /// file was made since.
    pub(crate) fn offer_spare(&mut self, spare: LogFile) {
        let newest = self.files.last().map_or(0, |span| span.number);
        if self.spare.is_none() && spare.identity.number > newest {
            self.spare = Some(spare);
        } else {
            self.discarded.push(spare.name);
        }
    }

    /// Names of prepared files that will not be used; the caller removes them.
    pub(crate) fn take_discarded(&mut self) -> Vec<String> {
        std::mem::take(&mut self.discarded)
    }

    /// The last frame before file `number`, if that is a file of the log.
    pub(crate) fn before_file(&self, number: u64) -> Option<u64> {
        self.files
            .iter()
            .find(|span| span.number == number)
            .map(|span| span.after)
    }

    /// The number the next file will have.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// The files of the log that exist, oldest first.
    pub(crate) fn files(&self) -> &[LogFileSpan] {
        &self.files
    }

    /// Takes the files below number `oldest_needed` out of the log; the current one always stays.
    pub(crate) fn take_obsolete(&mut self, oldest_needed: u64) -> Vec<LogFileSpan> {
        let current = self
            .current
            .as_ref()
            .map_or(u64::MAX, |current| current.log.identity.number);
        let keep_from = oldest_needed.min(current);
        let (obsolete, kept) = self
            .files
            .drain(..)
            .partition(|span: &LogFileSpan| span.number < keep_from);
        self.files = kept;
        obsolete
    }
}

/// Spreads a number over 64 bits (the finalizer of splitmix64).
pub(crate) fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
