//! `piggin backup`: copies the bucket into a directory of its own.
//!
//! Invariant: exits with 0 only when the copy is durable, was compared with what was read, and was checked whole; otherwise the
//! directory holds nothing that opens as a bucket.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use piggin::BackupReport;

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
        let report = report.map_err(|error| CliError::backup(session.directory(), into, &error))?;
        let seconds = stopwatch.elapsed().as_secs_f64();
        Ok(CopiedBucket::new(into, report, seconds))
    })?;
    output.answer(&copied)?;
    Ok(Exit::Done)
}
