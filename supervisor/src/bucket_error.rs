//! Why a bucket could not be made, opened, or shut down in order.

use messages::OperationError;
use storage::{Advice, Eviction, StorageError};

use crate::shutdown::ShutdownReport;
use crate::tree::TreeError;

/// Why a bucket could not be made, opened, or shut down in order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BucketError {
    /// The store's word.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A setting that is stored at creation was given otherwise.
    #[error(
        "the bucket was created with {what} = {stored}, not {given}; open it without this setting, or create another bucket"
    )]
    OtherOptions {
        /// Name of the setting.
        what: &'static str,
        /// Its value in the store.
        stored: u64,
        /// The value given.
        given: u64,
    },
    /// The store was made to have something else leave memory.
    #[error(
        "the bucket was created with eviction = {stored}, not {given}; open it without this setting, or create another bucket"
    )]
    OtherEviction {
        /// What is stored.
        stored: Eviction,
        /// What was given.
        given: Eviction,
    },
    /// A setting outside its limits.
    #[error("{what}: give {limits}")]
    Setting {
        /// Name of the setting, and the value given.
        what: String,
        /// What it may be.
        limits: &'static str,
    },
    /// A thread, or the runtime on it, could not be started.
    #[error("{what} could not be started: {cause}")]
    Engine {
        /// Which.
        what: String,
        /// What the system said.
        cause: String,
    },
    /// The supervision tree's word.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The bucket is shut down already.
    #[error("the bucket is shut down; open it again")]
    Closed,
    /// What was asked of the bucket on the way failed.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The shutdown did not come to its end in time; no mark of a clean shutdown was written, and the next opening
    /// recovers what is on disk.
    #[error("the shutdown was given up: {0}")]
    Shutdown(ShutdownReport),
}

impl BucketError {
    /// What the caller does next.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            BucketError::Storage(error) => error.advice(),
            BucketError::Operation(error) => error.advice(),
            BucketError::OtherOptions { .. }
            | BucketError::OtherEviction { .. }
            | BucketError::Setting { .. }
            | BucketError::Tree(_) => Advice::FixRequest,
            BucketError::Engine { .. } => Advice::RetryLater,
            BucketError::Closed | BucketError::Shutdown(_) => Advice::Reopen,
        }
    }
}
