//! How a command ends: an exit code, or an error that says the fact and the remedy.
//!
//! Invariant: the exit code of an error of the engine is decided here and nowhere else: what the caller can put right
//! by asking differently is [`Exit::Mistake`], everything else is [`Exit::Failure`].
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not named is a failure; errors of the system and of the engine will be added to"
)]

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use piggin::messages::{Busy, DownCause, FailureCause, OperationError};
use piggin::storage::disk::{DiskError, DiskErrorKind};
use piggin::storage::{Advice, CopyError, StorageError};
use piggin::{BackupError, BucketError, PastError};

/// What the shell sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// The caller's mistake.
    Mistake,
    /// A failure, or corruption found.
    Failure,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Mistake => 1,
            Exit::Failure => 2,
        })
    }
}

/// Why a command was not done.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) exit: Exit,
    /// Whether the disk takes no more, so that an orderly shutdown would wait for it in vain.
    pub(crate) is_disk_stuck: bool,
    fact: String,
    remedy: Option<String>,
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fact)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  {remedy}"),
            None => Ok(()),
        }
    }
}

impl CliError {
    pub(crate) fn mistake(fact: impl Into<String>, remedy: impl Into<String>) -> CliError {
        CliError {
            exit: Exit::Mistake,
            is_disk_stuck: false,
            fact: fact.into(),
            remedy: Some(remedy.into()),
        }
    }

    pub(crate) fn failure(fact: impl Into<String>, remedy: impl Into<String>) -> CliError {
        CliError {
            exit: Exit::Failure,
            ..CliError::mistake(fact, remedy)
        }
    }

    /// A failure whose own text says what to do.
    pub(crate) fn told(error: &impl fmt::Display) -> CliError {
        CliError {
            exit: Exit::Failure,
            is_disk_stuck: false,
            fact: error.to_string(),
            remedy: None,
        }
    }

    /// A file the caller named could not be used.
    pub(crate) fn file(path: &Path, error: &io::Error) -> CliError {
        let fact = format!("{}: {error}", path.display());
        match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::ReadOnlyFilesystem => {
                CliError::mistake(fact, "give another file, or make this one usable")
            }
            _ => CliError::failure(
                fact,
                "see that the disk is sound and has room, then run it again",
            ),
        }
    }

    /// The bucket in `directory` could not be made, opened or closed.
    pub(crate) fn bucket(directory: &Path, error: &BucketError) -> CliError {
        let place = directory.display();
        match error {
            BucketError::Storage(error) => CliError::storage(directory, error),
            BucketError::Operation(error) => CliError::operation(directory, error),
            // Their own text says what to do.
            BucketError::OtherOptions { .. }
            | BucketError::OtherEviction { .. }
            | BucketError::Setting { .. } => CliError {
                exit: Exit::Mistake,
                is_disk_stuck: false,
                fact: error.to_string(),
                remedy: None,
            },
            _ => CliError::failure(
                format!("the bucket in {place}: {error}"),
                advice_in_words(error.advice(), directory),
            ),
        }
    }

    /// The bucket in `from` was not copied to `into`.
    pub(crate) fn backup(from: &Path, into: &Path, error: &BackupError) -> CliError {
        match error {
            BackupError::Flush(error) => CliError::operation(from, error),
            BackupError::Source(error) => CliError::storage(from, error),
            BackupError::Target(StorageError::StoreExists | StorageError::ForeignDirectory(_)) => {
                CliError::mistake(
                    format!("{} is not empty", into.display()),
                    "give a directory that is empty or not there yet",
                )
            }
            BackupError::Target(error) => CliError::storage(into, error),
            BackupError::Copy(CopyError::Target { .. }) => CliError::failure(
                format!("{}: {error}", into.display()),
                "see that the disk there is sound and has room, empty the directory, and run it again",
            ),
            BackupError::Copy(CopyError::Source { .. }) | BackupError::Down { .. } => {
                let place = from.display();
                CliError::failure(
                    format!("the bucket in {place}: {error}"),
                    format!(
                        "see what is damaged: piggin verify --data {place}; what was copied so far is not to be used"
                    ),
                )
            }
            error => CliError::failure(
                error.to_string(),
                "`piggin verify` says what is damaged; what was copied so far is not to be used",
            ),
        }
    }

    /// The store in `directory` could not be used.
    pub(crate) fn storage(directory: &Path, error: &StorageError) -> CliError {
        let place = directory.display();
        match error {
            StorageError::NoStore => CliError::no_bucket(directory),
            StorageError::StoreExists => CliError::mistake(
                format!("there is a bucket in {place} already"),
                "use it as it is, or give another directory with --data",
            ),
            StorageError::ForeignDirectory(_) => CliError::mistake(
                format!("{place}: {error}"),
                "give an empty directory, or a bucket's, with --data",
            ),
            StorageError::Setting(what) => {
                CliError::mistake(what.clone(), "run it again with such a value")
            }
            StorageError::FormatVersion { .. } => CliError::mistake(
                format!("{place}: {error}"),
                "use the version of piggin that wrote it",
            ),
            StorageError::Disk(error) => CliError::disk(directory, error),
            _ => CliError::failure(
                format!("the bucket in {place}: {error}"),
                advice_in_words(error.advice(), directory),
            ),
        }
    }

    /// Nothing reaches the disk any more.
    pub(crate) fn stuck(directory: &Path, cause: &FailureCause) -> CliError {
        let error = match cause {
            FailureCause::Storage(error) => CliError::storage(directory, error),
            _ => CliError::failure(
                format!(
                    "the bucket in {} writes no more: {cause}",
                    directory.display()
                ),
                "run it again; what was acknowledged is safe",
            ),
        };
        CliError {
            exit: Exit::Failure,
            is_disk_stuck: true,
            ..error
        }
    }

    /// There is nothing to open.
    pub(crate) fn no_bucket(directory: &Path) -> CliError {
        let place = directory.display();
        CliError::mistake(
            format!("there is no bucket in {place}"),
            format!("give its directory with --data, or make one: piggin create --data {place}"),
        )
    }

    fn disk(directory: &Path, error: &DiskError) -> CliError {
        let place = directory.display();
        match error.kind {
            DiskErrorKind::Locked => CliError::mistake(
                format!("the bucket in {place} is in use by another process"),
                "wait until that one has ended, or give another directory with --data",
            ),
            DiskErrorKind::NotFound => CliError::mistake(
                format!("{place}: {error}"),
                "make the directory above it, or give another one with --data",
            ),
            DiskErrorKind::NotADirectory
            | DiskErrorKind::PermissionDenied
            | DiskErrorKind::ReadOnly => CliError::mistake(
                format!("{place}: {error}"),
                "give a directory you may write to with --data",
            ),
            DiskErrorKind::Full => CliError::failure(
                format!("{place}: {error}"),
                "make room on the disk; what was acknowledged is safe",
            ),
            _ => CliError::failure(
                format!("{place}: {error}"),
                "see that the disk is sound, then run it again",
            ),
        }
    }

    /// What the bucket was could not be read, or written down.
    pub(crate) fn past(directory: &Path, error: &PastError) -> CliError {
        match error {
            PastError::Storage(error) if error.advice() != Advice::FixRequest => {
                CliError::storage(directory, error)
            }
            PastError::Bucket(error) => CliError::operation(directory, error),
            // Their own text says what to do.
            _ => CliError {
                exit: if error.advice() == Advice::FixRequest {
                    Exit::Mistake
                } else {
                    Exit::Failure
                },
                is_disk_stuck: false,
                fact: error.to_string(),
                remedy: None,
            },
        }
    }

    /// What the bucket in `from` was is not written down in `into`.
    pub(crate) fn restored(from: &Path, into: &Path, error: &PastError) -> CliError {
        match error {
            PastError::Copy(error) => CliError::backup(from, into, error),
            error => CliError::past(from, error),
        }
    }

    /// A request the bucket did not do.
    pub(crate) fn operation(directory: &Path, error: &OperationError) -> CliError {
        CliError {
            exit: exit_of(error),
            is_disk_stuck: matches!(error, OperationError::TemporaryFailure(Busy::DiskFull)),
            fact: error.to_string(),
            remedy: remedy_of(directory, error),
        }
    }
}

