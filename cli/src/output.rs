//! Everything that is printed. Answers go to standard output, as text or as JSON; everything else to standard error.
//!
//! Invariant: a reader that has gone (a broken pipe) is no error: the command has done its work all the same.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use clap::error::ErrorKind;
use serde::Serialize;

use crate::failure::{CliError, Exit};

/// Where answers go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    is_json: bool,
}

impl Output {
    pub(crate) fn new(is_json: bool) -> Output {
        Output { is_json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.is_json
    }

    /// The command's answer.
    pub(crate) fn answer(self, answer: &(impl Serialize + Display)) -> Result<(), CliError> {
        let mut text = if self.is_json {
            serde_json::to_string(answer)
                .map_err(|error| CliError::failure(error.to_string(), "run it without --json"))?
        } else {
            answer.to_string()
        };
        text.push('\n');
        print(text.as_bytes())
    }
}

/// A document's value: on a terminal it gets a line of its own, elsewhere not a byte more than it has.
pub(crate) fn value(value: &[u8]) -> Result<(), CliError> {
    print(value)?;
    if io::stdout().is_terminal() && !value.ends_with(b"\n") {
        print(b"\n")?;
    }
    Ok(())
}

fn print(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::file(Path::new("standard output"), &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// One line on standard error.
pub(crate) fn warn(line: impl Display) {
    // Nobody is left to be told that standard error is gone.
    writeln!(io::stderr(), "{line}").ok();
}

/// The error a command ended with.
pub(crate) fn complain(error: &CliError) {
    warn(format_args!("error: {error}"));
}

/// What clap has to say: help and version are answers, everything else is the caller's mistake.
pub(crate) fn usage(error: &clap::Error) -> Exit {
    error.print().ok();
    let is_answer = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if is_answer { Exit::Done } else { Exit::Mistake }
}

/// So many of them: `1 line`, `2 lines`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// A number of bytes as people read it.
pub(crate) fn bytes_in_words(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
