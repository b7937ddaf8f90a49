//! `piggin history`: the versions of a document that are kept, newest first, one JSON object a line.
//!
//! Invariant: a value stands as it is where it is JSON, and as base64 where it is not; a 64-bit identity is a string. The
//! names are public: `docs/cli.md` lists them.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use piggin::Version;
use piggin::storage::{DeleteSource, Operation};

use crate::changes::{base64, in_json};
use crate::collection_name::CollectionArgument;
use crate::failure::{CliError, Exit};
use crate::instant::Instant;
use crate::output::Output;
use crate::session::{Missing, Session};

#[derive(Debug, Args)]
pub(crate) struct HistoryArguments {
    /// The document's key.
    key: OsString,
    /// So many of them at most, the newest
    #[arg(long, value_name = "N", default_value_t = 1000)]
    most: usize,
    #[command(flatten)]
    collection: CollectionArgument,
}

/// One version.
#[derive(Debug, Serialize)]
struct VersionLine {
    event: &'static str,
    seqno: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    committed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded_by: Option<u64>,
    cas: String,
    rev_seqno: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl VersionLine {
    fn of(version: &Version) -> VersionLine {
        let document = &version.item.document;
        let is_there = !version.item.operation.is_tombstone();
        let json = if is_there {
            in_json(&document.value)
        } else {
            None
        };
        VersionLine {
            event: event_of(version.item.operation),
            seqno: version.item.seqno.0,
            committed_at: version.committed_at_ms.map(|at| Instant(at).to_string()),
            superseded_by: version.superseded_by.map(|seqno| seqno.0),
            cas: document.cas.0.to_string(),
            rev_seqno: document.rev_seqno.0,
            flags: is_there.then_some(document.flags),
            expiry: is_there.then_some(document.expiry.0),
            value_base64: (is_there && json.is_none()).then(|| base64(&document.value)),
            value: json,
        }
    }
}

impl fmt::Display for VersionLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.event)
    }
}

/// As the changes call it.
fn event_of(operation: Operation) -> &'static str {
    match operation {
        Operation::Mutation => "mutation",
        Operation::Deletion {
            source: DeleteSource::Explicit,
            ..
        }
        | Operation::CommitDeletion { .. } => "deletion",
        Operation::Deletion {
            source: DeleteSource::Expiration,
            ..
        } => "expiration",
        Operation::CommitMutation { .. } => "commit",
        Operation::Prepare { .. } => "prepare",
        Operation::Abort { .. } => "abort",
        Operation::SystemEventBegin | Operation::SystemEventEnd => "system_event",
    }
}

pub(crate) fn run(session: &Session, arguments: &HistoryArguments) -> Result<Exit, CliError> {
    let key = arguments.key.as_bytes();
    let versions = session.with_bucket(Missing::IsAMistake, async |bucket| {
        let key = arguments.collection.of(bucket)?.key(key);
        let versions = match key {
            Ok(key) => bucket.versions(&key, arguments.most).await,
            Err(error) => Err(error.into()),
        };
        versions.map_err(|error| CliError::past(session.directory(), &error))
    })?;
    // Line by line, whatever is asked for elsewhere.
    let output = Output::new(true);
    for version in &versions {
        output.answer(&VersionLine::of(version))?;
    }
    Ok(Exit::Done)
}
