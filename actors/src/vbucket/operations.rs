//! What clients do, for both doors: plain functions on the core, acknowledged in memory. Whoever wants the disk takes a
//! place first ([`VbucketCore::reserve_wait`]) and waits for the seqno of the answer.
//!
//! Invariant: an error means nothing of the request was applied. What is decided under the lock is decided on the map
//! as it is under the lock; what can fail for lack of anything (memory, size, state) fails before it is taken.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::core::VbucketCore;
use super::document_map::Place;
use super::fault::ChangeStep;
use super::lock::Locked;
use super::manifest::Opened;
use super::memory;
use super::rule::Rule;
use super::status::Sight;
use messages::OperationError;
use messages::vbucket::{
    Add, Delete, ExpiryRequest, Found, GetAndTouch, Meta, Mutated, MutationToken, Replace, Set,
    Touch, Write, WriteBatch, WriteOptions,
};
use storage::{
    Cas, Datatype, DeleteSource, Document, DocumentKey, Expiry, Item, MemoryToken, Operation,
    Predecessor, RevSeqno, Seqno,
};

/// One moment by the wall clock, read once for a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    nanoseconds: u64,
    pub(super) seconds: u32,
}

/// A write made ready before the lock is taken: all of its memory is allocated and paid for.
pub(super) struct Draft {
    pub(super) place: Place,
    pub(super) what: Drafted,
}

pub(super) enum Drafted {
    /// A whole document, or its tombstone: everything but what the lock gives.
    Item { item: Arc<Item>, rule: Rule },
    /// Another expiry for what is there.
    Touch { key: DocumentKey, expiry: Expiry },
}

impl VbucketCore {
    /// Reads a document.
    pub fn get(&self, key: &DocumentKey) -> Result<Found, OperationError> {
        let sight = self.admit_read()?;
        let opened = self.admit_key_in_force(key)?;
        self.look(sight, opened, key, |item| {
            self.is_live(item).then(|| found(item))
        })
    }

    /// Reads metadata only; shows tombstones that are still in memory, too.
    pub fn get_meta(&self, key: &DocumentKey) -> Result<Meta, OperationError> {
        let sight = self.admit_read()?;
        let opened = self.admit_key_in_force(key)?;
        self.look(sight, opened, key, |item| {
            let is_shown = item.operation.is_tombstone() || self.is_live(item);
            is_shown.then(|| meta(item))
        })
    }

