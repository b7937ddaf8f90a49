//! `piggin scan`: the documents of a range of keys, by rising key, one a line.
//!
//! Invariant: what was told is true also when the command fails; it exits with 0 only when everything was told, or as much as
//! was asked for.

use std::ffi::OsString;
use std::future::poll_fn;
use std::io::{self, BufWriter, Write};
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;

use clap::Args;
use futures_util::stream::Stream;
use serde::Serialize;
use serde_json::value::RawValue;

use piggin::Scan;
use piggin::messages::scan::{ScanError, ScanRange, Scanned};

use crate::changes::{base64, in_json};
use crate::collection_name::CollectionArgument;
use crate::failure::{CliError, Exit};
use crate::interrupt::Interrupt;
use crate::output;
use crate::session::{Missing, Session};

#[derive(Debug, Args)]
pub(crate) struct ScanArguments {
    /// Keys that begin with this.
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["from", "to"])]
    prefix: Option<OsString>,
    /// Keys from this one on.
    #[arg(long, value_name = "KEY")]
    from: Option<OsString>,
    /// Keys before this one, which is not told.
    #[arg(long, value_name = "KEY")]
    to: Option<OsString>,
    /// The first so many.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Without values.
    #[arg(long)]
    keys_only: bool,
    #[command(flatten)]
    collection: CollectionArgument,
}

impl ScanArguments {
    fn range(&self) -> ScanRange {
        if let Some(prefix) = &self.prefix {
            return ScanRange::prefix(prefix.as_bytes());
        }
        let bytes = |key: &OsString| key.as_bytes().to_vec();
        ScanRange {
            start: self
                .from
                .as_ref()
                .map_or(Bound::Unbounded, |key| Bound::Included(bytes(key))),
            end: self
                .to
                .as_ref()
                .map_or(Bound::Unbounded, |key| Bound::Excluded(bytes(key))),
        }
    }
}

/// A document as a line of JSON. The names are public: `docs/cli.md` lists them.
#[derive(Debug, Serialize)]
struct DocumentLine<'d> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    cas: String,
    seqno: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl DocumentLine<'_> {
    fn of(scanned: &Scanned) -> DocumentLine<'_> {
        let key = scanned.key.key();
        let text = str::from_utf8(key).ok();
        let value = scanned.value.as_ref();
        let json = value.and_then(|value| in_json(value));
        DocumentLine {
            key: text,
            key_base64: text.is_none().then(|| base64(key)),
            cas: scanned.meta.cas.0.to_string(),
            seqno: scanned.meta.seqno.0,
            value_base64: value.filter(|_| json.is_none()).map(|value| base64(value)),
            value: json,
        }
    }
}

pub(crate) fn run(session: &Session, arguments: &ScanArguments) -> Result<Exit, CliError> {
    let interrupt = Interrupt::listen();
    session.with_bucket(Missing::IsAMistake, async |bucket| {
        let collection = arguments.collection.of(bucket)?;
        let mut scan = collection.scan(arguments.range());
        if arguments.keys_only {
            scan = scan.keys_only();
        }
        if let Some(limit) = arguments.limit {
            scan = scan.limit(limit);
        }
        let scan = scan.open().map_err(|error| failed(session, error))?;
        tell(session, scan, &interrupt).await
    })
}

async fn tell(session: &Session, mut scan: Scan, interrupt: &Interrupt) -> Result<Exit, CliError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut told = Ok(());
    while told.is_ok() {
        let next = poll_fn(|context| {
            if interrupt.poll_asked(context) {
                return Poll::Ready(Err(()));
            }
            Pin::new(&mut scan).poll_next(context).map(Ok)
        });
        match next.await {
            Ok(Some(Ok(scanned))) => told = line(&mut out, &scanned),
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                // What was read before is true.
                written(out.flush())?;
                return Err(failed(session, error));
            }
            Err(()) => {
                written(out.flush())?;
                output::warn("interrupted; there may be more");
                return Ok(Exit::Failure);
            }
        }
    }
    written(told.and_then(|()| out.flush()))?;
    Ok(Exit::Done)
}

fn line(out: &mut impl Write, scanned: &Scanned) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &DocumentLine::of(scanned))?;
    out.write_all(b"\n")
}

/// A reader that has gone is no error.
fn written(result: io::Result<()>) -> Result<(), CliError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::file(Path::new("standard output"), &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn failed(session: &Session, error: ScanError) -> CliError {
    if let ScanError::Operation(error) = error {
        return CliError::operation(session.directory(), &error);
    }
    let remedy = if matches!(error, ScanError::Unread { .. }) {
        "see what is damaged: piggin verify"
    } else {
        "run it again"
    };
    CliError::failure(error.to_string(), remedy)
}
