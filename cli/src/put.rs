//! `piggin put`: writes one document, and answers once it is on disk.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use piggin::messages::vbucket::Mutated;
use piggin::storage::{CollectionId, Document, DocumentKey};

use crate::collection_name::CollectionArgument;
use crate::disk_watch::durably;
use crate::failure::{CliError, Exit};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct PutArguments {
    /// The document's key, 1 to 249 bytes.
    key: OsString,
    /// Its value, at most 20 MiB; `-` reads it from standard input.
    #[arg(allow_hyphen_values = true)]
    value: OsString,
    #[command(flatten)]
    collection: CollectionArgument,
}

/// A change that is on disk. 64-bit identities are strings: JSON's numbers cannot hold them everywhere.
#[derive(Debug, Serialize)]
pub(crate) struct Changed {
    key: String,
    cas: String,
    vbucket: u16,
    vbucket_uuid: String,
    seqno: u64,
    /// The number it is now, of a counter.
    #[serde(skip_serializing_if = "Option::is_none")]
    counter: Option<String>,
}

impl Changed {
    pub(crate) fn new(key: &[u8], mutated: &Mutated) -> Changed {
        Changed {
            key: String::from_utf8_lossy(key).into_owned(),
            cas: mutated.cas.0.to_string(),
            vbucket: mutated.token.vbucket.get(),
            vbucket_uuid: mutated.token.vbucket_uuid.0.to_string(),
            seqno: mutated.token.seqno.0,
            counter: mutated.counter.map(|counter| counter.to_string()),
        }
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Changed {
            key,
            cas,
            vbucket,
            seqno,
            counter,
            ..
        } = self;
        let counter = counter.as_ref();
        let counter = counter.map_or(String::new(), |counter| format!("{counter}, "));
        write!(
            f,
            "{key}: {counter}on disk in vbucket {vbucket} at seqno {seqno}, cas {cas}"
        )
    }
}

pub(crate) fn run(
    session: &Session,
    arguments: &PutArguments,
    output: Output,
) -> Result<Exit, CliError> {
    let key = arguments.key.as_bytes();
    check_key(key)?;
    let value = value(&arguments.value)?;
    let missing = arguments.collection.missing();
    let mutated = session.with_bucket(missing, async |bucket| {
        let collection = arguments.collection.of(bucket)?;
        // Ctrl-C ends the process, as anywhere.
        let never = Interrupt::default();
        let request = async || collection.set(key, value.clone()).persisted().await;
        durably(session.directory(), bucket, &never, request).await
    })?;
    output.answer(&Changed::new(key, &mutated))?;
    Ok(Exit::Done)
}

/// Refuses a bad key before a bucket is made for it.
pub(crate) fn check_key(key: &[u8]) -> Result<(), CliError> {
    DocumentKey::new(CollectionId::DEFAULT, key)
        .map(drop)
        .map_err(|error| CliError::mistake(error.to_string(), "give a key of 1 to 249 bytes"))
}

pub(crate) fn value(argument: &OsString) -> Result<Bytes, CliError> {
    let max = Document::VALUE_LENGTH_MAX;
    let value = if argument == "-" {
        let mut value = Vec::new();
        // One byte more than allowed tells a value that is too large, however long it goes on.
        let read = io::stdin()
            .lock()
            .take(max as u64 + 1)
            .read_to_end(&mut value);
        read.map_err(|error| CliError::file(Path::new("standard input"), &error))?;
        value
    } else {
        argument.as_bytes().to_vec()
    };
    if value.len() > max {
        let fact = format!("the value is more than {max} bytes, the most a document may hold");
        return Err(CliError::mistake(fact, "store it in pieces"));
    }
    Ok(value.into())
}
