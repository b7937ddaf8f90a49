//! `piggin backup`: copies the bucket into a directory of its own.
//!
//! Invariant: exits with 0 only when the copy is durable, was compared with what was read, and was checked whole; otherwise the
//! directory holds nothing that opens as a bucket.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use piggin::storage::disk::DiskErrorKind;
use piggin::storage::{CopyError, StorageError};
use piggin::{BackupError, BackupReport};

use crate::failure::{CliError, Exit};
use crate::output::{Output, bytes_in_words, counted};
use crate::progress::Progress;
use crate::session::{Missing, Session};
use crate::stopwatch::Stopwatch;

#[derive(Debug, Args)]
pub(crate) struct BackupArguments {
    /// Where to: a directory that is empty or not there yet.
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
}

/// What was copied where.
#[derive(Debug, Serialize)]
pub(crate) struct CopiedBucket {
    directory: String,
    vbuckets: u16,
    items: u64,
    bytes: u64,
    seconds: f64,
}

impl CopiedBucket {
    pub(crate) fn new(into: &Path, report: BackupReport, seconds: f64) -> CopiedBucket {
        CopiedBucket {
            directory: into.display().to_string(),
            vbuckets: report.vbuckets,
            items: report.items,
            bytes: report.bytes,
            seconds,
        }
    }
}

impl fmt::Display for CopiedBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CopiedBucket {
            directory,
            vbuckets,
            items,
            bytes,
            seconds,
        } = self;
        let vbuckets = counted(u64::from(*vbuckets), "vbucket");
        let (items, bytes) = (counted(*items, "item"), bytes_in_words(*bytes));
        write!(
            f,
            "{vbuckets}, {items}, {bytes} in {seconds:.2} s, compared and on disk: {directory}"
        )
    }
}

pub(crate) fn run(
    session: &Session,
    arguments: &BackupArguments,
    output: Output,
) -> Result<Exit, CliError> {
    let into = &arguments.into;
    let copied = session.with_bucket(Missing::IsAMistake, async |bucket| {
        let _progress = Progress::spinner("copying");
        let stopwatch = Stopwatch::start();
        let report = bucket.backup(into).await;
        let report = report.map_err(|error| failed(session.directory(), into, &error))?;
        let seconds = stopwatch.elapsed().as_secs_f64();
        Ok(CopiedBucket::new(into, report, seconds))
    })?;
    output.answer(&copied)?;
    Ok(Exit::Done)
}

/// Why the bucket in `from` was not copied to `into`.
pub(crate) fn failed(from: &Path, into: &Path, error: &BackupError) -> CliError {
    match error {
        BackupError::Flush(error) => CliError::operation(from, error),
        BackupError::Source(error) => CliError::storage(from, error),
        BackupError::Target(error) => occupied(into, error),
        BackupError::Copy(CopyError::Target { cause, .. }) if is_full(cause) => CliError::failure(
            error.to_string(),
            "make room there, empty the directory, and run it again",
        ),
        error => CliError::failure(
            error.to_string(),
            "`piggin verify` says what is damaged; what was copied so far is not to be used",
        ),
    }
}

/// A place for a copy that cannot be taken.
fn occupied(into: &Path, error: &StorageError) -> CliError {
    match error {
        StorageError::StoreExists | StorageError::ForeignDirectory(_) => CliError::mistake(
            format!("{} is not empty", into.display()),
            "give a directory that is empty or not there yet",
        ),
        error => CliError::storage(into, error),
    }
}

fn is_full(error: &StorageError) -> bool {
    matches!(error, StorageError::Disk(disk) if disk.kind == DiskErrorKind::Full)
}
