//! The writes of a client: of each kind, some with the metadata of elsewhere.
//!
//! Invariant: what a write makes of its document if it is done is known before it is asked for.

use bytes::Bytes;

use piggin::VbucketAddr;
use piggin::messages::OperationError;
use piggin::messages::vbucket::{
    Acknowledge, Add, Append, Delete, DeleteWithMeta, GivenMeta, Mutated, Replace, Resolution, Set,
    SetWithMeta, Write, WriteBatch, WriteOptions,
};
use piggin::storage::{Cas, CollectionId, Datatype, DocumentKey, Expiry, RevSeqno};
use supervisor::testing::{Clock, Random};

use super::Client;
use crate::history::Place;

/// Most bytes of a value.
const VALUE_BYTES_MAX: u64 = 2000;
/// Longer values are not appended to.
const GROWN: usize = 8000;
/// Documents are changed so often, more or less: now the one from elsewhere is the later one, and now the one here.
const REVISIONS: u64 = 40;

/// A document was written as it is elsewhere.
pub(crate) const SET: &str = "set with meta";
/// One was deleted as it is elsewhere.
pub(crate) const DELETED: &str = "deleted with meta";
/// The one here was the later one.
pub(crate) const LOST: &str = "conflict lost";

impl Client {
    pub(super) fn write(&self, key: u64, acknowledge: Acknowledge) -> (Place, Write) {
        let place = self.place(key);
        let key = DocumentKey::new(CollectionId::DEFAULT, place.1.as_bytes());
        let key = key.expect("a short name");
        let value = self.value();
        let options = WriteOptions {
            acknowledge,
            ..WriteOptions::default()
        };
        let asked = Some(value.clone());
        let (write, asked) = match self.random.below(10) {
            0 => {
                let cas = None;
                let delete = Delete {
                    key,
                    cas,
                    acknowledge,
                };
                (Write::Delete(delete), None)
            }
            1 => {
                let add = Add {
                    key,
                    value,
                    options,
                };
                (Write::Add(add), asked)
            }
            2 => {
                let replace = Replace {
                    key,
                    value,
                    options,
                };
                (Write::Replace(replace), asked)
            }
            8 => {
                let set = SetWithMeta {
                    key,
                    value,
                    meta: self.meta(),
                    cas: None,
                    resolution: self.resolution(),
                    acknowledge,
                };
                (Write::SetWithMeta(set), asked)
            }
            9 => {
                let delete = DeleteWithMeta {
                    key,
                    meta: self.meta(),
                    cas: None,
                    resolution: self.resolution(),
                    acknowledge,
                };
                (Write::DeleteWithMeta(delete), None)
            }
            // More and more of it, if it is known what there is.
            3 if let Some(known) = self
                .history
                .known(&place)
                .filter(|known| known.len() < GROWN) =>
            {
                let asked = Bytes::from([&known[..], &value].concat());
                let append = Append {
                    key,
                    value,
                    cas: None,
                    acknowledge,
                };
                (Write::Append(append), Some(asked))
            }
            _ => {
                let set = Set {
                    key,
                    value,
                    options,
                };
                (Write::Set(set), asked)
            }
        };
        self.history.asked(&place, asked);
        (place, write)
    }

    /// No two values are the same.
    pub(super) fn value(&self) -> Bytes {
        let length = self.random.below(VALUE_BYTES_MAX);
        let mut value = format!("{:016x} ", self.random.next_u64());
        while (value.len() as u64) < length {
            value.push_str("value ");
        }
        value.into()
    }

    /// As another cluster may have written it a moment ago.
    fn meta(&self) -> GivenMeta {
        let now = self.world.clock().since_epoch().as_nanos();
        GivenMeta {
            cas: Cas(u64::try_from(now).unwrap_or(1)),
            rev_seqno: RevSeqno(self.random.between(1..=REVISIONS)),
            flags: 7,
            datatype: Datatype::RAW,
            expiry: Expiry(0),
        }
    }

    fn resolution(&self) -> Resolution {
        if self.random.chance(500) {
            Resolution::ByRevision
        } else {
            Resolution::Skip
        }
    }
}

/// What a write with the metadata of elsewhere counts as when it is done.
pub(super) fn from_elsewhere(write: &Write) -> Option<&'static str> {
    match write {
        Write::SetWithMeta(_) => Some(SET),
        Write::DeleteWithMeta(_) => Some(DELETED),
        Write::Set(_)
        | Write::Add(_)
        | Write::Replace(_)
        | Write::Delete(_)
        | Write::Touch(_)
        | Write::Append(_)
        | Write::Prepend(_)
        | Write::Count(_) => None,
    }
}

/// Through the vbucket's actor. A mailbox that answers nothing says as much as an actor that crashed.
pub(super) async fn send(vbucket: &VbucketAddr, write: Write) -> Result<Mutated, OperationError> {
    let answer = match write {
        Write::Set(set) => vbucket.send(set).await,
        Write::Add(add) => vbucket.send(add).await,
        Write::Replace(replace) => vbucket.send(replace).await,
        Write::Delete(delete) => vbucket.send(delete).await,
        Write::Append(append) => vbucket.send(append).await,
        Write::SetWithMeta(set) => vbucket.send(set).await,
        Write::DeleteWithMeta(delete) => vbucket.send(delete).await,
        write @ (Write::Touch(_) | Write::Prepend(_) | Write::Count(_)) => {
            let batch = WriteBatch {
                writes: vec![write],
            };
            vbucket.send(batch).await.map(single)
        }
    };
    answer.unwrap_or(Err(OperationError::Closed))
}

pub(super) fn single(
    answers: Vec<Result<Mutated, OperationError>>,
) -> Result<Mutated, OperationError> {
    let mut answers = answers.into_iter();
    answers.next().unwrap_or(Err(OperationError::Closed))
}
