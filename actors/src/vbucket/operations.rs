//! What clients do, for both doors: plain functions on the core, acknowledged in memory. Whoever wants the disk takes a
//! place first ([`VbucketCore::reserve_wait`]) and waits for the seqno of the answer.
//!
//! Invariant: an error means nothing of the request was applied. What is decided under the lock is decided on the map
//! as it is under the lock; what can fail for lack of anything (memory, size, state) fails before it is taken.

use std::sync::Arc;

use super::core::VbucketCore;
use super::document_map::Place;
use super::draft::{Draft, Fresh, Version, tombstone};
use super::fault::ChangeStep;
use super::kept::{Held, Kept};
use super::lock::Locked;
use super::lookup::{Asks, LookedUp, NOT_IN_MEMORY, PutOff};
use super::manifest::Opened;
use super::moment::{Now, is_expired};
use super::status::Sight;
use messages::OperationError;
use messages::vbucket::{
    Acknowledge, Add, Append, Count, Delete, DeleteWithMeta, Found, GetAndTouch, GetRandom, Meta,
    Mutated, MutationToken, Picked, Prepend, Replace, Set, SetWithMeta, Touch, Write, WriteBatch,
};
use storage::{DeleteSource, DocumentKey, Expiry, Item, MemoryToken, RevSeqno};

/// A draft judged on what is there, to be appended.
pub(super) struct Ready {
    pub(super) place: Place,
    pub(super) fresh: Fresh,
    /// The newest version of its key that is known.
    pub(super) old: Option<Kept>,
}

/// Why a version that is in memory does not answer a read.
enum Unread {
    /// As if it was not there.
    Absent,
    /// Its value is on disk alone, and this is its stub.
    Value(Meta),
}

/// A change that is done.
pub(super) struct Changed {
    pub(super) item: Arc<Item>,
    pub(super) mutated: Mutated,
}

impl VbucketCore {
    /// Reads a document.
    pub fn get(&self, key: &DocumentKey) -> Result<Found, OperationError> {
        self.get_knowing(key, None)
    }

    /// The same, with what the store holds of the key, if somebody looked: for reads that were answered
    /// [`Busy::NotInMemory`](messages::Busy::NotInMemory). So are those below.
    pub fn get_knowing(
        &self,
        key: &DocumentKey,
        looked_up: Option<&LookedUp>,
    ) -> Result<Found, OperationError> {
        let sight = self.admit_read()?;
        let opened = self.admit_key_in_force(key)?;
        let mut found = self.look(sight, opened, (key, looked_up), |held| match held {
            _ if !self.is_held_live(held) => Err(Unread::Absent),
            Held::Whole(item) => Ok(found(item)),
            Held::Stub(stub) => Err(Unread::Value(stub.meta())),
        })?;
        self.masked(key, &mut found.meta.cas, found.meta.seqno);
        Ok(found)
    }

    /// Reads metadata only; shows tombstones that are still in memory, too.
    pub fn get_meta(&self, key: &DocumentKey) -> Result<Meta, OperationError> {
        self.get_meta_knowing(key, None)
    }

    /// The same, with what the store holds.
    pub fn get_meta_knowing(
        &self,
        key: &DocumentKey,
        looked_up: Option<&LookedUp>,
    ) -> Result<Meta, OperationError> {
        let sight = self.admit_read()?;
        let opened = self.admit_key_in_force(key)?;
        let mut meta = self.look(sight, opened, (key, looked_up), |held| {
            let is_shown = held.is_tombstone() || self.is_held_live(held);
            if is_shown {
                Ok(held.meta())
            } else {
                Err(Unread::Absent)
            }
        })?;
        self.masked(key, &mut meta.cas, meta.seqno);
        Ok(meta)
    }

    /// Whether there is such a document.
    pub fn exists(&self, key: &DocumentKey) -> Result<bool, OperationError> {
        self.exists_knowing(key, None)
    }