    /// Whether there is such a document.
    pub fn exists(&self, key: &DocumentKey) -> Result<bool, OperationError> {
        let sight = self.admit_read()?;
        let opened = self.admit_key_in_force(key)?;
        match self.look(sight, opened, key, |item| self.is_live(item).then_some(())) {
            Ok(()) => Ok(true),
            Err(OperationError::KeyNotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads many documents, answered in order, each for itself.
    pub fn get_many(&self, keys: &[DocumentKey]) -> Vec<Result<Found, OperationError>> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    fn look<R>(
        &self,
        sight: Sight,
        opened: Opened,
        key: &DocumentKey,
        read: impl FnOnce(&Item) -> Option<R>,
    ) -> Result<R, OperationError> {
        if sight == Sight::Partial && self.prepares.is_unloaded() {
            return Err(WARMING_UP);
        }
        // Before the document is looked at: of what is over the map has the outcome.
        if self.prepares.hides(key, opened.start) {
            return Err(OperationError::SyncWriteReCommitInProgress);
        }
        let encoded = key.as_encoded();
        let place = self.map.place(encoded);
        let read = |item: &Arc<Item>| (item.seqno >= opened.start).then(|| read(item)).flatten();
        match (self.map.read(place, encoded, read), sight) {
            (Some(Some(answer)), _) => Ok(answer),
            (Some(None), _) | (None, Sight::Whole) => Err(OperationError::KeyNotFound),
            (None, Sight::Partial) => Err(WARMING_UP),
        }
    }

    /// Neither deleted nor expired. Reads the clock only for a document that expires.
    fn is_live(&self, item: &Item) -> bool {
        let expiry = item.document.expiry;
        !item.operation.is_tombstone() && (expiry.0 == 0 || !is_expired(expiry, self.now().seconds))
    }

    /// Writes a document, whatever was there.
    pub fn set(&self, set: Set) -> Result<Mutated, OperationError> {
        self.write(Write::Set(set))
    }

    /// Writes a document that must not be there yet.
    pub fn add(&self, add: Add) -> Result<Mutated, OperationError> {
        self.write(Write::Add(add))
    }

    /// Writes a document that must be there.
    pub fn replace(&self, replace: Replace) -> Result<Mutated, OperationError> {
        self.write(Write::Replace(replace))
    }

    /// Deletes a document that must be there.
    pub fn delete(&self, delete: Delete) -> Result<Mutated, OperationError> {
        self.write(Write::Delete(delete))
    }

    /// Gives a document another expiry.
    pub fn touch(&self, touch: Touch) -> Result<Mutated, OperationError> {
        self.write(Write::Touch(touch))
    }

    /// Gives a document another expiry, and reads it.
    pub fn get_and_touch(&self, request: &GetAndTouch) -> Result<Found, OperationError> {
        self.admit_write()?;
        let now = self.now();
        let place = self.map.place(request.key.as_encoded());
        let max_ttl_s = self.admit_key_in_force(&request.key)?.max_ttl_s;
        let expiry = expiry_at(request.expiry, max_ttl_s, now.seconds);
        let mut locked = self.lock();
        self.reached(ChangeStep::Locked);
        self.admit_write()?;
        let opened = self.admit_key(&request.key)?;
        let item = self.touched(&mut locked, place, opened, &request.key, expiry, now)?;
        Ok(found(&item))
    }

    /// One write of any kind.
    pub fn write(&self, write: Write) -> Result<Mutated, OperationError> {
        self.admit_write()?;
        let now = self.now();
        let draft = self.draft(write, now)?;
        let mut locked = self.lock();
        self.reached(ChangeStep::Locked);
        self.apply(&mut locked, draft, now)
    }

    /// Many writes under one lock: each for itself, answered in order.
    pub fn write_batch(&self, batch: WriteBatch) -> Vec<Result<Mutated, OperationError>> {
        if let Err(error) = self.admit_write() {
            return batch.writes.iter().map(|_| Err(error.clone())).collect();
        }
        let now = self.now();
        let draft = |write| self.draft(write, now);
        let drafts: Vec<_> = batch.writes.into_iter().map(draft).collect();
        let mut locked = self.lock();
        self.reached(ChangeStep::Locked);
        let mut apply = |draft: Result<Draft, _>| self.apply(&mut locked, draft?, now);
        drafts.into_iter().map(&mut apply).collect()
    }

    pub(super) fn now(&self) -> Now {
        let since_epoch = self.environment.clock.since_epoch();
        Now {
            nanoseconds: nanoseconds(since_epoch),
            seconds: seconds(since_epoch),
        }
    }

    pub(super) fn draft(&self, write: Write, now: Now) -> Result<Draft, OperationError> {
        let max_ttl_s = self.admit_key_in_force(write.key())?.max_ttl_s;
        let expiry_of = |request| expiry_at(request, max_ttl_s, now.seconds);
        match write {
            Write::Set(Set {
                key,
                value,
                options,
            }) => {
                let expiry = expiry_of(options.expiry);
                self.draft_document(key, value, options, expiry, Rule::Any(options.cas))
            }
            Write::Add(Add {
                key,
                value,
                options,
            }) => {
                let expiry = expiry_of(options.expiry);
                self.draft_document(key, value, options, expiry, Rule::Absent(options.cas))
            }
            Write::Replace(Replace {
                key,
                value,
                options,
            }) => {
                let expiry = expiry_of(options.expiry);
                self.draft_document(key, value, options, expiry, Rule::Replaced(options.cas))
            }
            Write::Delete(Delete { key, cas, .. }) => {
                let bytes = memory::cost_bytes(&key, 0);
                let token = memory::reserve_deletion(&self.memory, bytes)?;
                let item = tombstone(key, now.seconds, DeleteSource::Explicit, token);
                Ok(self.draft_item(item, Rule::Present(cas)))
            }
            Write::Touch(Touch { key, expiry, .. }) => Ok(Draft {
                place: self.map.place(key.as_encoded()),
                what: Drafted::Touch {
                    key,
                    expiry: expiry_of(expiry),
                },
            }),
        }
    }

    fn draft_document(
        &self,
        key: DocumentKey,
        value: Bytes,
        options: WriteOptions,
        expiry: Expiry,
        rule: Rule,
    ) -> Result<Draft, OperationError> {
        let length = value.len();
        if length > Document::VALUE_LENGTH_MAX {
            return Err(OperationError::ValueTooLarge { length });
        }
        let token = memory::reserve(&self.memory, memory::cost_bytes(&key, length))?;
        let item = Item {
            seqno: Seqno::ZERO,
            operation: Operation::Mutation,
            predecessor: Predecessor::Unknown,
            document: Document {
                key,
                value,
                datatype: options.datatype,
                flags: options.flags,
                expiry,
                cas: Cas(0),
                rev_seqno: RevSeqno(0),
            },
            token,
        };
        Ok(self.draft_item(item, rule))
    }

    fn draft_item(&self, item: Item, rule: Rule) -> Draft {
        Draft {
            place: self.map.place(item.document.key.as_encoded()),
            what: Drafted::Item {
                item: Arc::new(item),
                rule,
            },
        }
    }

    fn apply(
        &self,
        locked: &mut Locked<'_>,
        draft: Draft,
        now: Now,
    ) -> Result<Mutated, OperationError> {
        // Again, now that nobody changes it.
        self.admit_write()?;
        let Draft { place, what } = draft;
        match what {
            Drafted::Item { item, rule } => {
                let opened = self.admit_key(&item.document.key)?;
                let key = &item.document.key;
                let old = self.map.get(place, key.as_encoded());
                let shown = opened.shown(old.as_ref());
                self.judge(locked, place, (key, opened), shown, rule, now)?;
                let item = self.append(locked, place, item, old.as_ref(), now)?;
                Ok(self.mutated(locked, &item))
            }
            Drafted::Touch { key, expiry } => {
                let opened = self.admit_key(&key)?;
                let item = self.touched(locked, place, opened, &key, expiry, now)?;
                Ok(self.mutated(locked, &item))
            }
        }
    }

    /// Deletes a document whose time is up.
    pub(super) fn expire(
        &self,
        locked: &mut Locked<'_>,
        place: Place,
        expired: &Arc<Item>,
        token: MemoryToken,
        now: Now,
    ) -> Result<(), OperationError> {
        let key = expired.document.key.clone();
        let item = tombstone(key, now.seconds, DeleteSource::Expiration, token);
        self.append(locked, place, Arc::new(item), Some(expired), now)
            .map(drop)
    }

    fn touched(
        &self,
        locked: &mut Locked<'_>,
        place: Place,
        opened: Opened,
        key: &DocumentKey,
        expiry: Expiry,
        now: Now,
    ) -> Result<Arc<Item>, OperationError> {
        let old = self.map.get(place, key.as_encoded());
        let shown = opened.shown(old.as_ref());
        self.judge(
            locked,
            place,
            (key, opened),
            shown,
            Rule::Present(None),
            now,
        )?;
        let old = old.ok_or(OperationError::KeyNotFound)?;
        let bytes = memory::cost_bytes(key, old.document.value.len());
        let item = Item {
            seqno: Seqno::ZERO,
            operation: Operation::Mutation,
            predecessor: Predecessor::Unknown,
            document: Document {
                expiry,
                ..old.document.clone()
            },
            token: memory::reserve(&self.memory, bytes)?,
        };
        self.append(locked, place, Arc::new(item), Some(&old), now)
    }

    /// Gives the change its place in history and does it.
    fn append(
        &self,
        locked: &mut Locked<'_>,
        place: Place,
        mut item: Arc<Item>,
        old: Option<&Arc<Item>>,
        now: Now,
    ) -> Result<Arc<Item>, OperationError> {
        item = self.number(locked, item, old.map(|old| &**old), now);
        let older = old.map(|old| old.seqno);
        self.commit_active(locked, place, item, older)
    }

    /// Seqno, version and revision of a change of what is `old` so far.
    pub(super) fn number(
        &self,
        locked: &Locked<'_>,
        mut item: Arc<Item>,
        old: Option<&Item>,
        now: Now,
    ) -> Arc<Item> {
        // Nobody else has it yet, so nothing is copied.
        let fresh = Arc::make_mut(&mut item);
        fresh.seqno = locked.log.last_seqno().next();
        fresh.document.cas = self.cas.next(now.nanoseconds);
        let changes = old.map_or(0, |old| old.document.rev_seqno.0);
        fresh.document.rev_seqno = RevSeqno(changes.saturating_add(1));
        item
    }

    pub(super) fn mutated(&self, locked: &Locked<'_>, item: &Item) -> Mutated {
        Mutated {
            cas: item.document.cas,
            token: MutationToken {
                vbucket: self.id,
                vbucket_uuid: locked.uuid,
                seqno: item.seqno,
            },
        }
    }
}

const WARMING_UP: OperationError = OperationError::TemporaryFailure(messages::Busy::WarmingUp);

fn tombstone(key: DocumentKey, now: u32, source: DeleteSource, token: MemoryToken) -> Item {
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

fn found(item: &Item) -> Found {
    Found {
        value: item.document.value.clone(),
        meta: meta(item),
    }
}

fn meta(item: &Item) -> Meta {
    let document = &item.document;
    Meta {
        cas: document.cas,
        flags: document.flags,
        datatype: document.datatype,
        expiry: document.expiry,
        rev_seqno: document.rev_seqno,
        seqno: item.seqno,
        is_deleted: item.operation.is_tombstone(),
    }
}

pub(super) const fn is_expired(expiry: Expiry, now: u32) -> bool {
    expiry.0 != 0 && expiry.0 <= now
}

/// When a document expires for which this was asked `now`, in a collection whose documents live so long at most.
fn expiry_at(request: ExpiryRequest, max_ttl_s: u32, now: u32) -> Expiry {
    let asked = match request.0 {
        0 => 0,
        seconds if seconds <= ExpiryRequest::RELATIVE_SECONDS_MAX => now.saturating_add(seconds),
        absolute => absolute,
    };
    let latest = now.saturating_add(max_ttl_s);
    let is_beyond = max_ttl_s != 0 && (asked == 0 || asked > latest);
    Expiry(if is_beyond { latest } else { asked })
}

pub(super) fn seconds(since_epoch: Duration) -> u32 {
    u32::try_from(since_epoch.as_secs()).unwrap_or(u32::MAX)
}

fn nanoseconds(since_epoch: Duration) -> u64 {
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}
