//! `piggin create`: makes a bucket.

use std::fmt;

use clap::Args;
use futures_executor::block_on;
use serde::Serialize;

use piggin::Bucket;

use crate::failure::{CliError, Exit};
use crate::output::Output;
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// Parts the documents are spread over: a power of two, 1 to 1024. Cannot be changed later.
    #[arg(long, value_name = "N", default_value_t = 128)]
    vbuckets: u16,
}

#[derive(Debug, Serialize)]
struct Created {
    directory: String,
    vbuckets: u16,
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Created {
            directory,
            vbuckets,
        } = self;
        write!(f, "made a bucket of {vbuckets} vbuckets in {directory}")
    }
}

pub(crate) fn run(
    session: &Session,
    arguments: &CreateArguments,
    output: Output,
) -> Result<Exit, CliError> {
    let mut config = session.config();
    config.vbuckets = Some(arguments.vbuckets);
    let made = block_on(async { Bucket::create(config).await?.shutdown().await });
    made.map_err(|error| CliError::bucket(session.directory(), &error))?;
    output.answer(&Created {
        directory: session.directory().display().to_string(),
        vbuckets: arguments.vbuckets,
    })?;
    Ok(Exit::Done)
}
