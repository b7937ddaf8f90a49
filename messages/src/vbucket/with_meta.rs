//! Writes that bring their metadata along, from a cluster that has the same documents.
//!
//! Invariant: whichever way two clusters hear of two versions of a document, both keep the same one. Each is an argument at
//! both doors, as in [`super`].

use actix::Message;
use bytes::Bytes;
use storage::{Cas, Datatype, DocumentKey, Expiry, RevSeqno};

use super::{Acknowledge, Meta, Mutated};
use crate::status::OperationError;

/// The metadata a version has where it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenMeta {
    /// Its version; neither zero nor all ones, and not of a far future.
    pub cas: Cas,
    /// How often it was changed.
    pub rev_seqno: RevSeqno,
    /// The client's flags.
    pub flags: u32,
    /// What the value's bytes are.
    pub datatype: Datatype,
    /// When it expires, absolute; zero is never. Kept as it is, whatever the collection allows.
    pub expiry: Expiry,
}

impl From<Meta> for GivenMeta {
    fn from(meta: Meta) -> GivenMeta {
        GivenMeta {
            cas: meta.cas,
            rev_seqno: meta.rev_seqno,
            flags: meta.flags,
            datatype: meta.datatype,
            expiry: meta.expiry,
        }
    }
}

/// Which of two versions stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolution {
    /// The one changed more often; of equals the one with the higher CAS, then the one that expires later, then the one
    /// with the higher flags, then the one that is there. A deletion that equals what is there by revision and CAS is
    /// none.
    #[default]
    ByRevision,
    /// The one that is written now.
    Skip,
}

/// Write a document as it is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Mutated, OperationError>")]
pub struct SetWithMeta {
    /// Which.
    pub key: DocumentKey,
    /// Its value.
    pub value: Bytes,
    /// Its metadata.
    pub meta: GivenMeta,
    /// The version the caller read here; the write fails when it is not the present one.
    pub cas: Option<Cas>,
    /// What is done about the version that is there.
    pub resolution: Resolution,
    /// When it is answered.
    pub acknowledge: Acknowledge,
}

/// Delete a document as it was deleted elsewhere: leaves a tombstone, also where there is no document.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Mutated, OperationError>")]
pub struct DeleteWithMeta {
    /// Which.
    pub key: DocumentKey,
    /// The tombstone's metadata.
    pub meta: GivenMeta,
    /// The version the caller read here; the deletion fails when it is not the present one.
    pub cas: Option<Cas>,
    /// What is done about the version that is there.
    pub resolution: Resolution,
    /// When it is answered.
    pub acknowledge: Acknowledge,
}

/// Read any document of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<super::Picked, OperationError>")]
pub struct GetRandom {
    /// Of which collection.
    pub collection: storage::CollectionId,
}
