//! The file of acknowledged keys: one a line, appended only after the document is on disk.
//!
//! Invariant: a line that ends with its line feed names a durable document. Keys reach the file by single appends of
//! whole lines, after the answer that says they are on disk; what a kill may leave is a last line without its end,
//! which says nothing and is cut off by the next load.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::failure::CliError;
use crate::input::{NewDocument, Rejection};

#[derive(Debug)]
pub(super) struct Acks {
    file: File,
    path: PathBuf,
    length: u64,
}

/// A kill cuts a write that is under way at a page of the file, nowhere else.
const PAGE_BYTES: u64 = 4096;

impl Acks {
    /// Opens or makes the file, and cuts off a last line that has no end.
    pub(super) fn open(path: &Path) -> Result<Acks, CliError> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[expect(
            clippy::disallowed_methods,
            reason = "a file of the user, not of the store"
        )]
        let opened = options.open(path);
        let opened = opened.and_then(|mut file| {
            let is_file = file.metadata()?.is_file();
            let length = if is_file {
                cut_unended_line(&mut file)?
            } else {
                0
            };
            Ok((file, length))
        });
        let (file, length) = opened.map_err(|error| CliError::file(path, &error))?;
        Ok(Acks {
            file,
            path: path.to_owned(),
            length,
        })
    }

    /// Appends the keys of documents that are on disk.
    pub(super) fn append(&mut self, documents: &[NewDocument]) -> Result<(), CliError> {
        let mut lines = Vec::new();
        for document in documents {
            let key = document.key.key();
            // The length includes what is in `lines`.
            let room = PAGE_BYTES.saturating_sub(self.length % PAGE_BYTES);
            if key.len() as u64 >= room {
                self.write(&mut lines)?;
            }
            lines.extend_from_slice(key);
            lines.push(b'\n');
            self.length = self
                .length
                .saturating_add(key.len() as u64)
                .saturating_add(1);
            if key.len() as u64 >= room {
                self.write(&mut lines)?;
            }
        }
        self.write(&mut lines)
    }

    /// One append of whole lines; within a page, but for a line that lies across two.
    fn write(&mut self, lines: &mut Vec<u8>) -> Result<(), CliError> {
        let written = self.file.write_all(lines);
        lines.clear();
        written.map_err(|error| CliError::file(&self.path, &error))
    }
}

/// A key that would be more than one line.
pub(super) fn unfit(document: &NewDocument) -> Option<Rejection> {
    let key = document.key.key();
    let is_unfit = key.contains(&b'\n') || key.contains(&b'\r');
    is_unfit.then(|| Rejection {
        line: document.line,
        reason: "the key holds a line break, which a file of acks cannot".to_owned(),
    })
}

/// The length that is left.
fn cut_unended_line(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut piece = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(piece.len() as u64);
        let wanted = usize::try_from(end.saturating_sub(start)).unwrap_or(piece.len());
        let Some(piece) = piece.get_mut(..wanted) else {
            break;
        };
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(piece)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte == b'\n') {
            end = start.saturating_add(at as u64).saturating_add(1);
            break;
        }
        end = start;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use piggin::storage::{CollectionId, DocumentKey};

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "what a user has in his file")]
    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    fn documents(keys: &[String]) -> Vec<NewDocument> {
        let document = |key: &String| NewDocument {
            line: 1,
            key: DocumentKey::new(CollectionId::DEFAULT, key.as_bytes()).unwrap(),
            value: Bytes::new(),
        };
        keys.iter().map(document).collect()
    }

    #[test]
    fn keys_are_appended_and_a_line_without_end_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("acks");
        for (before, kept) in [("", ""), ("a\n", "a\n"), ("a\nb", "a\n"), ("b", "")] {
            write(&path, before);
            let mut acks = Acks::open(&path).unwrap();
            acks.append(&documents(&["x".to_owned(), "y z".to_owned()]))
                .unwrap();
            acks.append(&documents(&["x".to_owned()])).unwrap();
            let expected = format!("{kept}x\ny z\nx\n");
            assert_eq!(
                std::fs::read_to_string(&path).unwrap(),
                expected,
                "{before:?}"
            );
        }
        let long = format!("a\n{}", "b".repeat(10_000));
        write(&path, &long);
        assert_eq!(Acks::open(&path).unwrap().length, 2);
    }

    #[test]
    fn every_key_is_there_whatever_page_it_lies_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("acks");
        let keys: Vec<String> = (0..300_usize)
            .map(|number| format!("{number}{}", "k".repeat(number * 7 % 240)))
            .collect();
        let mut acks = Acks::open(&path).unwrap();
        for keys in keys.chunks(97) {
            acks.append(&documents(keys)).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), keys);
        assert_eq!(acks.length, text.len() as u64);
    }

    #[test]
    fn a_key_of_two_lines_is_unfit() {
        let fit = |key: &str| unfit(&documents(&[key.to_owned()])[0]).is_none();
        assert!(fit("a b") && !fit("a\nb") && !fit("a\r"));
    }
}
