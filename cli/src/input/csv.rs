//! Comma-separated rows under a header (RFC 4180). A row is stored as a JSON object of strings, in the header's order.
//!
//! Invariant: a row is all or nothing. A row whose quotes do not fit is told with the number of its first line, and
//! reading goes on at the line after that one, so that a quote left open costs one row and not the rest of the file.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::Path;

use super::line::{Content, Line, LineEnd, LineReader};
use super::{DocumentReader, NewDocument, Rejection, document};
use crate::failure::CliError;

#[derive(Debug)]
pub(super) struct CsvReader<R> {
    lines: Lines<R>,
    /// For each column what comes before its value in the stored object: `"name":`.
    names: Vec<Vec<u8>>,
    key: usize,
}

/// Lines, some of which were given back.
#[derive(Debug)]
struct Lines<R> {
    source: LineReader<R>,
    given_back: VecDeque<Line>,
}

impl<R: Read> Lines<R> {
    fn next(&mut self) -> io::Result<Option<Line>> {
        match self.given_back.pop_front() {
            Some(line) => Ok(Some(line)),
            None => self.source.next(),
        }
    }
}

impl<R: Read> CsvReader<R> {
    /// Reads the header of the file `name`.
    pub(super) fn new(
        source: LineReader<R>,
        key: &str,
        name: &Path,
    ) -> Result<CsvReader<R>, CliError> {
        let mut lines = Lines {
            source,
            given_back: VecDeque::new(),
        };
        let row = next_row(&mut lines).map_err(|error| CliError::file(name, &error))?;
        let wrong = |what: String| {
            CliError::mistake(
                format!("{}: {what}", name.display()),
                "give a file whose first row names its columns, each once",
            )
        };
        let row = row.ok_or_else(|| wrong("there is no header, not even one row".to_owned()))?;
        let header = row.map_err(|rejection| wrong(format!("the header: {rejection}")))?;
        let mut sorted: Vec<&String> = header.fields.iter().collect();
        sorted.sort_unstable();
        let twice = sorted.windows(2).find_map(|pair| match pair {
            [one, other] if one == other => Some(one),
            _ => None,
        });
        if let Some(twice) = twice {
            return Err(wrong(format!(
                "the header has the column \"{twice}\" twice"
            )));
        }
        let Some(key) = header.fields.iter().position(|column| column == key) else {
            return Err(CliError::mistake(
                format!("{}: the header has no column \"{key}\"", name.display()),
                format!("give one of these with --key: {}", header.fields.join(", ")),
            ));
        };
        let names = header.fields.iter().map(|column| {
            let mut name = in_json(column);
            name.push(b':');
            name
        });
        Ok(CsvReader {
            lines,
            names: names.collect(),
            key,
        })
    }

    fn document(&self, row: &Row) -> Result<NewDocument, Rejection> {
        if row.fields.len() != self.names.len() {
            let (found, wanted) = (row.fields.len(), self.names.len());
            let reason = format!("the row has {found} fields, the header {wanted}");
            return Err(Rejection::new(row.line, reason));
        }
        let mut value = vec![b'{'];
        for (name, field) in self.names.iter().zip(&row.fields) {
            if value.len() > 1 {
                value.push(b',');
            }
            value.extend_from_slice(name);
            value.extend_from_slice(&in_json(field));
        }
        value.push(b'}');
        let key = row.fields.get(self.key).map_or("", String::as_str);
        document(row.line, key.as_bytes(), value.into())
    }
}

impl<R: Read> DocumentReader for CsvReader<R> {
    fn next(&mut self) -> io::Result<Option<Result<NewDocument, Rejection>>> {
        let row = next_row(&mut self.lines)?;
        Ok(row.map(|row| row.and_then(|row| self.document(&row))))
    }

    fn position(&self) -> u64 {
        self.lines.source.position()
    }

    fn has_more_at_hand(&self) -> bool {
        !self.lines.given_back.is_empty() || self.lines.source.has_line_at_hand()
    }
}

