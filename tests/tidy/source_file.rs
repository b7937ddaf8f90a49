//! A file of the tree, and what a rule says of it: every rule is a function from the one to a list of the other.

use std::path::Path;

/// A file: its path from the root of the workspace, and what is in it.
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl SourceFile {
    pub(crate) fn new(path: &str, text: &str) -> SourceFile {
        SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    pub(crate) fn is(&self, extension: &str) -> bool {
        Path::new(&self.path)
            .extension()
            .is_some_and(|found| found == extension)
    }

    pub(crate) fn is_rust_under_storage_src(&self) -> bool {
        self.is("rs") && self.path.starts_with("storage/src/")
    }

    /// Its lines, counted from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// A complaint for every line that `offends`.
    pub(crate) fn complain(&self, what: &str, offends: impl Fn(&str) -> bool) -> Vec<Complaint> {
        let offending = self.lines().filter(|(_, line)| offends(line));
        offending
            .map(|(line, _)| Complaint::new(line, what))
            .collect()
    }
}

/// What is wrong, and in which line.
#[derive(Debug, PartialEq)]
pub(crate) struct Complaint {
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl Complaint {
    pub(crate) fn new(line: usize, what: &str) -> Complaint {
        Complaint {
            line,
            what: what.to_owned(),
        }
    }
}

/// The lines `rule` complains of in a file of that path and text.
pub(crate) fn lines(
    rule: impl Fn(&SourceFile) -> Vec<Complaint>,
    path: &str,
    text: &str,
) -> Vec<usize> {
    let complaints = rule(&SourceFile::new(path, text));
    complaints.iter().map(|complaint| complaint.line).collect()
}
