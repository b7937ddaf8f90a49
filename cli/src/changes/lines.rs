//! Lines of changes, written to wherever they go.
//!
//! Invariant: every line is whole; a token among them covers exactly the lines before it.

use std::io::{self, BufWriter, Write};

use piggin::{Change, ChangesToken};

use super::event::{EventLine, TokenLine};

/// A token is due after so many lines.
const LINES_PER_TOKEN: u64 = 1000;

/// Lines on their way.
#[derive(Debug)]
pub(crate) struct Lines<W: Write> {
    to: BufWriter<W>,
    has_tokens: bool,
    since_token: u64,
}

impl<W: Write> Lines<W> {
    /// Lines to `to`; with tokens among them, or only one at the end.
    pub(crate) fn new(to: W, has_tokens: bool) -> Lines<W> {
        Lines {
            to: BufWriter::new(to),
            has_tokens,
            since_token: 0,
        }
    }

    pub(crate) fn change(&mut self, change: &Change) -> io::Result<()> {
        self.since_token = self.since_token.saturating_add(1);
        serde_json::to_writer(&mut self.to, &EventLine::of(change))?;
        self.to.write_all(b"\n")
    }

    pub(crate) fn is_token_due(&self) -> bool {
        self.has_tokens && self.since_token >= LINES_PER_TOKEN
    }

    pub(crate) fn token(&mut self, token: &ChangesToken) -> io::Result<()> {
        self.since_token = 0;
        serde_json::to_writer(&mut self.to, &TokenLine::of(token))?;
        self.to.write_all(b"\n")
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// What they were written to, once it has all of them.
    pub(crate) fn into_inner(self) -> io::Result<W> {
        self.to.into_inner().map_err(io::IntoInnerError::into_error)
    }
}
