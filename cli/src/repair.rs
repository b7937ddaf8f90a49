//! `piggin verify --repair --into DIR`: sets damaged vbuckets aside by name, and saves what can be read of them.
//!
//! Invariant: DIR is empty or missing before, and is made only when something is set aside; nothing of the bucket is changed
//! before all that was saved, and the report of it, is on disk. Whatever may be empty by now is told, also where the repair
//! fails behind it, and the exit code is not 0.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use piggin::storage::log_store::Fault;
use piggin::storage::{Seqno, SeqnoRange, VbucketId, VbucketState};
use piggin::{Change, KeepsSalvage, RepairError, RepairOptions, RepairReport, SetAside, repair};

use crate::changes::Lines;
use crate::failure::{CliError, Exit};
use crate::output::{Output, counted};
use crate::progress::Progress;
use crate::restore::refuse_unless_empty;
use crate::session::Session;

/// The file with what is set aside, as `--json` tells it.
const REPORT: &str = "report.json";

/// Files of lines, one of each vbucket, and a report.
struct SalvageFiles {
    directory: PathBuf,
    /// Directories made for it.
    made: Vec<PathBuf>,
    current: Option<(VbucketId, Lines<File>)>,
}

impl SalvageFiles {
    fn close_current(&mut self) -> io::Result<()> {
        match self.current.take() {
            Some((_, lines)) => lines.into_inner()?.sync_all(),
            None => Ok(()),
        }
    }

    fn open(&mut self, path: &Path) -> io::Result<File> {
        self.make_directory()?;
        let mut options = File::options();
        options.write(true).create_new(true);
        #[expect(
            clippy::disallowed_methods,
            reason = "a file of the user, not of the store"
        )]
        options.open(path)
    }

    fn make_directory(&mut self) -> io::Result<()> {
        self.made.extend(missing_parts(&self.directory));
        std::fs::create_dir_all(&self.directory)
    }

    /// The names of the files, and of every directory made for them.
    fn sync_names(&self) -> io::Result<()> {
        sync_directory(&self.directory)?;
        self.made.iter().try_for_each(|made| {
            let above = made.parent().filter(|above| !above.as_os_str().is_empty());
            sync_directory(above.unwrap_or(Path::new(".")))
        })
    }
}

/// The directories that are not there yet, the innermost first.
fn missing_parts(directory: &Path) -> Vec<PathBuf> {
    let parts = directory.ancestors();
    let missing = parts.take_while(|part| !part.as_os_str().is_empty() && !part.exists());
    missing.map(Path::to_owned).collect()
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a directory of the user, not of the store"
    )]
    File::open(directory)?.sync_all()
}

impl KeepsSalvage for SalvageFiles {
    fn keep(&mut self, change: Change) -> io::Result<()> {
        let vbucket = change.vbucket;
        if self.current.as_ref().is_none_or(|(of, _)| *of != vbucket) {
            self.close_current()?;
            let file = self.open(&path_of(&self.directory, vbucket))?;
            self.current = Some((vbucket, Lines::new(file, false)));
        }
        match &mut self.current {
            Some((_, lines)) => lines.change(&change),
            None => Ok(()),
        }
    }

    fn finish(&mut self, report: &RepairReport) -> io::Result<()> {
        self.close_current()?;
        if report.set_aside.is_empty() {
            return Ok(());
        }
        let mut file = self.open(&self.directory.join(REPORT))?;
        let told = Repaired::new(report, &self.directory);
        serde_json::to_writer(&mut file, &told)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        self.sync_names()
    }
}

fn path_of(directory: &Path, vbucket: VbucketId) -> PathBuf {
    directory.join(format!("vbucket-{vbucket}.ndjson"))
}

#[derive(Debug, Serialize)]
struct Repaired {
    set_aside: Vec<Aside>,
    others: Vec<String>,
    /// Whether it came to its end; if not, they may be empty by now.
    #[serde(skip)]
    is_done: bool,
}

impl Repaired {
    fn new(report: &RepairReport, into: &Path) -> Repaired {
        let set_aside = report.set_aside.iter();
        Repaired {
            set_aside: set_aside.map(|one| Aside::new(one, into)).collect(),
            others: report.others.iter().map(in_words).collect(),
            is_done: true,
        }
    }
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
    /// First and last seqno of what is lost, as far as that is known; no last one where nobody knows how far it had come.
    lost: Vec<(u64, Option<u64>)>,
    /// What the log lost is not known.
    log_is_damaged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    faults: Vec<String>,
}

