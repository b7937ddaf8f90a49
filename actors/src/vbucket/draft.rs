//! Writes made ready before the vbucket's lock is taken: their bytes put together, their memory allocated and paid for.
//!
//! Invariant: nothing here changes anything. What depends on the document there is made of the one that was there then; if
//! it is another under the lock, it is made anew there, so that no writer is put off for ever by others.

use std::sync::Arc;

use bytes::Bytes;

use super::amend::{Amended, Amendment, End};
use super::core::{Inner, VbucketCore};
use super::document_map::Place;
use super::kept::Kept;
use super::lookup::{Asks, LookedUp};
use super::memory;
use super::moment::{Now, expiry_at, is_expired};
use super::rule::{Contender, Rule};
use messages::OperationError;
use messages::vbucket::{
    Add, Append, Count, Delete, DeleteWithMeta, GivenMeta, Prepend, Replace, Resolution, Set,
    SetWithMeta, Touch, Write, WriteOptions,
};
use storage::{
    Cas, Datatype, DeleteSource, Document, DocumentKey, Expiry, Item, MemoryToken, Operation,
    Predecessor, RevSeqno, Seqno,
};

/// A write before the lock.
pub(super) struct Draft {
    pub(super) place: Place,
    pub(super) what: Drafted,
    /// What the store holds of a key that is not in memory, where somebody looked.
    pub(super) looked_up: Option<LookedUp>,
}

pub(super) enum Drafted {
    /// A whole document, or its tombstone: everything but what the lock gives.
    Whole {
        item: Arc<Item>,
        rule: Rule,
        version: Version,
    },
    /// What is there, changed.
    Amended(Box<Amending>),
}

/// A change of what is there.
pub(super) struct Amending {
    key: DocumentKey,
    amendment: Amendment,
    /// What was there.
    of: Option<Arc<Item>>,
    made: Result<Fresh, OperationError>,
}

/// Where CAS and revision of an item come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// They are drawn here.
    Drawn,
    /// It was written elsewhere, and brings them along.
    Brought,
}

/// An item that is paid for and has no place in history yet.
pub(super) struct Fresh {
    pub(super) item: Arc<Item>,
    pub(super) version: Version,
    pub(super) counter: Option<u64>,
}

impl Drafted {
    pub(super) fn key(&self) -> &DocumentKey {
        match self {
            Drafted::Whole { item, .. } => &item.document.key,
            Drafted::Amended(amending) => &amending.key,
        }
    }

    /// What must be there for it.
    pub(super) fn rule(&self) -> Rule {
        match self {
            Drafted::Whole { rule, .. } => *rule,
            Drafted::Amended(amending) => amending.amendment.rule(),
        }
    }

    /// What of a key that is not in memory must be known.
    pub(super) fn asks(&self) -> Asks {
        match self {
            Drafted::Whole { rule, .. } => rule.asks(),
            // Whatever must be there, it is made of that.
            Drafted::Amended(_) => Asks::Document,
        }
    }
}

