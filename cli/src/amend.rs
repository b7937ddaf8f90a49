//! `piggin append`, `prepend`, `incr`, `decr` and `touch`: change a document that is there, and answer once that is on disk.
//!
//! Invariant: none of them is applied twice: after a crash, which leaves open whether it was, the command ends with that.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use clap::Args;

use piggin::messages::OperationError;
use piggin::{Collection, WriteRequest};

use crate::collection_name::CollectionArgument;
use crate::disk_watch::durably;
use crate::failure::{CliError, Exit};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::put::{Changed, check_key, value};
use crate::session::{Missing, Session};

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The document's key.
    key: OsString,
    #[command(flatten)]
    collection: CollectionArgument,
}

#[derive(Debug, Args)]
pub(crate) struct ExtendArguments {
    #[command(flatten)]
    which: Which,
    /// What is added; `-` reads it from standard input.
    #[arg(allow_hyphen_values = true)]
    value: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct CountArguments {
    #[command(flatten)]
    which: Which,
    /// How far.
    #[arg(long, value_name = "N", default_value_t = 1)]
    by: u64,
    /// What a counter that is not there begins with, instead of an error; it is not counted on.
    #[arg(long, value_name = "N")]
    initial: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct TouchArguments {
    #[command(flatten)]
    which: Which,
    /// Zero is never, up to 30 days are seconds from now, more is seconds since the Unix epoch.
    #[arg(value_name = "SECONDS")]
    expiry: u32,
}

pub(crate) fn append(
    session: &Session,
    arguments: &ExtendArguments,
    output: Output,
) -> Result<Exit, CliError> {
    extend(session, arguments, output, |collection, key, more| {
        collection.append(key, more)
    })
}

pub(crate) fn prepend(
    session: &Session,
    arguments: &ExtendArguments,
    output: Output,
) -> Result<Exit, CliError> {
    extend(session, arguments, output, |collection, key, more| {
        collection.prepend(key, more)
    })
}

fn extend(
    session: &Session,
    arguments: &ExtendArguments,
    output: Output,
    request: impl for<'c> Fn(&'c Collection, &[u8], Bytes) -> WriteRequest<'c>,
) -> Result<Exit, CliError> {
    let more = value(&arguments.value)?;
    change(session, &arguments.which, output, |collection, key| {
        request(collection, key, more.clone())
    })
}

pub(crate) fn increment(
    session: &Session,
    arguments: &CountArguments,
    output: Output,
) -> Result<Exit, CliError> {
    change(session, &arguments.which, output, |collection, key| {
        begun(arguments, collection.increment(key, arguments.by))
    })
}

pub(crate) fn decrement(
    session: &Session,
    arguments: &CountArguments,
    output: Output,
) -> Result<Exit, CliError> {
    change(session, &arguments.which, output, |collection, key| {
        begun(arguments, collection.decrement(key, arguments.by))
    })
}

fn begun<'c>(arguments: &CountArguments, request: WriteRequest<'c>) -> WriteRequest<'c> {
    match arguments.initial {
        Some(initial) => request.initial(initial),
        None => request,
    }
}

pub(crate) fn touch(
    session: &Session,
    arguments: &TouchArguments,
    output: Output,
) -> Result<Exit, CliError> {
    change(session, &arguments.which, output, |collection, key| {
        collection.touch(key, arguments.expiry)
    })
}

fn change(
    session: &Session,
    which: &Which,
    output: Output,
    request: impl for<'c> Fn(&'c Collection, &[u8]) -> WriteRequest<'c>,
) -> Result<Exit, CliError> {
    let key = which.key.as_bytes();
    check_key(key)?;
    let changed = session.with_bucket(Missing::IsAMistake, async |bucket| {
        let collection = which.collection.of(bucket)?;
        // Ctrl-C ends the process, as anywhere.
        let never = Interrupt::default();
        let request = async || match request(&collection, key).persisted().await {
            // Nothing was done, and it may be asked for again.
            Err(error @ OperationError::TemporaryFailure(_)) => Err(error),
            answer => Ok(answer),
        };
        let answer = durably(session.directory(), bucket, &never, request).await?;
        answer.map_err(|error| CliError::operation(session.directory(), &error))
    })?;
    output.answer(&Changed::new(key, &changed))?;
    Ok(Exit::Done)
}
