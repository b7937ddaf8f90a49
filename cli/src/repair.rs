//! `piggin verify --repair --into DIR`: sets damaged vbuckets aside by name, and saves what can be read of them.
//!
//! Invariant: DIR is empty or missing before, and is made only when there is something to save; nothing of the bucket is
//! changed before all that was saved is on disk. Whatever was set aside is told, and the exit code is not 0.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use piggin::storage::log_store::Fault;
use piggin::storage::{SeqnoRange, VbucketId, VbucketState};
use piggin::{Change, KeepsSalvage, RepairError, RepairReport, SetAside, repair};

use crate::changes::Lines;
use crate::failure::{CliError, Exit};
use crate::output::{Output, counted};
use crate::progress::Progress;
use crate::restore::refuse_unless_empty;
use crate::session::Session;

/// Files of lines, one of each vbucket.
struct SalvageFiles {
    directory: PathBuf,
    current: Option<(VbucketId, Lines<File>)>,
}

impl SalvageFiles {
    fn close_current(&mut self) -> io::Result<()> {
        match self.current.take() {
            Some((_, lines)) => lines.into_inner()?.sync_all(),
            None => Ok(()),
        }
    }

    fn open(&self, vbucket: VbucketId) -> io::Result<Lines<File>> {
        std::fs::create_dir_all(&self.directory)?;
        let mut options = File::options();
        options.write(true).create_new(true);
        #[expect(
            clippy::disallowed_methods,
            reason = "a file of the user, not of the store"
        )]
        let opened = options.open(path_of(&self.directory, vbucket));
        Ok(Lines::new(opened?, false))
    }
}

impl KeepsSalvage for SalvageFiles {
    fn keep(&mut self, change: Change) -> io::Result<()> {
        let vbucket = change.vbucket;
        if self.current.as_ref().is_none_or(|(of, _)| *of != vbucket) {
            self.close_current()?;
            self.current = Some((vbucket, self.open(vbucket)?));
        }
        match &mut self.current {
            Some((_, lines)) => lines.change(&change),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.close_current()?;
        if !self.directory.exists() {
            // Nothing could be read.
            return Ok(());
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a directory of the user, not of the store"
        )]
        let directory = File::open(&self.directory)?;
        directory.sync_all()
    }
}

fn path_of(directory: &Path, vbucket: VbucketId) -> PathBuf {
    directory.join(format!("vbucket-{vbucket}.ndjson"))
}

#[derive(Debug, Serialize)]
struct Repaired {
    set_aside: Vec<Aside>,
    others: Vec<String>,
}

/// A vbucket that was set aside.
#[derive(Debug, Serialize)]
struct Aside {
    vbucket: u16,
    state: &'static str,
    versions: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    newest: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    known_high: Option<u64>,
    /// First and last seqno of what is lost, as far as that is known.
    lost: Vec<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    faults: Vec<String>,
}

impl Aside {
    fn new(one: &SetAside, into: &Path) -> Aside {
        let salvaged = &one.salvaged;
        let seqnos = |range: &SeqnoRange| (range.first.0, range.last.0);
        let file = path_of(into, one.vbucket).display().to_string();
        Aside {
            vbucket: one.vbucket.get(),
            state: name_of(one.state),
            versions: salvaged.versions,
            newest: salvaged.newest.map(|seqno| seqno.0),
            known_high: salvaged.known_high.map(|seqno| seqno.0),
            lost: salvaged.lost.iter().map(seqnos).collect(),
            file: (salvaged.versions > 0).then_some(file),
            faults: one.faults.iter().map(in_words).collect(),
        }
    }
}

fn name_of(state: VbucketState) -> &'static str {
    match state {
        VbucketState::Active => "active",
        VbucketState::Replica => "replica",
        VbucketState::Pending => "pending",
        VbucketState::Dead => "dead",
    }
}

fn in_words(fault: &Fault) -> String {
    format!("{} at offset {}: {}", fault.file, fault.offset, fault.what)
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.set_aside {
            for fault in &one.faults {
                writeln!(f, "{fault}")?;
            }
            let saved = counted(one.versions, "version");
            write!(f, "vbucket {} set aside: {saved} saved", one.vbucket)?;
            if let (Some(newest), Some(file)) = (one.newest, &one.file) {
                write!(f, ", up to seqno {newest}, in {file}")?;
            }
            if let Some(high) = one.known_high {
                write!(f, "; it had come to seqno {high}")?;
            }
            for (first, last) in &one.lost {
                write!(f, "; lost of seqnos {first} to {last} what was there")?;
            }
            writeln!(f, "; it is {} and empty now", one.state)?;
        }
        for fault in &self.others {
            writeln!(f, "{fault}: nothing needs it, and it is gone now")?;
        }
        match self.set_aside.len() {
            0 => f.write_str("no vbucket is damaged"),
            count => write!(f, "{} set aside", counted(count as u64, "vbucket")),
        }
    }
}

pub(crate) fn run(session: &Session, into: &Path, output: Output) -> Result<Exit, CliError> {
    let directory = session.directory();
    if !directory.exists() {
        return Err(CliError::no_bucket(directory));
    }
    refuse_unless_empty(into)?;
    let mut files = SalvageFiles {
        directory: into.to_owned(),
        current: None,
    };
    let repaired = {
        let _progress = Progress::spinner("repairing");
        repair(directory, &mut files)
    };
    let RepairReport { set_aside, others } = repaired.map_err(|error| told(directory, &error))?;
    let repaired = Repaired {
        set_aside: set_aside.iter().map(|one| Aside::new(one, into)).collect(),
        others: others.iter().map(in_words).collect(),
    };
    output.answer(&repaired)?;
    if repaired.set_aside.is_empty() {
        return Ok(Exit::Done);
    }
    Err(CliError::failure(
        format!("the bucket in {} was damaged", directory.display()),
        format!(
            "it can be used again; what could be read is in {}: look it over, and write again what is wanted of it",
            into.display()
        ),
    ))
}

fn told(directory: &Path, error: &RepairError) -> CliError {
    if let RepairError::Store(error) = error {
        return CliError::storage(directory, error);
    }
    CliError::told(error)
}