impl VbucketCore {
    pub(super) fn draft(&self, write: Write, now: Now) -> Result<Draft, OperationError> {
        let max_ttl_s = self.admit_key_in_force(write.key())?.max_ttl_s;
        let expiry_of = |request| expiry_at(request, max_ttl_s, now.seconds);
        let whole = |key, value, options: WriteOptions, rule| {
            self.draft_document(key, value, options, expiry_of(options.expiry), rule)
        };
        let (key, amendment) = match write {
            Write::Set(Set {
                key,
                value,
                options,
            }) => return whole(key, value, options, Rule::Any(options.cas)),
            Write::Add(Add {
                key,
                value,
                options,
            }) => return whole(key, value, options, Rule::Absent(options.cas)),
            Write::Replace(Replace {
                key,
                value,
                options,
            }) => return whole(key, value, options, Rule::Replaced(options.cas)),
            Write::Delete(Delete { key, cas, .. }) => {
                let bytes = memory::cost_bytes(&key, 0);
                let token = memory::reserve_deletion(&self.memory, bytes)?;
                let item = tombstone(key, now.seconds, DeleteSource::Explicit, token);
                return Ok(self.draft_item(Arc::new(item), Rule::Present(cas), Version::Drawn));
            }
            Write::SetWithMeta(set) => return self.draft_given(set, now),
            Write::DeleteWithMeta(delete) => return self.draft_given_deletion(delete, now),
            Write::Touch(Touch { key, expiry, .. }) => (key, Amendment::Touch(expiry_of(expiry))),
            Write::Append(Append {
                key, value, cas, ..
            }) => (key, extension(value, End::Back, cas)),
            Write::Prepend(Prepend {
                key, value, cas, ..
            }) => (key, extension(value, End::Front, cas)),
            Write::Count(Count {
                key,
                delta,
                initial,
                expiry,
                ..
            }) => {
                let expiry = expiry_of(expiry);
                let count = Amendment::Count {
                    delta,
                    initial,
                    expiry,
                };
                (key, count)
            }
        };
        Ok(self.draft_amendment(key, amendment, now))
    }

    fn draft_document(
        &self,
        key: DocumentKey,
        value: Bytes,
        options: WriteOptions,
        expiry: Expiry,
        rule: Rule,
    ) -> Result<Draft, OperationError> {
        let item = self.paid(Document {
            key,
            value,
            datatype: options.datatype,
            flags: options.flags,
            expiry,
            cas: Cas(0),
            rev_seqno: RevSeqno(0),
        })?;
        Ok(self.draft_item(item, rule, Version::Drawn))
    }

    fn draft_given(&self, set: SetWithMeta, now: Now) -> Result<Draft, OperationError> {
        let SetWithMeta {
            key,
            value,
            meta,
            cas,
            resolution,
            ..
        } = set;
        check_given(meta.cas, now)?;
        let item = self.paid(Document {
            key,
            value,
            datatype: meta.datatype,
            flags: meta.flags,
            expiry: meta.expiry,
            cas: meta.cas,
            rev_seqno: meta.rev_seqno,
        })?;
        let rule = resolved(resolution, cas, meta, false);
        Ok(self.draft_item(item, rule, Version::Brought))
    }

    fn draft_given_deletion(
        &self,
        delete: DeleteWithMeta,
        now: Now,
    ) -> Result<Draft, OperationError> {
        let DeleteWithMeta {
            key,
            meta,
            cas,
            resolution,
            ..
        } = delete;
        check_given(meta.cas, now)?;
        let bytes = memory::cost_bytes(&key, 0);
        let token = memory::reserve_deletion(&self.memory, bytes)?;
        let mut item = tombstone(key, now.seconds, DeleteSource::Explicit, token);
        item.document.cas = meta.cas;
        item.document.rev_seqno = meta.rev_seqno;
        item.document.flags = meta.flags;
        let rule = resolved(resolution, cas, meta, true);
        Ok(self.draft_item(Arc::new(item), rule, Version::Brought))
    }

    fn draft_item(&self, item: Arc<Item>, rule: Rule, version: Version) -> Draft {
        Draft {
            place: self.map.place(item.document.key.as_encoded()),
            what: Drafted::Whole {
                item,
                rule,
                version,
            },
            looked_up: None,
        }
    }

    fn draft_amendment(&self, key: DocumentKey, amendment: Amendment, now: Now) -> Draft {
        let place = self.map.place(key.as_encoded());
        let of = self.map.get(place, key.as_encoded());
        // What is not live, or of an ended life of its collection, is nothing to make anything of; the lock says so.
        let of = of.and_then(Kept::into_whole).filter(|of| {
            !of.operation.is_tombstone() && !is_expired(of.document.expiry, now.seconds)
        });
        let made = self.amended(&key, &amendment, of.as_deref());
        Draft {
            place,
            what: Drafted::Amended(Box::new(Amending {
                key,
                amendment,
                of,
                made,
            })),
            looked_up: None,
        }
    }

