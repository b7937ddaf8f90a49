//! Why a bucket was not mended, or not wholly.
//!
//! Invariant: every error says whether something was changed; where something may have been, it carries the report of what
//! may be empty by now, so that nothing is emptied without a word.

use storage::disk::DiskErrorKind;
use storage::log_store::{Fault, FaultKind};
use storage::{Advice, StorageError, VbucketId};

use super::RepairReport;

/// Why nothing was mended, or not everything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The store cannot be opened: it is in use, is none, or what says what it is is damaged. Nothing was changed.
    #[error("{0}")]
    Store(StorageError),
    /// The disk does not say what is in a file: that it is damaged is not known. Nothing was changed.
    #[error(
        "{file} cannot be read: {what}; that is no proof of damage, so nothing was changed; see that the file may be read and the disk is sound, and run it again"
    )]
    Unreadable {
        /// The file.
        file: String,
        /// What the disk said.
        what: String,
    },
    /// A file is not where it should be. It may lie elsewhere, whole. Nothing was changed.
    #[error("{file} is missing, so nothing was changed; put it back, or say that it is lost")]
    Missing {
        /// The file.
        file: String,
    },
    /// What says which data is whose, or where the log ends, is damaged, or a manifest is missing: nothing can be told apart,
    /// or written. Nothing was changed.
    #[error(
        "vbucket {vbucket} cannot be repaired: {cause}; nothing was changed; {}",
        remedy(cause)
    )]
    BeyondRepair {
        /// The first of them.
        vbucket: VbucketId,
        /// Why.
        cause: StorageError,
    },
    /// What was read cannot be kept. Nothing was changed.
    #[error("what can be read cannot be saved: {what}; nothing was changed")]
    Save {
        /// Why.
        what: String,
    },
    /// The disk failed in the middle. What was read is saved; of the vbuckets that are named each is empty, or as it was.
    #[error(
        "the repair was cut off: {cause}; what can be read is saved, and what was to be set aside may be empty by now; run it again"
    )]
    CutOff {
        /// Why.
        cause: StorageError,
        /// What was to be set aside.
        report: Box<RepairReport>,
    },
    /// All that was damaged is set aside, but the last look was not given everything: whether anything is damaged still is not
    /// known.
    #[error(
        "what was damaged is set aside, and what can be read is saved; but {} cannot be read: {}; that is no proof of damage; see that the file may be read and the disk is sound, and verify again",
        fault.file, fault.what
    )]
    Unproven {
        /// What the disk did not give.
        fault: Fault,
        /// What was set aside.
        report: Box<RepairReport>,
    },
    /// Something is damaged behind it.
    #[error(
        "{} at offset {} is still damaged: {}; what can be read is saved; restore the bucket from a backup",
        fault.file, fault.offset, fault.what
    )]
    Left {
        /// What.
        fault: Fault,
        /// What was set aside.
        report: Box<RepairReport>,
    },
    /// No random numbers.
    #[error("the system gives no random numbers: {0}")]
    Engine(String),
}

impl RepairError {
    /// Of a fault that is no reason to give anything up.
    pub(super) fn of_fault(fault: &Fault) -> RepairError {
        let (file, what) = (fault.file.clone(), fault.what.clone());
        if fault.kind == FaultKind::Missing {
            RepairError::Missing { file }
        } else {
            RepairError::Unreadable { file, what }
        }
    }

    /// Of a vbucket that cannot be written to for want of a file: what else is there is nobody's without it.
    pub(super) fn of_missing(vbucket: VbucketId, cause: StorageError) -> Result<(), RepairError> {
        match missing_file(&cause) {
            Some(_) => Err(RepairError::BeyondRepair { vbucket, cause }),
            None => Ok(()),
        }
    }

    /// Of what the last look found.
    pub(super) fn of_left(fault: Fault, report: RepairReport) -> RepairError {
        let report = Box::new(report);
        match fault.kind {
            FaultKind::Damage => RepairError::Left { fault, report },
            FaultKind::Missing | FaultKind::Unreadable => RepairError::Unproven { fault, report },
        }
    }

    /// Of what went wrong before anything was changed.
    pub(super) fn of_reading(vbucket: VbucketId, cause: StorageError) -> RepairError {
        if let StorageError::Disk(disk) = &cause {
            return RepairError::Unreadable {
                file: disk.file.clone(),
                what: disk.to_string(),
            };
        }
        RepairError::BeyondRepair { vbucket, cause }
    }

    /// What may be empty by now, or was emptied; none where nothing was changed.
    #[must_use]
    pub fn report(&self) -> Option<&RepairReport> {
        match self {
            RepairError::CutOff { report, .. }
            | RepairError::Unproven { report, .. }
            | RepairError::Left { report, .. } => Some(report),
            RepairError::Store(_)
            | RepairError::Unreadable { .. }
            | RepairError::Missing { .. }
            | RepairError::BeyondRepair { .. }
            | RepairError::Save { .. }
            | RepairError::Engine(_) => None,
        }
    }

    /// What the caller does next.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            RepairError::Store(cause) | RepairError::CutOff { cause, .. } => cause.advice(),
            RepairError::BeyondRepair { .. } | RepairError::Left { .. } => Advice::Repair,
            RepairError::Missing { .. } => Advice::FixRequest,
            RepairError::Unreadable { .. }
            | RepairError::Unproven { .. }
            | RepairError::Save { .. }
            | RepairError::Engine(_) => Advice::RetryLater,
        }
    }
}

/// The file without which a log shard as a whole is out of service.
fn missing_file(cause: &StorageError) -> Option<&str> {
    if let StorageError::ShardDown { cause, .. } = cause
        && let StorageError::Disk(disk) = &**cause
        && disk.kind == DiskErrorKind::NotFound
    {
        return Some(&disk.file);
    }
    None
}

fn remedy(cause: &StorageError) -> String {
    match missing_file(cause) {
        Some(file) => {
            format!("put {file} back, or restore the bucket from a backup; do not delete anything")
        }
        None => "restore the bucket from a backup".to_owned(),
    }
}
