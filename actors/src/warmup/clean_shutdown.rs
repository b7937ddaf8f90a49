//! The mark of a clean shutdown: a file in the store's directory, written last and cleared first.
//!
//! It names the position of every vbucket at the moment it was written, and counts for a vbucket only while the
//! store still holds it at exactly that position; so a mark that survived what it should not have (a restored copy,
//! another program's writes) calls nothing clean. Invariant: it has its name only when it is durable, and it is
//! durably gone before anything may change (MB-45756).

use std::collections::BTreeMap;
use std::fmt::Write;

use storage::disk::{Disk, DiskErrorKind, OpenMode};
use storage::{StorageError, VbucketId, VbucketPosition, VbucketStatus};

const FILE: &str = "piggin.clean";
const TEMPORARY: &str = "piggin.clean.new";
const TITLE: &str = "piggin clean shutdown 1";
const END: &str = "end";

/// Longest mark that is read: a line for each of the most vbuckets there can be.
const BYTES_MAX: u64 = 128 * 1024;

/// Which vbuckets were shut down in order, and where they stood then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanMark {
    positions: BTreeMap<VbucketId, VbucketPosition>,
}

impl CleanMark {
    /// The mark in the directory; without one, or with one that cannot be read, nothing is clean.
    #[must_use]
    pub fn read(disk: &dyn Disk) -> CleanMark {
        match try_read(disk) {
            Ok(Some(text)) => parse(&text).unwrap_or_default(),
            Ok(None) => CleanMark::default(),
            Err(cause) => {
                tracing::warn!(%cause, "the mark of a clean shutdown cannot be read");
                CleanMark::default()
            }
        }
    }

    /// Whether the vbucket was shut down in order at this position.
    #[must_use]
    pub fn is_clean(&self, vbucket: VbucketId, position: &VbucketPosition) -> bool {
        self.positions.get(&vbucket) == Some(position)
    }

    /// Clears the mark, durably, whether or not there seems to be one: what is not seen may be on the disk still.
    pub fn clear(disk: &dyn Disk) -> Result<(), StorageError> {
        remove_if_there(disk, FILE)?;
        remove_if_there(disk, TEMPORARY)?;
        Ok(disk.sync_directory()?)
    }

    /// Writes the mark. To be called last, when nothing can change any more.
    pub fn write(disk: &dyn Disk, vbuckets: &[VbucketStatus]) -> Result<(), StorageError> {
        let mut text = format!("{TITLE}\n");
        for status in vbuckets {
            let Ok(position) = &status.position else {
                continue;
            };
            let VbucketPosition {
                incarnation,
                epoch,
                high_seqno,
            } = position;
            let line = writeln!(
                text,
                "{} {} {} {high_seqno}",
                status.vbucket, incarnation.0, epoch.0
            );
            // Writing to a string does not fail.
            debug_assert!(line.is_ok());
        }
        text.push_str(END);
        text.push('\n');
        remove_if_there(disk, TEMPORARY)?;
        let file = disk.open(TEMPORARY, OpenMode::CreateNew)?;
        file.append(text.as_bytes())?;
        file.sync()?;
        disk.rename(TEMPORARY, FILE)?;
        Ok(disk.sync_directory()?)
    }
}

fn remove_if_there(disk: &dyn Disk, name: &str) -> Result<(), StorageError> {
    match disk.remove(name) {
        Ok(()) => Ok(()),
        Err(error) if error.kind == DiskErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn try_read(disk: &dyn Disk) -> Result<Option<String>, StorageError> {
    let file = match disk.open(FILE, OpenMode::ReadOnly) {
        Ok(file) => file,
        Err(error) if error.kind == DiskErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let length = usize::try_from(file.length()?.min(BYTES_MAX)).unwrap_or(0);
    let mut bytes = vec![0; length];
    file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8(bytes).ok())
}

fn parse(text: &str) -> Option<CleanMark> {
    let mut lines = text.lines();
    if lines.next() != Some(TITLE) {
        return None;
    }
    let mut positions = BTreeMap::new();
    loop {
        let line = lines.next()?;
        if line == END {
            return Some(CleanMark { positions });
        }
        let mut fields = line.split(' ');
        let vbucket = VbucketId::new(fields.next()?.parse().ok()?)?;
        let position = VbucketPosition {
            incarnation: storage::Incarnation(fields.next()?.parse().ok()?),
            epoch: storage::RollbackEpoch(fields.next()?.parse().ok()?),
            high_seqno: storage::Seqno(fields.next()?.parse().ok()?),
        };
        if fields.next().is_some() || positions.insert(vbucket, position).is_some() {
            return None;
        }
    }
}