impl Aside {
    fn new(one: &SetAside, into: &Path) -> Aside {
        let salvaged = &one.salvaged;
        let seqnos = |range: &SeqnoRange| {
            let last = (range.last < Seqno::MAX).then_some(range.last.0);
            (range.first.0, last)
        };
        let file = path_of(into, one.vbucket).display().to_string();
        Aside {
            vbucket: one.vbucket.get(),
            state: name_of(one.state),
            versions: salvaged.versions,
            newest: salvaged.newest.map(|seqno| seqno.0),
            known_high: salvaged.known_high.map(|seqno| seqno.0),
            lost: salvaged.lost.iter().map(seqnos).collect(),
            log_is_damaged: one.faults.iter().any(Fault::is_of_log),
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
                write!(f, "; it is known to have come to seqno {high}")?;
            }
            for (first, last) in &one.lost {
                match last {
                    Some(last) => write!(f, "; lost of seqnos {first} to {last} what was there")?,
                    None => write!(f, "; lost from seqno {first} on what was there")?,
                }
            }
            if one.log_is_damaged {
                f.write_str("; what the damaged part of the log held is not known")?;
            }
            if self.is_done {
                writeln!(f, "; it is {} and empty now", one.state)?;
            } else {
                f.write_str("; it may be empty by now\n")?;
            }
        }
        for fault in &self.others {
            writeln!(f, "{fault}: no vbucket needs it")?;
        }
        match self.set_aside.len() {
            0 => f.write_str("no vbucket is damaged"),
            count if !self.is_done => {
                write!(f, "{} to be set aside", counted(count as u64, "vbucket"))
            }
            count => write!(f, "{} set aside", counted(count as u64, "vbucket")),
        }
    }
}

pub(crate) fn run(
    session: &Session,
    into: &Path,
    options: RepairOptions,
    output: Output,
) -> Result<Exit, CliError> {
    let directory = session.directory();
    if !directory.exists() {
        return Err(CliError::no_bucket(directory));
    }
    refuse_unless_empty(into)?;
    let mut files = SalvageFiles {
        directory: into.to_owned(),
        made: Vec::new(),
        current: None,
    };
    let repaired = {
        let _progress = Progress::spinner("repairing");
        repair(directory, options, &mut files)
    };
    let report = match repaired {
        Ok(report) => report,
        Err(error) => {
            if let Some(report) = error.report() {
                let mut repaired = Repaired::new(report, into);
                repaired.is_done = !matches!(error, RepairError::CutOff { .. });
                output.answer(&repaired)?;
            }
            return Err(told(directory, &error));
        }
    };
    output.answer(&Repaired::new(&report, into))?;
    if report.set_aside.is_empty() {
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
    if let RepairError::Missing { .. } = error {
        return CliError::failure(
            error.to_string(),
            "what is lost is given up with --missing-is-lost, and only that",
        );
    }
    // Their own text says what to do.
    CliError::told(error)
}

#[cfg(test)]
mod tests {
    use piggin::storage::Salvaged;
    use piggin::storage::log_store::FaultKind;

    use super::*;

    #[test]
    fn the_name_of_every_directory_that_is_made_is_synced() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("a").join("b");
        let expected = [directory.clone(), place.path().join("a")];
        assert_eq!(missing_parts(&directory), expected);
        let mut files = SalvageFiles {
            directory: directory.clone(),
            made: Vec::new(),
            current: None,
        };
        files.make_directory().unwrap();
        files.make_directory().unwrap();
        assert_eq!(files.made, expected);
        assert_eq!(missing_parts(&directory), [] as [PathBuf; 0]);
        files.sync_names().unwrap();
        let relative = Path::new("surely not there").join("deeper");
        assert_eq!(missing_parts(&relative).len(), 2);
    }

    fn report(faults: Vec<Fault>) -> RepairReport {
        let salvaged = Salvaged {
            versions: 3,
            newest: Some(Seqno(12)),
            known_high: Some(Seqno(14)),
            ..Salvaged::default()
        };
        RepairReport {
            set_aside: vec![SetAside {
                vbucket: VbucketId::FIRST,
                faults,
                salvaged,
                state: VbucketState::Active,
            }],
            others: Vec::new(),
        }
    }

    fn fault(file: &str) -> Fault {
        Fault {
            file: file.to_owned(),
            offset: 64,
            what: "it is damaged".to_owned(),
            kind: FaultKind::Damage,
            vbuckets: vec![VbucketId::FIRST],
        }
    }

    /// Nothing is left that says how far it had come.
    #[test]
    fn what_is_lost_to_an_end_nobody_knows_is_said() {
        let (first, last) = (Seqno(1), Seqno::MAX);
        let mut report = report(vec![fault("manifest.00.0000000001")]);
        report.set_aside[0].salvaged.lost = vec![SeqnoRange { first, last }];
        let repaired = Repaired::new(&report, Path::new("saved"));
        let told = repaired.to_string();
        assert!(
            told.contains("; lost from seqno 1 on what was there;"),
            "{told}"
        );
        let json = serde_json::to_value(&repaired).unwrap();
        assert_eq!(json["set_aside"][0]["lost"], serde_json::json!([[1, null]]));
    }

    /// Of damage in the log nobody knows what was lost, and of a repair that was cut off what is empty.
    #[test]
    fn what_is_not_known_is_said() {
        let told = |file: &str, is_done| {
            let report = report(vec![fault(file)]);
            let repaired = Repaired {
                is_done,
                ..Repaired::new(&report, Path::new("saved"))
            };
            repaired.to_string()
        };
        let unknown = "what the damaged part of the log held is not known";
        let of_log = told("log.00.0000000001", true);
        assert!(of_log.contains(unknown), "{of_log}");
        assert!(of_log.contains("it is active and empty now"), "{of_log}");
        let of_segment = told("container.00.0000000001", false);
        assert!(!of_segment.contains(unknown), "{of_segment}");
        assert!(
            of_segment.contains("it may be empty by now"),
            "{of_segment}"
        );
        assert!(
            of_segment.ends_with("1 vbucket to be set aside"),
            "{of_segment}"
        );
    }
}
