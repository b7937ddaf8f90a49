//! A change as a line of JSON. The names are public: `docs/cli.md` lists them.
//!
//! Invariant: a value stands as it is where it is JSON, and as base64 where it is not; a 64-bit identity is a string.

use serde::Serialize;
use serde_json::value::RawValue;

use piggin::messages::stream::{SnapshotFlags, StreamEvent, SystemEventAt};
use piggin::storage::{CollectionId, Item, SystemEvent};
use piggin::{Change, ChangesToken};

/// The line of a token.
#[derive(Debug, Serialize)]
pub(super) struct TokenLine {
    event: &'static str,
    token: String,
}

impl TokenLine {
    pub(super) fn of(token: &ChangesToken) -> TokenLine {
        TokenLine {
            event: "token",
            token: token.to_string(),
        }
    }
}

/// The line of a change. What does not concern an event is left out.
#[derive(Debug, Default, Serialize)]
pub(super) struct EventLine {
    event: &'static str,
    vbucket: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    seqno: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
    /// Of a snapshot that has every version; else it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cas: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collection: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl EventLine {
    pub(super) fn of(change: &Change) -> EventLine {
        let line = EventLine {
            vbucket: change.vbucket.get(),
            seqno: change.event.seqno().map(|seqno| seqno.0),
            ..EventLine::default()
        };
        match &change.event {
            StreamEvent::SnapshotMarker(marker) => {
                let is_disk = marker.flags.has(SnapshotFlags::DISK);
                EventLine {
                    event: "snapshot_marker",
                    start: Some(marker.start.0),
                    end: Some(marker.end.0),
                    source: Some(if is_disk { "disk" } else { "memory" }),
                    history: marker.flags.has(SnapshotFlags::HISTORY).then_some(true),
                    ..line
                }
            }
            StreamEvent::Mutation(item) => line.of_item("mutation", item).with_value(item),
            StreamEvent::Deletion(item) => line.of_item("deletion", item),
            StreamEvent::Expiration(item) => line.of_item("expiration", item),
            StreamEvent::Prepare(item) => line.of_item("prepare", item).with_value(item),
            StreamEvent::Commit(item) => line.of_item("commit", item).with_value(item),
            StreamEvent::Abort(item) => line.of_item("abort", item),
            StreamEvent::SystemEvent(event) => line.of_event(event),
            StreamEvent::SeqnoAdvanced(_) => EventLine {
                event: "seqno_advanced",
                ..line
            },
            StreamEvent::StreamEnd(reason) => EventLine {
                event: "stream_end",
                reason: Some(reason.name()),
                ..line
            },
        }
    }

    fn of_item(self, event: &'static str, item: &Item) -> EventLine {
        let document = &item.document;
        let key = document.key.key();
        let text = str::from_utf8(key).ok();
        let collection = document.key.collection();
        EventLine {
            event,
            cas: Some(document.cas.0.to_string()),
            // That of most is left out.
            collection: (collection != CollectionId::DEFAULT).then_some(collection.0),
            key: text.map(str::to_owned),
            key_base64: text.is_none().then(|| base64(key)),
            ..self
        }
    }

    fn with_value(self, item: &Item) -> EventLine {
        let value = &item.document.value;
        match in_json(value) {
            Some(json) => EventLine {
                value: Some(json),
                ..self
            },
            None => EventLine {
                value_base64: Some(base64(value)),
                ..self
            },
        }
    }

    fn of_event(self, event: &SystemEventAt) -> EventLine {
        let line = EventLine {
            event: "system_event",
            ..self
        };
        match &event.event {
            SystemEvent::CollectionBegin {
                scope,
                collection,
                name,
                ..
            } => EventLine {
                what: Some("collection_begin"),
                scope: Some(scope.0),
                collection: Some(collection.0),
                name: Some(name.clone()),
                ..line
            },
            SystemEvent::CollectionEnd {
                scope, collection, ..
            } => EventLine {
                what: Some("collection_end"),
                scope: Some(scope.0),
                collection: Some(collection.0),
                ..line
            },
            SystemEvent::ScopeBegin { scope, name, .. } => EventLine {
                what: Some("scope_begin"),
                scope: Some(scope.0),
                name: Some(name.clone()),
                ..line
            },
            SystemEvent::ScopeEnd { scope, .. } => EventLine {
                what: Some("scope_end"),
                scope: Some(scope.0),
                ..line
            },
        }
    }
}

/// The value as it stands, if it is JSON; on one line, which takes nothing from it: a line end can only stand between
/// its parts.
pub(crate) fn in_json(value: &[u8]) -> Option<Box<RawValue>> {
    let text = str::from_utf8(value).ok()?;
    let text = text.trim().replace(['\n', '\r'], " ");
    RawValue::from_string(text).ok()
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// As RFC 4648 has it, padded.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for group in bytes.chunks(3) {
        let byte = |at: usize| group.get(at).copied().map_or(0, u32::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4usize {
            // A group of n bytes has n + 1 digits.
            if place > group.len() {
                text.push('=');
                continue;
            }
            let shift = 18u32.saturating_sub(u32::try_from(place).unwrap_or(0).saturating_mul(6));
            let digit = usize::try_from(bits >> shift & 0x3f).unwrap_or(0);
            text.push(DIGITS.get(digit).copied().map_or('=', char::from));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let rows = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in rows {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn a_value_that_is_json_stands_on_one_line() {
        let shown = |value: &str| in_json(value.as_bytes()).map(|json| json.get().to_owned());
        assert_eq!(
            shown("{\n \"a\":\t1}\r\n").as_deref(),
            Some("{  \"a\":\t1}")
        );
        assert_eq!(
            shown("12345678901234567890123").as_deref(),
            Some("12345678901234567890123")
        );
        assert_eq!(shown("no json"), None);
        assert_eq!(shown(""), None);
        assert!(in_json(&[0xff]).is_none());
    }
}