/// Whose fault a refused request is.
pub(crate) fn exit_of(error: &OperationError) -> Exit {
    match error {
        // The command line cannot ask for a vbucket or change its state.
        OperationError::UnknownVbucket(_) | OperationError::NotMyVbucket { .. } => Exit::Failure,
        _ if error.advice() == Advice::FixRequest => Exit::Mistake,
        _ => Exit::Failure,
    }
}

/// What to do about a refused request, where its own text does not say it.
fn remedy_of(directory: &Path, error: &OperationError) -> Option<String> {
    let remedy = match error {
        OperationError::KeyNotFound => "give a key that was written to this bucket".to_owned(),
        OperationError::TemporaryFailure(Busy::Memory) => {
            "give the bucket more memory with --memory".to_owned()
        }
        OperationError::TemporaryFailure(Busy::DiskFull) => {
            "make room on the disk; what was acknowledged is safe, and can be read".to_owned()
        }
        OperationError::VbucketDown {
            cause: DownCause::Storage(error),
            ..
        } => advice_in_words(error.advice(), directory),
        OperationError::ValueTooLarge { .. } => "store it in pieces".to_owned(),
        OperationError::Key(_) | OperationError::TemporaryFailure(_) => return None,
        _ => advice_in_words(error.advice(), directory),
    };
    Some(remedy)
}

fn advice_in_words(advice: Advice, directory: &Path) -> String {
    let place = directory.display();
    match advice {
        Advice::FixRequest => "ask for something else".to_owned(),
        Advice::RetryLater => "run it again later".to_owned(),
        Advice::Resynchronize | Advice::Reopen => "run it again".to_owned(),
        Advice::Repair => format!(
            "see what is damaged: piggin verify --data {place}; then restore the directory from a copy"
        ),
    }
}

#[cfg(test)]
mod tests {
    use piggin::storage::VbucketId;

    use super::*;

    /// Whoever restores looks at the disk that failed, and not at the other one.
    #[test]
    fn a_restore_that_failed_names_the_side_it_failed_on() {
        let (from, into) = (Path::new("bucket"), Path::new("elsewhere"));
        let vbucket = VbucketId::FIRST;
        let damaged = || StorageError::Corruption {
            file: "container.00.0000000001".to_owned(),
            offset: 4096,
            what: "a block's checksum does not match".to_owned(),
        };
        let of_source = [
            BackupError::Copy(CopyError::Source {
                vbucket,
                cause: damaged(),
            }),
            BackupError::Down {
                vbucket,
                cause: damaged(),
            },
            BackupError::Source(damaged()),
        ];
        let of_target = [
            BackupError::Copy(CopyError::Target {
                vbucket,
                cause: damaged(),
            }),
            BackupError::Target(damaged()),
        ];
        let told = |error| CliError::restored(from, into, &PastError::Copy(error)).to_string();
        for error in of_source {
            let told = told(error);
            assert!(
                told.contains("bucket in bucket") && !told.contains("elsewhere"),
                "{told}"
            );
        }
        for error in of_target {
            let told = told(error);
            assert!(
                told.contains("elsewhere") && !told.contains("in bucket"),
                "{told}"
            );
        }
    }
}
