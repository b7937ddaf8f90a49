//! What `load` reads: lines of a file or of standard input become documents, each with the number of its line.
//!
//! Invariant: a line that cannot be a document is told with its number and costs no other line anything; no input,
//! however long its lines are, makes a reader hold more than about two lines of the longest allowed length.

mod line;
mod ndjson;
mod csv;

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_channel::mpsc::Sender;
use futures_executor::block_on;
use futures_util::sink::SinkExt;

use piggin::storage::{CollectionId, Document, DocumentKey};

use crate::failure::CliError;
use csv::CsvReader;
use line::LineReader;
use ndjson::NdjsonReader;

/// How the lines are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One JSON object a line; the stored value is the line.
    Ndjson,
    /// A header, then rows; the stored value is a JSON object of strings.
    Csv,
}

/// A document as read, not yet written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewDocument {
    pub(crate) line: u64,
    pub(crate) key: DocumentKey,
    pub(crate) value: Bytes,
}

impl NewDocument {
    /// The same in another collection, whose number may leave less room for the key.
    pub(crate) fn within(self, collection: CollectionId) -> Result<NewDocument, Rejection> {
        if self.key.collection() == collection {
            return Ok(self);
        }
        match DocumentKey::new(collection, self.key.key()) {
            Ok(key) => Ok(NewDocument { key, ..self }),
            Err(error) => Err(Rejection {
                line: self.line,
                reason: error.to_string(),
            }),
        }
    }
}

/// A line that cannot be a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) line: u64,
    pub(crate) reason: String,
}

/// Reads one document after the other.
pub(crate) trait DocumentReader {
    /// The next one; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Result<NewDocument, Rejection>>>;
    /// Bytes read so far.
    fn position(&self) -> u64;
    /// Whether the next one can be had without waiting for whoever writes the input.
    fn has_more_at_hand(&self) -> bool;
}

/// What the thread that reads tells the one that writes, in the order of the lines.
#[derive(Debug)]
pub(crate) enum Input {
    /// Documents, and how far the input was read.
    Documents {
        documents: Vec<NewDocument>,
        position: u64,
    },
    Rejected(Rejection),
    /// Reading failed; nothing follows.
    Failed(io::Error),
}

/// The input, opened: nothing of it is wrong so far.
pub(crate) struct Source {
    pub(crate) reader: Box<dyn DocumentReader + Send>,
    /// Where that can be known.
    pub(crate) length: Option<u64>,
}

/// Documents of one [`Input::Documents`]: enough that the channel costs nothing beside them.
const GROUP_DOCUMENTS_MAX: usize = 512;
/// Bytes of one [`Input::Documents`], so that large documents do not pile up.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// Opens `path` (`-` is standard input) and reads a CSV's header.
pub(crate) fn open(path: &Path, format: Option<Format>, key: &str) -> Result<Source, CliError> {
    let is_csv_name = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let format = format.unwrap_or(if is_csv_name {
        Format::Csv
    } else {
        Format::Ndjson
    });
    let (bytes, length) = open_bytes(path)?;
    let lines = LineReader::new(bytes, Document::VALUE_LENGTH_MAX);
    let reader: Box<dyn DocumentReader + Send> = match format {
        Format::Ndjson => Box::new(NdjsonReader::new(lines, key)),
        Format::Csv => Box::new(CsvReader::new(lines, key, &shown(path))?),
    };
    Ok(Source { reader, length })
}

type OpenedBytes = (Box<dyn Read + Send>, Option<u64>);

fn open_bytes(path: &Path) -> Result<OpenedBytes, CliError> {
    if path == Path::new("-") {
        if io::stdin().is_terminal() {
            crate::output::warn("reading documents from the terminal; end with Ctrl-D");
        }
        return Ok((Box::new(io::stdin()), None));
    }
    let failed = |error: io::Error| CliError::file(path, &error);
    #[expect(
        clippy::disallowed_methods,
        reason = "a file of the user, not of the store"
    )]
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    let length = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(file), length))
}

/// The input's name as people know it.
pub(crate) fn shown(path: &Path) -> PathBuf {
    if path == Path::new("-") {
        PathBuf::from("standard input")
    } else {
        path.to_path_buf()
    }
}

/// Reads everything and sends it on; ends early when nobody listens any more.
pub(crate) fn read_all(mut reader: Box<dyn DocumentReader + Send>, mut to: Sender<Input>) {
    let mut documents = Vec::new();
    let mut bytes: usize = 0;
    loop {
        let (last, is_end) = match reader.next() {
            Ok(Some(Ok(document))) => {
                bytes = bytes.saturating_add(document.value.len());
                documents.push(document);
                let is_full = documents.len() >= GROUP_DOCUMENTS_MAX || bytes >= GROUP_BYTES_MAX;
                if !is_full && reader.has_more_at_hand() {
                    continue;
                }
                (None, false)
            }
            Ok(Some(Err(rejection))) => (Some(Input::Rejected(rejection)), false),
            Ok(None) => (None, true),
            Err(error) => (Some(Input::Failed(error)), true),
        };
        let position = reader.position();
        let group = (!documents.is_empty()).then(|| Input::Documents {
            documents: std::mem::take(&mut documents),
            position,
        });
        bytes = 0;
        for input in group.into_iter().chain(last) {
            if block_on(to.send(input)).is_err() {
                return;
            }
        }
        if is_end {
            return;
        }
    }
}

/// A document of `line`, if key and value are within their limits.
fn document(line: u64, key: &[u8], value: Bytes) -> Result<NewDocument, Rejection> {
    let key = DocumentKey::new(CollectionId::DEFAULT, key);
    let key = key.map_err(|error| Rejection::new(line, error.to_string()))?;
    if value.len() > Document::VALUE_LENGTH_MAX {
        return Err(Rejection::too_long(line, value.len() as u64));
    }
    Ok(NewDocument { line, key, value })
}

impl Rejection {
    fn new(line: u64, reason: impl Into<String>) -> Rejection {
        Rejection {
            line,
            reason: reason.into(),
        }
    }

    fn too_long(line: u64, length: u64) -> Rejection {
        let max = Document::VALUE_LENGTH_MAX;
        Rejection::new(
            line,
            format!("the value is {length} bytes; the most is {max}"),
        )
    }

    fn not_utf8(line: u64, error: std::str::Utf8Error) -> Rejection {
        let at = error.valid_up_to().saturating_add(1);
        Rejection::new(line, format!("not UTF-8 text at byte {at}"))
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}
