//! What a write makes of the document that is there: another expiry, more bytes, another number. Pure.
//!
//! Invariant: what cannot be made is refused, and nothing is allocated for a value over the limit.

use bytes::{Bytes, BytesMut};

use super::rule::Rule;
use messages::OperationError;
use messages::vbucket::Delta;
use storage::{Cas, Datatype, Document, DocumentKey, Expiry};

/// A write that says how the document there is to change.
#[derive(Debug)]
pub(super) enum Amendment {
    /// Another expiry.
    Touch(Expiry),
    /// More bytes, at one of its ends.
    Extend {
        with: Bytes,
        end: End,
        cas: Option<Cas>,
    },
    /// Another number.
    Count {
        delta: Delta,
        initial: Option<u64>,
        /// Of a document that is made.
        expiry: Expiry,
    },
}

/// Where a value is extended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Front,
    Back,
}

/// What an amendment comes to.
#[derive(Debug)]
pub(super) struct Amended {
    pub(super) document: Document,
    pub(super) counter: Option<u64>,
}

impl Amendment {
    /// What must be there for it.
    pub(super) const fn rule(&self) -> Rule {
        match self {
            Amendment::Touch(_) | Amendment::Count { initial: None, .. } => Rule::Present(None),
            Amendment::Extend { cas, .. } => Rule::Present(*cas),
            Amendment::Count {
                initial: Some(_), ..
            } => Rule::Any(None),
        }
    }

    /// The document it makes of the live one there is, but for its version.
    pub(super) fn of(
        &self,
        key: &DocumentKey,
        live: Option<&Document>,
    ) -> Result<Amended, OperationError> {
        match (self, live) {
            (Amendment::Touch(expiry), Some(live)) => Ok(Amended {
                document: Document {
                    expiry: *expiry,
                    ..live.clone()
                },
                counter: None,
            }),
            (Amendment::Extend { with, end, .. }, Some(live)) => extended(live, with, *end),
            (Amendment::Count { delta, .. }, Some(live)) => {
                let counter = delta.of(number_in(&live.value)?);
                let document = Document {
                    value: counter.to_string().into(),
                    ..live.clone()
                };
                Ok(counted(document, counter))
            }
            (
                Amendment::Count {
                    initial: Some(initial),
                    expiry,
                    ..
                },
                None,
            ) => {
                let document = Document {
                    datatype: Datatype::JSON,
                    expiry: *expiry,
                    ..Document::new(key.clone(), initial.to_string(), Cas::default())
                };
                Ok(counted(document, *initial))
            }
            (
                Amendment::Touch(_)
                | Amendment::Extend { .. }
                | Amendment::Count { initial: None, .. },
                None,
            ) => Err(OperationError::KeyNotFound),
        }
    }
}

const fn counted(document: Document, counter: u64) -> Amended {
    Amended {
        document,
        counter: Some(counter),
    }
}

fn extended(live: &Document, with: &[u8], end: End) -> Result<Amended, OperationError> {
    let Datatype(kinds) = live.datatype;
    if kinds & (Datatype::SNAPPY.0 | Datatype::XATTR.0) != 0 {
        return Err(OperationError::NotExtensible);
    }
    let length = live.value.len().saturating_add(with.len());
    if length > Document::VALUE_LENGTH_MAX {
        return Err(OperationError::ValueTooLarge { length });
    }
    let (first, second) = match end {
        End::Front => (with, &*live.value),
        End::Back => (&*live.value, with),
    };
    let mut value = BytesMut::with_capacity(length);
    value.extend_from_slice(first);
    value.extend_from_slice(second);
    let was_json = kinds & Datatype::JSON.0 != 0;
    let datatype = if was_json && is_json(&value) {
        live.datatype
    } else {
        Datatype(kinds & !Datatype::JSON.0)
    };
    Ok(Amended {
        document: Document {
            value: value.freeze(),
            datatype,
            ..live.clone()
        },
        counter: None,
    })
}

fn is_json(value: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(value).is_ok()
}

/// Digits and nothing else, as counting writes them.
fn number_in(value: &[u8]) -> Result<u64, OperationError> {
    let digits = std::str::from_utf8(value).ok();
    let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    number.ok_or(OperationError::DeltaBadValue)
}
