//! What the tests of the command line share: the program, run on a directory of its own.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses its own part of this"
)]

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A directory that is gone after the test, with a bucket to be made in it.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// The bucket's directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of that name and text.
    #[expect(clippy::disallowed_methods, reason = "a file of the user")]
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The program on this place's bucket.
    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_piggin"));
        command
            .arg("--data")
            .arg(self.data())
            .args(arguments)
            .current_dir(self.directory.path());
        command
    }

    pub(crate) fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Ended {
        end(self.command(arguments).stdin(Stdio::null()))
    }

    /// With `input` on standard input.
    pub(crate) fn feed(&self, arguments: &[impl AsRef<OsStr>], input: &[u8]) -> Ended {
        let mut command = self.command(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A program that refuses its input early does not read it.
        stdin.write_all(input).ok();
        drop(stdin);
        child.wait_with_output().unwrap().into()
    }

    /// Runs it, expects success, and takes the answer as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.run(&[arguments, &["--json"]].concat());
        ended.expect(0);
        ended.json()
    }
}

impl From<std::process::Output> for Ended {
    fn from(output: std::process::Output) -> Ended {
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub(crate) fn end(command: &mut Command) -> Ended {
    command.output().unwrap().into()
}

impl Ended {
    /// The exit code, and that no panic and no debug print reached the user.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32) -> &Ended {
        assert_eq!(self.code, code, "{}\n{}", self.text(), self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        assert!(!self.stderr.contains("Err("), "{}", self.stderr);
        self
    }

    /// That standard error says all of this.
    #[track_caller]
    pub(crate) fn says(&self, words: &[&str]) -> &Ended {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "no {word:?} in: {}",
                self.stderr
            );
        }
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        let text = self.text();
        assert_eq!(text.lines().count(), 1, "JSON is one line: {text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// The names of an object, sorted.
pub(crate) fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names
}

/// The data that comes with the project.
pub(crate) fn airports() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/airports.csv")
}
