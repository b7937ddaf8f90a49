//! `piggin restore`: the bucket as it was at an earlier time or token, or as a backup holds it, as a bucket of its own in
//! another directory.
//!
//! Invariant: what is restored from is read and not changed; the directory of the other is empty or missing before, and
//! holds a bucket only when all of it is on disk.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use futures_executor::block_on;
use serde::Serialize;

use piggin::{ChangesToken, Location, Moment};

use crate::backup::CopiedBucket;
use crate::failure::{CliError, Exit};
use crate::instant::Instant;
use crate::output::{self, Output};
use crate::progress::Progress;
use crate::session::{Missing, Session};
use crate::stopwatch::Stopwatch;

#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    /// The time, in UTC (2026-01-31T12:00:00Z, or @ and seconds since the Unix epoch), or a token of `changes`.
    #[arg(long, value_name = "TIME|TOKEN", required_unless_present = "from")]
    to: Option<Wanted>,
    /// The directory of a backup, of which all is restored; `--data` is not looked at.
    #[arg(long, value_name = "DIR", conflicts_with = "to")]
    from: Option<PathBuf>,
    /// The directory of the bucket that is made: empty, or not there yet.
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
}

/// Which moment.
#[derive(Clone, Debug)]
struct Wanted(Moment);

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        if let Ok(Instant(ms)) = text.parse() {
            return Ok(Wanted(Moment::TimeMs(ms)));
        }
        // A token is of hexadecimal digits only.
        if text.contains(['@', '-', ':', 'T']) {
            let refused: Result<Instant, String> = text.parse();
            return refused.map(|Instant(ms)| Wanted(Moment::TimeMs(ms)));
        }
        let token: ChangesToken = text.parse().map_err(|error| format!("{error}"))?;
        Ok(Wanted(Moment::Token(token)))
    }
}

#[derive(Debug, Serialize)]
struct RestoredBucket {
    directory: String,
    documents: u64,
    bytes: u64,
}

impl fmt::Display for RestoredBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let documents = output::counted(self.documents, "document");
        let bytes = output::bytes_in_words(self.bytes);
        write!(f, "restored {documents}, {bytes}, into {}", self.directory)
    }
}

pub(crate) fn run(
    session: &Session,
    arguments: &RestoreArguments,
    output: Output,
) -> Result<Exit, CliError> {
    let into = &arguments.into;
    refuse_unless_empty(into)?;
    match (&arguments.from, &arguments.to) {
        (Some(from), _) => of_backup(from, into, output),
        (None, Some(Wanted(moment))) => of_moment(session, moment, into, output),
        (None, None) => Err(CliError::mistake(
            "nothing to restore from",
            "say which moment with --to, or which backup with --from",
        )),
    }
}

fn of_backup(from: &Path, into: &Path, output: Output) -> Result<Exit, CliError> {
    let stopwatch = Stopwatch::start();
    let report = {
        let _progress = Progress::spinner("restoring");
        block_on(piggin::restore(from, into))
    };
    let report = report.map_err(|error| CliError::backup(from, into, &error))?;
    let seconds = stopwatch.elapsed().as_secs_f64();
    output.answer(&CopiedBucket::new(into, report, seconds))?;
    Ok(Exit::Done)
}

fn of_moment(
    session: &Session,
    moment: &Moment,
    into: &Path,
    output: Output,
) -> Result<Exit, CliError> {
    let restored = session.with_bucket(Missing::IsAMistake, async |bucket| {
        let past = bucket.as_of(moment.clone()).await;
        let past = past.map_err(|error| CliError::past(session.directory(), &error))?;
        let _progress = Progress::spinner("restoring");
        let place = Location::from(into);
        let restored = past.restore_into(&place);
        restored.map_err(|error| CliError::restored(session.directory(), into, &error))
    })?;
    output.answer(&RestoredBucket {
        directory: into.display().to_string(),
        documents: restored.documents,
        bytes: restored.bytes,
    })?;
    Ok(Exit::Done)
}

pub(crate) fn refuse_unless_empty(into: &Path) -> Result<(), CliError> {
    match std::fs::read_dir(into) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(CliError::mistake(
                format!("{} holds something", into.display()),
                "give an empty directory, or one that is not there yet, with --into",
            )),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(CliError::file(into, &error)),
    }
}