    /// The same, with what the store holds.
    pub fn exists_knowing(
        &self,
        key: &DocumentKey,
        looked_up: Option<&LookedUp>,
    ) -> Result<bool, OperationError> {
        let sight = self.admit_read()?;
        let opened = self.admit_key_in_force(key)?;
        let is_there = |held: Held<'_>| {
            if self.is_held_live(held) {
                Ok(())
            } else {
                Err(Unread::Absent)
            }
        };
        match self.look(sight, opened, (key, looked_up), is_there) {
            Ok(()) => Ok(true),
            Err(OperationError::KeyNotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads many documents, answered in order, each for itself.
    pub fn get_many(&self, keys: &[DocumentKey]) -> Vec<Result<Found, OperationError>> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// Reads any live document of a collection.
    pub fn get_random(&self, request: &GetRandom) -> Result<Picked, OperationError> {
        for _ in 0..PICKS {
            let key = self.pick(request)?;
            // Read as any is: it may be hidden, or locked, or gone by now.
            match self.get(&key) {
                Err(OperationError::KeyNotFound) => {}
                found => return Ok(Picked { key, found: found? }),
            }
        }
        Err(OperationError::KeyNotFound)
    }

    /// The key of any live document of a collection that is in memory, with its value or without.
    pub fn pick(&self, request: &GetRandom) -> Result<DocumentKey, OperationError> {
        let sight = self.admit_read()?;
        let opened = self.admit_collection_in_force(request.collection)?;
        let now = self.now().seconds;
        let is_wanted = |held: Held<'_>| {
            let meta = held.meta();
            meta.seqno >= opened.start
                && held.key().collection() == request.collection
                && !meta.is_deleted
                && !is_expired(meta.expiry, now)
        };
        let random = || self.environment.random.next_u64();
        // Else all of the map would be looked through for nothing.
        let has_none = self.collections.read().has_none_of(request.collection);
        let picked = if has_none {
            None
        } else {
            self.map.pick(random, is_wanted)
        };
        picked.ok_or(match sight {
            Sight::Whole => OperationError::KeyNotFound,
            Sight::Partial => WARMING_UP,
        })
    }

    fn look<R>(
        &self,
        sight: Sight,
        opened: Opened,
        (key, looked_up): (&DocumentKey, Option<&LookedUp>),
        read: impl Fn(Held<'_>) -> Result<R, Unread>,
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
        let read = |held: Held<'_>| {
            if held.seqno() >= opened.start {
                read(held)
            } else {
                Err(Unread::Absent)
            }
        };
        let read_in_memory = |held: Held<'_>| {
            held.note_use();
            read(held)
        };
        let newest = match (self.map.read(place, encoded, read_in_memory), sight) {
            (Some(Ok(answer)), _) => return Ok(answer),
            // Its stub says which version is to be read.
            (Some(Err(Unread::Value(stub))), _) => {
                let newest = self.read_of_store(looked_up)?;
                let is_it = |newest: &Arc<Item>| Meta::of(newest) == stub;
                Some(newest.filter(is_it).ok_or(NOT_IN_MEMORY)?)
            }
            (None, Sight::Partial) => return Err(WARMING_UP),
            // The looks above are of the same moment as this, or of an earlier one.
            (None, Sight::Whole) if looked_up.is_some() || self.must_ask(Asks::Document) => {
                self.read_of_store(looked_up)?
            }
            (Some(Err(Unread::Absent)), _) | (None, Sight::Whole) => None,
        };
        // What is whole and not read is not there.
        let answer = newest.and_then(|newest| read(Held::Whole(&newest)).ok());
        answer.ok_or(OperationError::KeyNotFound)
    }

    fn is_held_live(&self, held: Held<'_>) -> bool {
        !held.is_tombstone() && self.is_in_time(held.meta().expiry)
    }

    fn is_in_time(&self, expiry: Expiry) -> bool {
        expiry.0 == 0 || !is_expired(expiry, self.now().seconds)
    }

