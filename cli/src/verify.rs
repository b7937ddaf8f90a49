//! `piggin verify`: reads every byte that counts, offline, and names each fault with its file and offset.
//!
//! Invariant: it changes no document and marks nothing as closed in order: a bucket that was killed before is still
//! one that was killed after.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use piggin::RepairOptions;
use piggin::storage::disk::FileSystemDisk;
use piggin::storage::log_store::{FaultKind, VerifyReport};
use piggin::storage::{LogStore, OpenOptions, StorageError};

use crate::failure::{CliError, Exit};
use crate::output::{Output, counted};
use crate::progress::Progress;
use crate::repair;
use crate::session::Session;

#[derive(Debug, Default, Serialize)]
struct Verified {
    files: u64,
    records: u64,
    faults: Vec<Fault>,
}

#[derive(Debug, Serialize)]
struct Fault {
    file: String,
    offset: u64,
    what: String,
    kind: &'static str,
    /// Those that lack something by it.
    vbuckets: Vec<u16>,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verified {
            files,
            records,
            faults,
        } = self;
        for Fault {
            file,
            offset,
            what,
            vbuckets,
            ..
        } in faults
        {
            write!(f, "{file} at offset {offset}: {what}")?;
            let names: Vec<String> = vbuckets.iter().map(u16::to_string).collect();
            match names.as_slice() {
                [] => writeln!(f)?,
                [one] => writeln!(f, " (vbucket {one})")?,
                many => writeln!(f, " (vbuckets {})", many.join(", "))?,
            }
        }
        let (files, records) = (counted(*files, "file"), counted(*records, "record"));
        let faults = match faults.len() {
            0 => "no faults".to_owned(),
            count => counted(count as u64, "fault"),
        };
        write!(f, "{files}, {records}, {faults}")
    }
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// Set damaged vbuckets aside, so that the bucket serves again: what can be read of them is saved, and they are empty then.
    #[arg(long, requires = "into")]
    repair: bool,
    /// Where to: a directory that is empty or not there yet.
    #[arg(long, value_name = "DIR", requires = "repair")]
    into: Option<PathBuf>,
    /// Give up what was in files that are missing; without it nothing is done where one is.
    #[arg(long, requires = "repair")]
    missing_is_lost: bool,
}

pub(crate) fn run(
    session: &Session,
    arguments: &VerifyArguments,
    output: Output,
) -> Result<Exit, CliError> {
    if let Some(into) = &arguments.into {
        let options = RepairOptions {
            missing_is_lost: arguments.missing_is_lost,
        };
        return repair::run(session, into, options, output);
    }
    let directory = session.directory();
    if !directory.exists() {
        return Err(CliError::no_bucket(directory));
    }
    let verified = {
        let _progress = Progress::spinner("verifying");
        verify(session).map_err(|error| CliError::storage(directory, &error))?
    };
    output.answer(&verified)?;
    if verified.faults.is_empty() {
        return Ok(Exit::Done);
    }
    let is_damage = |fault: &Fault| fault.kind == name_of(FaultKind::Damage);
    if !verified.faults.iter().all(is_damage) {
        return Err(CliError::failure(
            format!(
                "of the bucket in {} not everything can be read",
                directory.display()
            ),
            "see that every file is there and may be read, and that the disk is sound; then run it again",
        ));
    }
    Err(CliError::failure(
        format!("the bucket in {} is damaged", directory.display()),
        "restore the directory from a copy, or have damaged vbuckets set aside with --repair; those that are whole can still be read",
    ))
}

/// The report; an opening that fails because of damage is a report of that.
fn verify(session: &Session) -> Result<Verified, StorageError> {
    let disk = FileSystemDisk::new(session.directory())?;
    let opened = LogStore::open(Arc::new(disk), OpenOptions::new(entropy()));
    match opened {
        // Not closed: closing would mark a bucket that was killed as one that was shut down.
        Ok(store) => Ok(store.verify().into()),
        Err(StorageError::Corruption { file, offset, what }) => Ok(Verified {
            faults: vec![Fault {
                file,
                offset,
                what,
                kind: name_of(FaultKind::Damage),
                vbuckets: Vec::new(),
            }],
            ..Verified::default()
        }),
        Err(error) => Err(error),
    }
}

fn name_of(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Damage => "damage",
        FaultKind::Missing => "missing",
        FaultKind::Unreadable => "unreadable",
    }
}

/// A number of the system's randomness, for this opening only.
fn entropy() -> u64 {
    RandomState::new().hash_one(())
}

impl From<VerifyReport> for Verified {
    fn from(report: VerifyReport) -> Verified {
        let faults = report.faults.into_iter().map(|fault| Fault {
            file: fault.file,
            offset: fault.offset,
            what: fault.what,
            kind: name_of(fault.kind),
            vbuckets: fault.vbuckets.iter().map(|vbucket| vbucket.get()).collect(),
        });
        Verified {
            files: report.files,
            records: report.records,
            faults: faults.collect(),
        }
    }
}
