//! Collections and scopes as the store knows them: system events, and what of a dropped collection is left to erase.
//!
//! Invariant: an event says all a store must know of it without looking anything up; the end of a collection names the
//! generation `[start, end)` it ends, so that a collection created anew under the same id is never mistaken for it.
//! Drawn in `docs/storage-format.md`, section "System events".

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::document::{CollectionId, DocumentKey, Item, KeyError, Operation};
use crate::leb128::{put_u64, take_u32, take_u64};
use crate::seqno::Seqno;

/// Number of a scope.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ScopeId(pub u32);

impl ScopeId {
    /// The scope every bucket begins with.
    pub const DEFAULT: ScopeId = ScopeId(0);
}

/// Version of a collections manifest; every change raises it by one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ManifestUid(pub u64);

impl CollectionId {
    /// The prefix of the keys of system events; no client's collection.
    pub const SYSTEM: CollectionId = CollectionId(1);
}

/// One life of a collection that was dropped and is not erased yet: every item of it with `start <= seqno < end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DroppedCollection {
    /// Its number.
    pub collection: CollectionId,
    /// Seqno of the event that began it; zero for the default collection.
    pub start: Seqno,
    /// Seqno of the event that ended it, which is not part of it.
    pub end: Seqno,
}

impl DroppedCollection {
    /// Whether an item of `collection` at `seqno` is of this life.
    #[must_use]
    pub fn holds(&self, collection: CollectionId, seqno: Seqno) -> bool {
        collection == self.collection && self.start <= seqno && seqno < self.end
    }

    /// The life that ends with this item, if one does.
    pub(crate) fn ended_by(item: &Item) -> Option<DroppedCollection> {
        if item.operation != Operation::SystemEventEnd {
            return None;
        }
        let Ok(SystemEvent::CollectionEnd {
            collection, start, ..
        }) = SystemEvent::of(item)
        else {
            return None;
        };
        Some(DroppedCollection {
            collection,
            start,
            end: item.seqno,
        })
    }
}

/// A collection or scope beginning or ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemEvent {
    /// A collection began.
    CollectionBegin {
        /// The manifest that has it first.
        uid: ManifestUid,
        /// Its scope.
        scope: ScopeId,
        /// Its number.
        collection: CollectionId,
        /// Its name.
        name: String,
        /// Longest life of a document in seconds; zero for no limit.
        max_ttl_s: u32,
    },
    /// A collection ended.
    CollectionEnd {
        /// The manifest that lacks it first.
        uid: ManifestUid,
        /// Its scope.
        scope: ScopeId,
        /// Its number.
        collection: CollectionId,
        /// Seqno of the event that began it; zero for the default collection.
        start: Seqno,
    },
    /// A scope began.
    ScopeBegin {
        /// The manifest that has it first.
        uid: ManifestUid,
        /// Its number.
        scope: ScopeId,
        /// Its name.
        name: String,
    },
    /// A scope ended.
    ScopeEnd {
        /// The manifest that lacks it first.
        uid: ManifestUid,
        /// Its number.
        scope: ScopeId,
    },
}

/// A system event's item that does not say what an event must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the item is no system event that can be read")]
pub struct SystemEventError;

const COLLECTION: u8 = b'c';
const SCOPE: u8 = b's';

impl SystemEvent {
    /// The manifest it belongs to.
    #[must_use]
    pub const fn uid(&self) -> ManifestUid {
        match self {
            SystemEvent::CollectionBegin { uid, .. }
            | SystemEvent::CollectionEnd { uid, .. }
            | SystemEvent::ScopeBegin { uid, .. }
            | SystemEvent::ScopeEnd { uid, .. } => *uid,
        }
    }

