//! Which log files count, and how far: the chain from the newest with a frame back to the oldest that is needed.
//!
//! Invariant: each file names the one it goes on after, so a file that is abandoned is never taken for one that counts, and one
//! that is missing is known by its number; so is a manifest, by a log that cannot begin where it does without one. Called by
//! the log's reading end.

use crate::disk::{DiskError, DiskErrorKind, Verb};
use crate::error::StorageError;
use crate::log_store::log::frame::LogPosition;
use crate::log_store::log::reader::{FoundLog, LogBounds, LogFileFound};
use crate::log_store::log::unreadable::Reach;
use crate::log_store::manifest::ShardRecord;
use crate::log_store::names::{Kind, Name};
use crate::log_store::verify::FaultKind;

/// The number of the first file of a log.
const FIRST_FILE: u64 = ShardRecord::NEW.next_log_file;

/// What is looked for on the way back through the files.
#[derive(Clone, Copy)]
enum Wanted {
    /// The newest file that holds a frame.
    Newest,
    /// The file that the one above goes on after.
    At(LogPosition),
    /// Whatever holds frames: the file above cannot say what it goes on after.
    Next,
}

/// How far a file of the chain counts.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    /// To its last frame, as far as that can be told.
    Open,
    /// Up to this frame.
    At(u64),
}

impl Wanted {
    /// If this file is it, how far it counts.
    fn takes(self, file: &LogFileFound, bounds: LogBounds) -> Option<Limit> {
        let (number, is_used) = match file {
            LogFileFound::Readable(file) => {
                (file.header.identity.number, file.continues().is_some())
            }
            LogFileFound::Unreadable(file) => (file.number, file.reach != Reach::Nothing),
        };
        match (self, file) {
            (Wanted::At(position), _) => {
                (number == position.file).then_some(Limit::At(position.sequence))
            }
            (Wanted::Newest, _) => (is_used || number == bounds.synced.file).then_some(Limit::Open),
            // Its last frames may have been given up: only what is proven counts.
            (Wanted::Next, LogFileFound::Readable(file)) => {
                is_used.then(|| Limit::At(file.proven_durable(bounds)))
            }
            (Wanted::Next, LogFileFound::Unreadable(_)) => is_used.then_some(Limit::Open),
        }
    }
}

/// The files that count, oldest first, each with how far.
pub(super) struct Chain {
    pub(super) files: Vec<(LogFileFound, Limit)>,
    /// The file that the oldest of them goes on after, where frames of it are needed and it is not there.
    pub(super) missing: Option<LogPosition>,
}

impl Chain {
    /// Without a manifest a log is whole from its first frame on: files of it are removed only once a manifest covers them.
    /// One that begins later lost its manifest, and only that could say which containers are whose.
    pub(super) fn lacks_manifest(&self, names: &[Name], shard: u16) -> Option<StorageError> {
        if names.iter().any(|name| name.kind == Kind::Manifest) {
            return None;
        }
        let is_late = match self.files.first() {
            Some((LogFileFound::Readable(_), _)) => self.missing.is_some(),
            // Its first frame is not known, but the first file is.
            Some((LogFileFound::Unreadable(file), _)) => {
                file.number > FIRST_FILE && FaultKind::of(&file.error) == FaultKind::Damage
            }
            // Nothing is sealed before the log says whose it is.
            None => names.iter().any(|name| name.kind == Kind::Container),
        };
        is_late.then(|| {
            let error = DiskError {
                verb: Verb::Open,
                file: format!("manifest.{shard:02}.*"),
                kind: DiskErrorKind::NotFound,
            };
            error.into()
        })
    }
}

/// From the newest file with a frame back to the oldest needed: each names its predecessor and the last frame that
/// counts there. Files between were abandoned before anything in them was durable.
pub(super) fn follow_chain(
    files: Vec<LogFileFound>,
    bounds: LogBounds,
    found: &mut FoundLog,
) -> Chain {
    let mut chain = Vec::new();
    let mut wanted = Wanted::Newest;
    for file in files.into_iter().rev() {
        let taken = wanted.takes(&file, bounds);
        match (file, taken) {
            (file, Some(limit)) => {
                wanted = match &file {
                    LogFileFound::Readable(file) => {
                        Wanted::At(file.continues().unwrap_or_default())
                    }
                    LogFileFound::Unreadable(_) => Wanted::Next,
                };
                chain.push((file, limit));
            }
            (LogFileFound::Readable(file), None) => found.unused.push(file.name.to_string()),
            (LogFileFound::Unreadable(file), None) => found.unreadable.push(file),
        }
    }
    chain.reverse();
    let missing = match wanted {
        Wanted::At(position) if position.sequence > bounds.begin.sequence => Some(position),
        Wanted::Newest | Wanted::At(_) | Wanted::Next => None,
    };
    Chain {
        files: chain,
        missing,
    }
}
