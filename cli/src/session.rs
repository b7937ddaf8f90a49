//! The bucket a command works on: opened for it, and shut down after it whatever came of it.
//!
//! Invariant: a command that only reads never makes a bucket, so that a mistyped directory is told, not filled.

use std::path::{Path, PathBuf};

use futures_executor::block_on;

use piggin::{Bucket, BucketConfig};

use crate::arguments::Arguments;
use crate::failure::CliError;
use crate::output;
use crate::progress::Progress;

/// What opening does where there is no bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is the caller's mistake.
    IsAMistake,
    /// One is made with the defaults.
    IsCreated,
}

/// The bucket's directory and the settings of this run.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    directory: PathBuf,
    memory_mib: Option<u64>,
}

impl Session {
    pub(crate) fn new(arguments: &Arguments) -> Session {
        Session {
            directory: arguments.data.clone(),
            memory_mib: arguments.memory,
        }
    }

    /// The same settings in another directory.
    pub(crate) fn within(&self, name: &str) -> Session {
        Session {
            directory: self.directory.join(name),
            ..self.clone()
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn config(&self) -> BucketConfig {
        let mut config = BucketConfig::at(&self.directory);
        if let Some(mib) = self.memory_mib {
            config.memory_quota_bytes = mib << 20;
        }
        config
    }

    /// Opens the bucket, does `work` with it, shuts it down. What `work` answers is on disk if it had to be, so a
    /// shutdown that fails takes nothing from the answer: it is told, and the next opening recovers.
    pub(crate) fn with_bucket<T>(
        &self,
        missing: Missing,
        work: impl AsyncFnOnce(&Bucket) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        block_on(async {
            let bucket = self.open(missing).await?;
            let answer = work(&bucket).await;
            if answer.as_ref().is_err_and(|error| error.is_disk_stuck) {
                return answer;
            }
            if let Err(error) = bucket.shutdown().await {
                output::warn(format_args!(
                    "warning: the bucket was not closed in order: {error}\n  the next command recovers it; nothing that was acknowledged is lost"
                ));
            }
            answer
        })
    }

    async fn open(&self, missing: Missing) -> Result<Bucket, CliError> {
        let _progress = Progress::spinner("opening");
        let opened = match missing {
            Missing::IsCreated => Bucket::open_or_create(self.config()).await,
            // Opening names the path it did not find; a person wants to know what to do.
            Missing::IsAMistake if !self.directory.exists() => {
                return Err(CliError::no_bucket(&self.directory));
            }
            Missing::IsAMistake => Bucket::open(self.config()).await,
        };
        opened.map_err(|error| CliError::bucket(&self.directory, &error))
    }
}
