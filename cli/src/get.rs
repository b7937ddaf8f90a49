//! `piggin get`: a document's value, byte for byte.

use std::ffi::OsString;
use std::fmt;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use serde::Serialize;

use piggin::messages::vbucket::Found;

use crate::collection_name::CollectionArgument;
use crate::failure::{CliError, Exit};
use crate::output::{self, Output};
use crate::session::{Missing, Session};

#[derive(Debug, Args)]
pub(crate) struct GetArguments {
    /// The document's key.
    key: OsString,
    #[command(flatten)]
    collection: CollectionArgument,
}

/// A document with its metadata. 64-bit identities are strings: JSON's numbers cannot hold them everywhere.
#[derive(Debug, Serialize)]
struct GotDocument {
    key: String,
    /// `null` where the value is no text.
    value: Option<String>,
    /// The value's bytes, where it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    cas: String,
    flags: u32,
    datatype: u8,
    expiry: u32,
    rev_seqno: u64,
    seqno: u64,
    vbucket: u16,
}

impl fmt::Display for GotDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)
    }
}

pub(crate) fn run(
    session: &Session,
    arguments: &GetArguments,
    output: Output,
) -> Result<Exit, CliError> {
    let key = arguments.key.as_bytes();
    let (found, vbucket) = session.with_bucket(Missing::IsAMistake, async |bucket| {
        let found = arguments.collection.of(bucket)?.get(key).await;
        let found = found.map_err(|error| CliError::operation(session.directory(), &error))?;
        Ok((found, bucket.vbucket_of(key)))
    })?;
    if output.is_json() {
        output.answer(&in_json(key, &found, vbucket.get()))?;
    } else {
        output::value(&found.value)?;
    }
    Ok(Exit::Done)
}

fn in_json(key: &[u8], found: &Found, vbucket: u16) -> GotDocument {
    let text = str::from_utf8(&found.value).ok();
    GotDocument {
        key: String::from_utf8_lossy(key).into_owned(),
        value: text.map(str::to_owned),
        value_hex: text.is_none().then(|| hex(&found.value)),
        cas: found.meta.cas.0.to_string(),
        flags: found.meta.flags,
        datatype: found.meta.datatype.0,
        expiry: found.meta.expiry.0,
        rev_seqno: found.meta.rev_seqno.0,
        seqno: found.meta.seqno.0,
        vbucket,
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        // A string takes everything.
        write!(text, "{byte:02x}").ok();
    }
    text
}
