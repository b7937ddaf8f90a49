//! One JSON object a line. The stored value is the line as it is; only the key is taken out of it.
//!
//! Invariant: a line is accepted only if it is one whole JSON object; lines of nothing but white space are passed
//! over. A key is the string's text, or the number as it is written: `1` and `1.0` are two keys.

use std::fmt;
use std::io::{self, Read};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::line::{Content, LineReader};
use super::{DocumentReader, NewDocument, Rejection, document};

#[derive(Debug)]
pub(super) struct NdjsonReader<R> {
    lines: LineReader<R>,
    field: String,
}

impl<R: Read> NdjsonReader<R> {
    pub(super) fn new(lines: LineReader<R>, field: &str) -> NdjsonReader<R> {
        NdjsonReader {
            lines,
            field: field.to_owned(),
        }
    }

    fn document(&self, line: u64, content: Vec<u8>) -> Result<NewDocument, Rejection> {
        let text = str::from_utf8(&content).map_err(|error| Rejection::not_utf8(line, error))?;
        let key = key_of(text, &self.field).map_err(|reason| Rejection::new(line, reason))?;
        document(line, key.as_bytes(), content.into())
    }
}

impl<R: Read> DocumentReader for NdjsonReader<R> {
    fn next(&mut self) -> io::Result<Option<Result<NewDocument, Rejection>>> {
        while let Some(line) = self.lines.next()? {
            match line.content {
                Content::TooLong(length) => {
                    return Ok(Some(Err(Rejection::too_long(line.number, length))));
                }
                Content::Whole(content) if content.trim_ascii().is_empty() => {}
                Content::Whole(content) => {
                    return Ok(Some(self.document(line.number, content)));
                }
            }
        }
        Ok(None)
    }

    fn position(&self) -> u64 {
        self.lines.position()
    }

    fn has_more_at_hand(&self) -> bool {
        self.lines.has_line_at_hand()
    }
}

/// The key in a line, or why there is none.
fn key_of(text: &str, field: &str) -> Result<String, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let found = ValueOf(field).deserialize(&mut json);
    let found = found.and_then(|found| json.end().map(|()| found));
    let found = found.map_err(|error| not_json(&error))?;
    let Some(value) = found else {
        return Err(format!("no field \"{}\"", field.escape_debug()));
    };
    let value = value.get();
    match value.as_bytes().first() {
        Some(b'"') => serde_json::from_str(value).map_err(|error| not_json(&error)),
        Some(b'0'..=b'9' | b'-') => Ok(value.to_owned()),
        _ => Err(format!(
            "the field \"{}\" is neither a string nor a number",
            field.escape_debug()
        )),
    }
}

/// What serde says, without its "line 1": the caller names the line.
fn not_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("not a JSON object: {what} at column {}", error.column())
}

/// Finds the value of one field, and checks that the rest is JSON. Of a field given twice, the last counts.
struct ValueOf<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for ValueOf<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ValueOf<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_wanted) = map.next_key_seed(Is(self.0))? {
            if is_wanted {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a name is the one wanted.
struct Is<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_string_or_a_number_as_written() {
        let key = |text: &str| key_of(text, "id");
        assert_eq!(key(r#"{"id":"a","x":{"id":2}}"#).unwrap(), "a");
        assert_eq!(
            key(r#" { "x" : [1, {"id":3}], "id" : "tab\t\u00e9" } "#).unwrap(),
            "tab\t\u{e9}"
        );
        assert_eq!(
            key(r#"{"id":18446744073709551616}"#).unwrap(),
            "18446744073709551616"
        );
        assert_eq!(key(r#"{"id":-1.50e3}"#).unwrap(), "-1.50e3");
        assert_eq!(key(r#"{"id":1,"\u0069d":2}"#).unwrap(), "2");
    }

    #[test]
    fn a_line_without_a_key_says_why() {
        let reason = |text: &str| key_of(text, "id").unwrap_err();
        assert_eq!(reason("{}"), "no field \"id\"");
        for value in ["null", "true", "[1]", "{}"] {
            let text = format!("{{\"id\":{value}}}");
            assert_eq!(
                reason(&text),
                "the field \"id\" is neither a string nor a number"
            );
        }
        for text in [
            "[1]",
            "{\"id\":1",
            "{\"id\":1} x",
            "{\"id\":01}",
            "id",
            "{\"id\":\"\\ud800\"}",
        ] {
            let reason = reason(text);
            assert!(
                reason.starts_with("not a JSON object: "),
                "{text}: {reason}"
            );
            assert!(!reason.contains("line"), "{text}: {reason}");
        }
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let depth = 200_000;
        let text = format!(
            "{{\"x\":{}{},\"id\":1}}",
            "[".repeat(depth),
            "]".repeat(depth)
        );
        assert_eq!(key_of(&text, "id").unwrap(), "1");
    }

    #[test]
    fn lines_are_read_one_by_one() {
        let text: &[u8] = b"{\"id\":\"a\"}\r\n\n  \n{\"id\": 7 } \n{\"id\":\xff}\n{\"id\":\"\"}\nlonger than that, by far, it is";
        let mut reader = NdjsonReader::new(LineReader::new(text, 20), "id");
        let mut read = || reader.next().unwrap().unwrap();
        let first = read().unwrap();
        assert_eq!(
            (first.line, first.key.key(), &first.value[..]),
            (1, &b"a"[..], &b"{\"id\":\"a\"}"[..])
        );
        let second = read().unwrap();
        assert_eq!(
            (second.line, second.key.key(), &second.value[..]),
            (4, &b"7"[..], &b"{\"id\": 7 } "[..])
        );
        assert_eq!(
            read().unwrap_err().to_string(),
            "line 5: not UTF-8 text at byte 7"
        );
        assert!(
            read()
                .unwrap_err()
                .to_string()
                .starts_with("line 6: the key is empty")
        );
        assert!(
            read()
                .unwrap_err()
                .to_string()
                .starts_with("line 7: the value is 31 bytes")
        );
        assert!(reader.next().unwrap().is_none());
    }
}
