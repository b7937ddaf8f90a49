//! Lines of bounded length, counted from 1.
//!
//! Invariant: of a line over the limit not more than the limit is kept; its length is counted, and the next line is
//! read as if nothing had been. A line ends with `\n` or `\r\n`, neither of which is part of it; the last line may
//! end without. A byte-order mark before the first line is part of none.

use std::io::{self, BufRead, BufReader, Read};

/// A line as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) content: Content,
    pub(super) end: LineEnd,
}

/// What is in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// All of it.
    Whole(Vec<u8>),
    /// More than the limit: so many bytes.
    TooLong(u64),
}

/// How a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnd {
    LineFeed,
    CarriageReturnLineFeed,
    EndOfInput,
}

impl LineEnd {
    pub(super) fn as_bytes(self) -> &'static [u8] {
        match self {
            LineEnd::LineFeed => b"\n",
            LineEnd::CarriageReturnLineFeed => b"\r\n",
            LineEnd::EndOfInput => b"",
        }
    }
}

/// Reads lines of at most `length_max` bytes.
#[derive(Debug)]
pub(super) struct LineReader<R> {
    source: BufReader<R>,
    length_max: usize,
    lines: u64,
    position: u64,
}

/// Large enough that reading costs nothing beside parsing.
const BUFFER_BYTES: usize = 256 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl<R: Read> LineReader<R> {
    pub(super) fn new(source: R, length_max: usize) -> LineReader<R> {
        LineReader {
            source: BufReader::with_capacity(BUFFER_BYTES, source),
            length_max,
            lines: 0,
            position: 0,
        }
    }

    pub(super) fn length_max(&self) -> usize {
        self.length_max
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Whether a whole line can be had without reading.
    pub(super) fn has_line_at_hand(&self) -> bool {
        self.source.buffer().contains(&b'\n')
    }

    /// The next line; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut kept = Vec::new();
        let mut length: u64 = 0;
        let mut last_byte = None;
        // More than the limit: room for what may turn out to be no part of the line, a mark and a `\r`.
        let keep_max = self.length_max.saturating_add(BYTE_ORDER_MARK.len() + 1);
        let has_end = loop {
            let buffer = match self.source.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                filled => filled?,
            };
            if buffer.is_empty() {
                break false;
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let piece = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or(buffer);
            let room = keep_max.saturating_sub(kept.len()).min(piece.len());
            kept.extend_from_slice(piece.get(..room).unwrap_or(piece));
            length = length.saturating_add(piece.len() as u64);
            last_byte = piece.last().copied().or(last_byte);
            let used = piece.len().saturating_add(usize::from(end.is_some()));
            self.source.consume(used);
            self.position = self.position.saturating_add(used as u64);
            if end.is_some() {
                break true;
            }
        };
        if !has_end && length == 0 {
            return Ok(None);
        }
        self.lines = self.lines.saturating_add(1);
        let end = match (has_end, last_byte) {
            (true, Some(b'\r')) => LineEnd::CarriageReturnLineFeed,
            (true, _) => LineEnd::LineFeed,
            (false, _) => LineEnd::EndOfInput,
        };
        Ok(Some(self.finish(kept, length, end)))
    }

    fn finish(&self, mut kept: Vec<u8>, mut length: u64, end: LineEnd) -> Line {
        if self.lines == 1 && kept.starts_with(BYTE_ORDER_MARK) {
            kept.drain(..BYTE_ORDER_MARK.len());
            length = length.saturating_sub(BYTE_ORDER_MARK.len() as u64);
        }
        if end == LineEnd::CarriageReturnLineFeed {
            length = length.saturating_sub(1);
        }
        let content = match usize::try_from(length) {
            Ok(length) if length <= self.length_max => {
                kept.truncate(length);
                Content::Whole(kept)
            }
            _ => Content::TooLong(length),
        };
        Line {
            number: self.lines,
            content,
            end,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(bytes: &[u8], length_max: usize) -> Vec<Line> {
        let mut reader = LineReader::new(bytes, length_max);
        let mut lines = Vec::new();
        while let Some(line) = reader.next().unwrap() {
            lines.push(line);
        }
        assert_eq!(reader.position(), bytes.len() as u64);
        lines
    }

    fn contents(bytes: &[u8], length_max: usize) -> Vec<Content> {
        let lines = lines(bytes, length_max).into_iter();
        lines.map(|line| line.content).collect()
    }

    fn whole(text: &str) -> Content {
        Content::Whole(text.as_bytes().to_vec())
    }

    #[test]
    fn a_line_ends_with_a_line_feed_with_both_or_with_the_input() {
        let read = lines(b"one\r\n\ntwo\rx\nthree", 10);
        let ends: Vec<LineEnd> = read.iter().map(|line| line.end).collect();
        let numbers: Vec<u64> = read.iter().map(|line| line.number).collect();
        assert_eq!(
            contents(b"one\r\n\ntwo\rx\nthree", 10),
            [whole("one"), whole(""), whole("two\rx"), whole("three")]
        );
        assert_eq!(numbers, [1, 2, 3, 4]);
        let expected = [
            LineEnd::CarriageReturnLineFeed,
            LineEnd::LineFeed,
            LineEnd::LineFeed,
            LineEnd::EndOfInput,
        ];
        assert_eq!(ends, expected);
        assert!(lines(b"", 10).is_empty());
    }

    #[test]
    fn a_line_over_the_limit_is_counted_and_not_kept() {
        assert_eq!(
            contents(b"12345\r\n123456\n12345678\r\nnext\n", 5),
            [
                whole("12345"),
                Content::TooLong(6),
                Content::TooLong(8),
                whole("next")
            ]
        );
        let endless = io::repeat(b'x').take(100 << 20);
        let mut reader = LineReader::new(endless, 1000);
        let line = reader.next().unwrap().unwrap();
        assert_eq!(line.content, Content::TooLong(100 << 20));
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        let text = "\u{feff}abcde\n\u{feff}\n";
        assert_eq!(
            contents(text.as_bytes(), 5),
            [whole("abcde"), whole("\u{feff}")]
        );
    }

    proptest! {
        /// Whatever was cut into lines, put together again, is the input.
        #[test]
        fn nothing_is_lost_between_lines(bytes in prop::collection::vec(prop::sample::select(b"ab\r\n".to_vec()), 0..200)) {
            let mut again = Vec::new();
            for line in lines(&bytes, 1000) {
                let Content::Whole(content) = line.content else { panic!("too long") };
                again.extend_from_slice(&content);
                again.extend_from_slice(line.end.as_bytes());
            }
            prop_assert_eq!(again, bytes);
        }
    }
}
