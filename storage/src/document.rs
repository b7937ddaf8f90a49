//! Documents and items: what is stored. A document is a client's key, value and metadata; an item is a document
//! at one seqno, with the operation that put it there.
//!
//! Invariant: limits are checked where keys and values are made, never again on the paths that carry them.

mod key;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cas::Cas;
use crate::durability::DurabilityLevel;
use crate::memory::MemoryToken;
use crate::seqno::Seqno;

pub(crate) use key::split;
pub use key::{DocumentKey, KeyError};

/// Number of a collection.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct CollectionId(pub u32);

impl CollectionId {
    /// The collection every bucket begins with.
    pub const DEFAULT: CollectionId = CollectionId(0);
}

/// What kind of bytes a value holds, as the field's bit set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datatype(pub u8);

impl Datatype {
    /// Opaque bytes.
    pub const RAW: Datatype = Datatype(0);
    /// The value is JSON.
    pub const JSON: Datatype = Datatype(1);
    /// The value is compressed with Snappy.
    pub const SNAPPY: Datatype = Datatype(2);
    /// The value begins with extended attributes.
    pub const XATTR: Datatype = Datatype(4);
}

/// When a document expires, in seconds since the Unix epoch; zero is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Expiry(pub u32);

/// How often a document was changed; decides conflicts between clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RevSeqno(pub u64);

/// A client's document: key, value and metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its key.
    pub key: DocumentKey,
    /// Its value, at most [`Document::VALUE_LENGTH_MAX`] bytes.
    pub value: Bytes,
    /// What the value's bytes are.
    pub datatype: Datatype,
    /// The client's flags, kept as they are.
    pub flags: u32,
    /// When it expires.
    pub expiry: Expiry,
    /// Its version.
    pub cas: Cas,
    /// How often it was changed.
    pub rev_seqno: RevSeqno,
}

impl Document {
    /// Longest value in bytes (20 MiB).
    pub const VALUE_LENGTH_MAX: usize = 20 * 1024 * 1024;

    /// A first version of a document, as raw bytes that never expire.
    #[must_use]
    pub fn new(key: DocumentKey, value: impl Into<Bytes>, cas: Cas) -> Document {
        Document {
            key,
            value: value.into(),
            datatype: Datatype::RAW,
            flags: 0,
            expiry: Expiry(0),
            cas,
            rev_seqno: RevSeqno(1),
        }
    }
}

/// Why a document is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeleteSource {
    /// A client deleted it.
    Explicit,
    /// Its time was up.
    Expiration,
}

/// What put an item there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A document was written.
    Mutation,
    /// A document was deleted; the item is its tombstone.
    Deletion {
        /// When, in seconds since the Unix epoch. Always set on receipt (MB-30015).
        deleted_at: u32,
        /// Why.
        source: DeleteSource,
    },
    /// A durable write waits for its replicas.
    Prepare {
        /// What it waits for.
        level: DurabilityLevel,
        /// Whether it will delete the document when committed.
        is_deletion: bool,
    },
    /// A durable write was given up.
    Abort {
        /// The prepare it ends.
        prepare_seqno: Seqno,
        /// When, in seconds since the Unix epoch.
        deleted_at: u32,
    },
    /// A durable write was committed: the document as of now.
    CommitMutation {
        /// The prepare it ends.
        prepare_seqno: Seqno,
    },
    /// A durable deletion was committed: the item is the tombstone.
    CommitDeletion {
        /// The prepare it ends.
        prepare_seqno: Seqno,
        /// When, in seconds since the Unix epoch.
        deleted_at: u32,
    },
    /// A collection or scope began.
    SystemEventBegin,
    /// A collection or scope ended; the item is a tombstone that stays (purge rule 1).
    SystemEventEnd,
}

/// Which of a key's independent slots an item fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Namespace {
    /// Documents and their tombstones.
    Committed = 0,
    /// Prepares and aborts.
    Prepared = 1,
    /// Collections and scopes beginning and ending.
    SystemEvent = 2,
}

impl Namespace {
    /// All of them, in their order on disk.
    pub const ALL: [Namespace; 3] = [
        Namespace::Committed,
        Namespace::Prepared,
        Namespace::SystemEvent,
    ];

    /// The namespace stored as `byte`.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Namespace> {
        match byte {
            0 => Some(Namespace::Committed),
            1 => Some(Namespace::Prepared),
            2 => Some(Namespace::SystemEvent),
            _ => None,
        }
    }
}

impl Operation {
    /// The namespace its item lies in.
    #[must_use]
    pub const fn namespace(&self) -> Namespace {
        match self {
            Operation::Mutation
            | Operation::Deletion { .. }
            | Operation::CommitMutation { .. }
            | Operation::CommitDeletion { .. } => Namespace::Committed,
            Operation::Prepare { .. } | Operation::Abort { .. } => Namespace::Prepared,
            Operation::SystemEventBegin | Operation::SystemEventEnd => Namespace::SystemEvent,
        }
    }

    /// Whether its item is a tombstone: the key's slot is empty, and this says since when.
    #[must_use]
    pub const fn is_tombstone(&self) -> bool {
        match self {
            Operation::Deletion { .. }
            | Operation::CommitDeletion { .. }
            | Operation::Abort { .. }
            | Operation::SystemEventEnd => true,
            Operation::Mutation
            | Operation::CommitMutation { .. }
            | Operation::Prepare { .. }
            | Operation::SystemEventBegin => false,
        }
    }
}

/// What the writer knows of the version an item replaces: the last one of its key and namespace *in the store*
/// (rule R8). A hint that saves lookups; the store verifies it when it seals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Predecessor {
    /// Not known; the store looks it up off the commit path.
    #[default]
    Unknown,
    /// The store holds no version of this key, not even a tombstone.
    Absent,
    /// The store's newest version of this key.
    At(Seqno),
}

/// A document at one seqno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its place in the vbucket's history.
    pub seqno: Seqno,
    /// What put it there.
    pub operation: Operation,
    /// What it replaces.
    pub predecessor: Predecessor,
    /// The document; of a tombstone the value is usually empty.
    pub document: Document,
    /// What it costs in memory, to whom. No part of what the item says.
    pub token: MemoryToken,
}

impl Item {
    /// A document written at `seqno`, whatever was there before.
    #[must_use]
    pub fn mutation(seqno: Seqno, document: Document) -> Item {
        let (operation, predecessor) = (Operation::Mutation, Predecessor::Unknown);
        Item {
            seqno,
            operation,
            predecessor,
            document,
            token: MemoryToken::default(),
        }
    }

    /// The namespace it lies in.
    #[must_use]
    pub const fn namespace(&self) -> Namespace {
        self.operation.namespace()
    }

    /// Bytes the item is accounted with: key with prefix, and value.
    #[must_use]
    pub fn user_bytes(&self) -> u64 {
        (self.document.key.as_encoded().len() as u64)
            .saturating_add(self.document.value.len() as u64)
    }
}

#[cfg(test)]
mod tests;
