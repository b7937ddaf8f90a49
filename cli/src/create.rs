//! `piggin create`: makes a bucket.

use std::fmt;

use clap::{Args, ValueEnum};
use futures_executor::block_on;
use serde::Serialize;

use piggin::Bucket;
use piggin::storage::{Eviction, Retention};

use crate::amounts;
use crate::failure::{CliError, Exit};
use crate::output::Output;
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// Parts the documents are spread over: a power of two, 1 to 1024. Cannot be changed later.
    #[arg(long, value_name = "N", default_value_t = 128)]
    vbuckets: u16,
    /// Keep what was overwritten, deleted or dropped for so long: 90s, 30m, 24h, 7d. Cannot be changed later.
    #[arg(long, value_name = "TIME", value_parser = amounts::seconds)]
    history: Option<u32>,
    /// Keep at most so much of it: 500MiB, 10GiB.
    #[arg(long, value_name = "BYTES", value_parser = amounts::bytes, requires = "history")]
    history_bytes: Option<u64>,
    /// What leaves memory when it is short: documents that were not used lately, their values alone, or none, so that writes are
    /// refused. Cannot be changed later.
    #[arg(long, value_enum, default_value_t)]
    eviction: EvictionArgument,
}

/// As it is said on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum EvictionArgument {
    #[default]
    Documents,
    Values,
    None,
}

impl From<EvictionArgument> for Eviction {
    fn from(from: EvictionArgument) -> Eviction {
        match from {
            EvictionArgument::Documents => Eviction::Documents,
            EvictionArgument::Values => Eviction::Values,
            EvictionArgument::None => Eviction::None,
        }
    }
}

#[derive(Debug, Serialize)]
struct Created {
    directory: String,
    vbuckets: u16,
    eviction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    history_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history_bytes: Option<u64>,
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Created {
            directory,
            vbuckets,
            history_s,
            ..
        } = self;
        write!(f, "made a bucket of {vbuckets} vbuckets in {directory}")?;
        match history_s {
            Some(seconds) => write!(f, ", with a history of {seconds} s"),
            None => Ok(()),
        }
    }
}

pub(crate) fn run(
    session: &Session,
    arguments: &CreateArguments,
    output: Output,
) -> Result<Exit, CliError> {
    let mut config = session.config();
    config.vbuckets = Some(arguments.vbuckets);
    config.history = arguments.history.map(|window_s| Retention {
        window_s,
        bytes: arguments.history_bytes,
    });
    let eviction = Eviction::from(arguments.eviction);
    config.eviction = Some(eviction);
    let made = block_on(async { Bucket::create(config).await?.shutdown().await });
    made.map_err(|error| CliError::bucket(session.directory(), &error))?;
    output.answer(&Created {
        directory: session.directory().display().to_string(),
        vbuckets: arguments.vbuckets,
        eviction: eviction.name(),
        history_s: arguments.history,
        history_bytes: arguments.history_bytes,
    })?;
    Ok(Exit::Done)
}
