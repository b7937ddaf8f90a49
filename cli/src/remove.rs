//! `piggin remove`: removes one document, and answers once that is on disk.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Args;

use crate::collection_name::CollectionArgument;
use crate::disk_watch::durably;
use crate::failure::{CliError, Exit};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::put::{Changed, check_key};
use crate::session::{Missing, Session};

#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// The document's key.
    key: OsString,
    #[command(flatten)]
    collection: CollectionArgument,
}

pub(crate) fn run(
    session: &Session,
    arguments: &RemoveArguments,
    output: Output,
) -> Result<Exit, CliError> {
    let key = arguments.key.as_bytes();
    check_key(key)?;
    let removed = session.with_bucket(Missing::IsAMistake, async |bucket| {
        let collection = arguments.collection.of(bucket)?;
        // Ctrl-C ends the process, as anywhere.
        let never = Interrupt::default();
        let request = async || collection.delete(key).persisted().await;
        durably(session.directory(), bucket, &never, request).await
    })?;
    output.answer(&Changed::new(key, &removed))?;
    Ok(Exit::Done)
}