fn in_json(text: &str) -> Vec<u8> {
    // A string has no value that JSON cannot say.
    serde_json::to_vec(text).unwrap_or_default()
}

/// The fields of one row, and its first line.
#[derive(Debug)]
struct Row {
    line: u64,
    fields: Vec<String>,
}

/// The next row that is not an empty line.
fn next_row<R: Read>(lines: &mut Lines<R>) -> io::Result<Option<Result<Row, Rejection>>> {
    while let Some(line) = lines.next()? {
        match &line.content {
            Content::TooLong(length) => {
                let length_max = lines.source.length_max();
                let reason = format!("the line is {length} bytes; the most is {length_max}");
                return Ok(Some(Err(Rejection::new(line.number, reason))));
            }
            Content::Whole(content) if content.is_empty() => {}
            Content::Whole(_) => return row_from(line, lines).map(Some),
        }
    }
    Ok(None)
}

/// The row that begins with `first`, which may go on over further lines; those are given back if it fails.
fn row_from<R: Read>(first: Line, lines: &mut Lines<R>) -> io::Result<Result<Row, Rejection>> {
    let number = first.number;
    let mut taken = vec![first];
    let mut bytes: usize = 0;
    let mut splitter = Splitter::default();
    let reason = loop {
        let Some(line) = taken.last() else {
            break "the row is empty".to_owned();
        };
        let Content::Whole(content) = &line.content else {
            break "a quote is not closed".to_owned();
        };
        bytes = bytes.saturating_add(content.len());
        if bytes > lines.source.length_max() {
            break "a quote is not closed".to_owned();
        }
        let text = match str::from_utf8(content) {
            Ok(text) => text,
            Err(error) => break Rejection::not_utf8(number, error).reason,
        };
        match splitter.line(text, line.end) {
            Ok(Split::Row(fields)) => {
                return Ok(Ok(Row {
                    line: number,
                    fields,
                }));
            }
            Ok(Split::GoesOn) => match lines.next()? {
                Some(next) => taken.push(next),
                None => break "a quote is not closed".to_owned(),
            },
            Err(reason) => break reason.to_owned(),
        }
    };
    for line in taken.drain(1..).rev() {
        lines.given_back.push_front(line);
    }
    Ok(Err(Rejection::new(number, reason)))
}

/// Takes a row apart, line by line.
#[derive(Debug, Default)]
struct Splitter {
    fields: Vec<String>,
    field: String,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first character of a field.
    #[default]
    Start,
    /// In a field without quotes, where a quote is a character like any other.
    Plain,
    /// Between quotes.
    Quoted,
    /// After a quote between quotes: the end, or the first half of a quote that is meant.
    QuoteSeen,
}

enum Split {
    /// The row is complete.
    Row(Vec<String>),
    /// The line ended between quotes.
    GoesOn,
}

impl Splitter {
    fn line(&mut self, text: &str, end: LineEnd) -> Result<Split, &'static str> {
        for character in text.chars() {
            self.state = match (self.state, character) {
                (State::Start, '"') => State::Quoted,
                (State::Quoted, '"') => State::QuoteSeen,
                (State::Start | State::Plain | State::QuoteSeen, ',') => {
                    self.fields.push(std::mem::take(&mut self.field));
                    State::Start
                }
                (State::QuoteSeen, '"') | (State::Quoted, _) => {
                    self.field.push(character);
                    State::Quoted
                }
                (State::QuoteSeen, _) => return Err("something follows a closing quote"),
                (State::Start | State::Plain, _) => {
                    self.field.push(character);
                    State::Plain
                }
            };
        }
        if self.state == State::Quoted {
            // The line's end is part of the field.
            for byte in end.as_bytes() {
                self.field.push(char::from(*byte));
            }
            return Ok(Split::GoesOn);
        }
        self.fields.push(std::mem::take(&mut self.field));
        Ok(Split::Row(std::mem::take(&mut self.fields)))
    }
}

#[cfg(test)]
mod tests;