    /// The operation of its item.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        match self {
            SystemEvent::CollectionBegin { .. } | SystemEvent::ScopeBegin { .. } => {
                Operation::SystemEventBegin
            }
            SystemEvent::CollectionEnd { .. } | SystemEvent::ScopeEnd { .. } => {
                Operation::SystemEventEnd
            }
        }
    }

    /// The key of its item: one slot for each collection and each scope, whatever happens to it.
    pub fn key(&self) -> Result<DocumentKey, KeyError> {
        let (kind, number) = match self {
            SystemEvent::CollectionBegin { collection, .. }
            | SystemEvent::CollectionEnd { collection, .. } => (COLLECTION, collection.0),
            SystemEvent::ScopeBegin { scope, .. } | SystemEvent::ScopeEnd { scope, .. } => {
                (SCOPE, scope.0)
            }
        };
        let [a, b, c, d] = number.to_be_bytes();
        DocumentKey::new(CollectionId::SYSTEM, &[kind, a, b, c, d])
    }

    /// The value of its item.
    #[must_use]
    pub fn value(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            SystemEvent::CollectionBegin {
                uid,
                scope,
                name,
                max_ttl_s,
                ..
            } => {
                put_u64(&mut out, uid.0);
                put_u64(&mut out, u64::from(scope.0));
                put_u64(&mut out, u64::from(*max_ttl_s));
                out.extend_from_slice(name.as_bytes());
            }
            SystemEvent::CollectionEnd {
                uid, scope, start, ..
            } => {
                put_u64(&mut out, uid.0);
                put_u64(&mut out, u64::from(scope.0));
                put_u64(&mut out, start.0);
            }
            SystemEvent::ScopeBegin { uid, name, .. } => {
                put_u64(&mut out, uid.0);
                out.extend_from_slice(name.as_bytes());
            }
            SystemEvent::ScopeEnd { uid, .. } => put_u64(&mut out, uid.0),
        }
        out.into()
    }

    /// What an item of the system events' namespace says.
    pub fn of(item: &Item) -> Result<SystemEvent, SystemEventError> {
        SystemEvent::read(
            item.operation,
            item.document.key.as_encoded(),
            &item.document.value,
        )
    }

    /// What an item with this operation, encoded key and value says.
    pub fn read(
        operation: Operation,
        encoded_key: &[u8],
        value: &[u8],
    ) -> Result<SystemEvent, SystemEventError> {
        take(operation, encoded_key, value).ok_or(SystemEventError)
    }
}

fn take(operation: Operation, key: &[u8], value: &[u8]) -> Option<SystemEvent> {
    let (collection, key) = crate::document::split(key).ok()?;
    if collection != CollectionId::SYSTEM {
        return None;
    }
    let (&kind, number) = key.split_first()?;
    let number = u32::from_be_bytes(number.try_into().ok()?);
    let (uid, rest) = take_u64(value)?;
    let uid = ManifestUid(uid);
    let is_begin = match operation {
        Operation::SystemEventBegin => true,
        Operation::SystemEventEnd => false,
        Operation::Mutation
        | Operation::Deletion { .. }
        | Operation::Prepare { .. }
        | Operation::Abort { .. }
        | Operation::CommitMutation { .. }
        | Operation::CommitDeletion { .. } => return None,
    };
    match (kind, is_begin) {
        (COLLECTION, true) => {
            let (scope, rest) = take_u32(rest)?;
            let (max_ttl_s, rest) = take_u32(rest)?;
            Some(SystemEvent::CollectionBegin {
                uid,
                scope: ScopeId(scope),
                collection: CollectionId(number),
                name: name_of(rest)?,
                max_ttl_s,
            })
        }
        (COLLECTION, false) => {
            let (scope, rest) = take_u32(rest)?;
            let (start, rest) = take_u64(rest)?;
            rest.is_empty().then_some(SystemEvent::CollectionEnd {
                uid,
                scope: ScopeId(scope),
                collection: CollectionId(number),
                start: Seqno(start),
            })
        }
        (SCOPE, true) => Some(SystemEvent::ScopeBegin {
            uid,
            scope: ScopeId(number),
            name: name_of(rest)?,
        }),
        (SCOPE, false) => rest.is_empty().then_some(SystemEvent::ScopeEnd {
            uid,
            scope: ScopeId(number),
        }),
        _ => None,
    }
}

fn name_of(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests;