    /// The item to be written where `live` is what is there now. Whatever is made of a value needs that value.
    pub(super) fn settled(
        &self,
        inner: &Inner,
        what: Drafted,
        live: Option<&Kept>,
        looked_up: Option<&LookedUp>,
    ) -> Result<Fresh, OperationError> {
        match what {
            Drafted::Whole { item, version, .. } => Ok(Fresh {
                item,
                version,
                counter: None,
            }),
            Drafted::Amended(amending) => {
                let Amending {
                    key,
                    amendment,
                    of,
                    made,
                } = *amending;
                let whole = |kept| VbucketCore::whole(inner, kept, looked_up);
                let live = live.map(whole).transpose()?;
                if of.as_ref().map(Arc::as_ptr) == live.map(Arc::as_ptr) {
                    return made;
                }
                // What was paid for it is given back first.
                drop(made);
                self.amended(&key, &amendment, live.map(|live| &**live))
            }
        }
    }

    fn amended(
        &self,
        key: &DocumentKey,
        amendment: &Amendment,
        live: Option<&Item>,
    ) -> Result<Fresh, OperationError> {
        let Amended { document, counter } = amendment.of(key, live.map(|live| &live.document))?;
        let item = self.paid(document)?;
        Ok(Fresh {
            item,
            version: Version::Drawn,
            counter,
        })
    }

    /// A document to be written, if it is not too large, and there is memory for it.
    fn paid(&self, document: Document) -> Result<Arc<Item>, OperationError> {
        let length = document.value.len();
        if length > Document::VALUE_LENGTH_MAX {
            return Err(OperationError::ValueTooLarge { length });
        }
        let bytes = memory::cost_bytes(&document.key, length);
        let token = memory::reserve(&self.memory, bytes)?;
        Ok(Arc::new(Item {
            token,
            ..Item::mutation(Seqno::ZERO, document)
        }))
    }
}

/// What must be there for a version that was written elsewhere.
const fn resolved(
    resolution: Resolution,
    cas: Option<Cas>,
    meta: GivenMeta,
    is_deletion: bool,
) -> Rule {
    match resolution {
        Resolution::Skip => Rule::Any(cas),
        Resolution::ByRevision => Rule::Outdone(
            cas,
            Contender {
                rev_seqno: meta.rev_seqno,
                cas: meta.cas,
                expiry: meta.expiry,
                flags: meta.flags,
                is_deletion,
            },
        ),
    }
}

/// Whether a document can have this CAS. The clock of a vbucket follows every one it sees, so one of a far future would have
/// all that is written after it carry the future on, to every cluster.
fn check_given(cas: Cas, now: Now) -> Result<(), OperationError> {
    if cas == Cas(0) || cas == Cas::LOCKED {
        return Err(OperationError::InvalidCas { cas });
    }
    let ahead_s = cas.0.saturating_sub(now.nanoseconds) / 1_000_000_000;
    if ahead_s > OperationError::CAS_AHEAD_S_MAX {
        return Err(OperationError::CasTooFarAhead { cas, ahead_s });
    }
    Ok(())
}

const fn extension(with: Bytes, end: End, cas: Option<Cas>) -> Amendment {
    Amendment::Extend { with, end, cas }
}

pub(super) fn tombstone(
    key: DocumentKey,
    now: u32,
    source: DeleteSource,
    token: MemoryToken,
) -> Item {
    Item {
        seqno: Seqno::ZERO,
        operation: Operation::Deletion {
            deleted_at: now,
            source,
        },
        predecessor: Predecessor::Unknown,
        document: Document {
            key,
            value: Bytes::new(),
            datatype: Datatype::RAW,
            flags: 0,
            expiry: Expiry(0),
            cas: Cas(0),
            rev_seqno: RevSeqno(0),
        },
        token,
    }
}