    /// Neither deleted nor expired. Reads the clock only for a document that expires.
    pub(super) fn is_live(&self, item: &Item) -> bool {
        !item.operation.is_tombstone() && self.is_in_time(item.document.expiry)
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

    /// Puts bytes behind a document's value.
    pub fn append(&self, append: Append) -> Result<Mutated, OperationError> {
        self.write(Write::Append(append))
    }

    /// Puts bytes before a document's value.
    pub fn prepend(&self, prepend: Prepend) -> Result<Mutated, OperationError> {
        self.write(Write::Prepend(prepend))
    }

    /// Counts; the answer has the new number.
    pub fn count(&self, count: Count) -> Result<Mutated, OperationError> {
        self.write(Write::Count(count))
    }

    /// Writes a document as it is elsewhere.
    pub fn set_with_meta(&self, set: SetWithMeta) -> Result<Mutated, OperationError> {
        self.write(Write::SetWithMeta(set))
    }

    /// Deletes a document as it was deleted elsewhere.
    pub fn delete_with_meta(&self, delete: DeleteWithMeta) -> Result<Mutated, OperationError> {
        self.write(Write::DeleteWithMeta(delete))
    }

    /// Gives a document another expiry, and reads it.
    pub fn get_and_touch(&self, request: &GetAndTouch) -> Result<Found, OperationError> {
        self.get_and_touch_knowing(request, None)
    }

    /// The same, with what the store holds.
    pub fn get_and_touch_knowing(
        &self,
        request: &GetAndTouch,
        looked_up: Option<LookedUp>,
    ) -> Result<Found, OperationError> {
        let touch = Write::Touch(Touch {
            key: request.key.clone(),
            expiry: request.expiry,
            acknowledge: Acknowledge::InMemory,
        });
        Ok(found(&self.change(touch, looked_up)?.item))
    }

    /// One write of any kind.
    pub fn write(&self, write: Write) -> Result<Mutated, OperationError> {
        Ok(self.change(write, None)?.mutated)
    }

    /// The same, with what the store holds of the key, if somebody looked.
    pub(super) fn change(
        &self,
        write: Write,
        looked_up: Option<LookedUp>,
    ) -> Result<Changed, OperationError> {
        self.admit_write()?;
        let now = self.now();
        let draft = Draft {
            looked_up,
            ..self.draft(write, now)?
        };
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
        let mut put_off = PutOff::default();
        let mut apply = |draft: Result<Draft, _>| {
            let draft = draft?;
            if put_off.has(draft.what.key()) {
                return Err(NOT_IN_MEMORY);
            }
            let asking = (draft.what.asks() != Asks::Nothing).then(|| draft.what.key().clone());
            let applied = self.apply(&mut locked, draft, now);
            if matches!(applied, Err(NOT_IN_MEMORY))
                && let Some(key) = asking
            {
                put_off.note(key);
            }
            Ok(applied?.mutated)
        };
        drafts.into_iter().map(&mut apply).collect()
    }

    fn apply(
        &self,
        locked: &mut Locked<'_>,
        draft: Draft,
        now: Now,
    ) -> Result<Changed, OperationError> {
        // Again, now that nobody changes it.
        self.admit_write()?;
        let Ready { place, fresh, old } = self.ready(locked, draft, now)?;
        let counter = fresh.counter;
        let item = self.put_in_history(locked, place, fresh, old.as_ref(), now)?;
        self.locks.end(&item.document.key);
        let mutated = Mutated {
            counter,
            ..self.mutated(locked, &item)
        };
        Ok(Changed { item, mutated })
    }

    /// Judges a draft on what is there, and makes what is to be written.
    pub(super) fn ready(
        &self,
        locked: &mut Locked<'_>,
        draft: Draft,
        now: Now,
    ) -> Result<Ready, OperationError> {
        let Draft {
            place,
            what,
            looked_up,
        } = draft;
        let key = what.key();
        let opened = self.admit_key(key)?;
        let old = self.newest(locked, (place, key), what.asks(), looked_up.as_ref())?;
        let shown = opened.shown(old.as_ref());
        let rule = what.rule();
        let live = self.judge(locked, place, (key, opened), shown, rule, now)?;
        let fresh = self.settled(locked, what, live, looked_up.as_ref())?;
        Ok(Ready { place, fresh, old })
    }

    /// The newest version of a key, as far as it must be known: what is in memory, or else what the store was found to hold.
    pub(super) fn newest(
        &self,
        locked: &Locked<'_>,
        (place, key): (Place, &DocumentKey),
        asks: Asks,
        looked_up: Option<&LookedUp>,
    ) -> Result<Option<Kept>, OperationError> {
        match self.map.get(place, key.as_encoded()) {
            None if self.must_ask(asks) => {
                let newest = self.looked_up(locked, looked_up)?;
                Ok(newest.map(Kept::whole))
            }
            there => Ok(there),
        }
    }

    /// Deletes a document whose time is up.
    pub(super) fn expire(
        &self,
        locked: &mut Locked<'_>,
        place: Place,
        expired: &Kept,
        token: MemoryToken,
        now: Now,
    ) -> Result<(), OperationError> {
        let key = expired.key().clone();
        let item = tombstone(key, now.seconds, DeleteSource::Expiration, token);
        let fresh = Fresh {
            item: Arc::new(item),
            version: Version::Drawn,
            counter: None,
        };
        self.put_in_history(locked, place, fresh, Some(expired), now)
            .map(drop)
    }

    /// Gives the change its place in history and does it.
    fn put_in_history(
        &self,
        locked: &mut Locked<'_>,
        place: Place,
        fresh: Fresh,
        old: Option<&Kept>,
        now: Now,
    ) -> Result<Arc<Item>, OperationError> {
        let item = self.number(locked, fresh, old, now);
        let older = old.map(Kept::seqno);
        self.commit_active(locked, place, item, older)
    }

    /// Seqno of a change of what is `old` so far; version and revision, unless it brings them along.
    pub(super) fn number(
        &self,
        locked: &Locked<'_>,
        fresh: Fresh,
        old: Option<&Kept>,
        now: Now,
    ) -> Arc<Item> {
        let Fresh {
            mut item, version, ..
        } = fresh;
        // Nobody else has it yet, so nothing is copied.
        let fresh = Arc::make_mut(&mut item);
        fresh.seqno = locked.log.last_seqno().next();
        if version == Version::Drawn {
            let changes = old.map(|old| old.meta().rev_seqno.0);
            let changes = changes.unwrap_or_else(|| self.forgotten_revision());
            fresh.document.rev_seqno = RevSeqno(changes.saturating_add(1));
            fresh.document.cas = self.cas.next(now.nanoseconds);
        }
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
            counter: None,
        }
    }
}

/// How often a document that was picked may be gone when it is read.
const PICKS: u32 = 8;
const WARMING_UP: OperationError = OperationError::TemporaryFailure(messages::Busy::WarmingUp);

pub(super) fn found(item: &Item) -> Found {
    Found {
        value: item.document.value.clone(),
        meta: Meta::of(item),
    }
}
