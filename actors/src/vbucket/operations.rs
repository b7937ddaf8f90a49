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
use super::lock::Locked;
use super::lookup::{Asks, LookedUp};
use super::manifest::Opened;
use super::moment::{Now, is_expired};
use super::status::Sight;
use messages::OperationError;
use messages::vbucket::{
    Acknowledge, Add, Append, Count, Delete, DeleteWithMeta, Found, GetAndTouch, GetRandom, Meta,
    Mutated, MutationToken, Picked, Prepend, Replace, Set, SetWithMeta, Touch, Write, WriteBatch,
};
use storage::{DeleteSource, DocumentKey, Item, MemoryToken, RevSeqno};

/// A draft judged on what is there, to be appended.
pub(super) struct Ready {
    pub(super) place: Place,
    pub(super) fresh: Fresh,
    /// The newest version of its key that is known.
    pub(super) old: Option<Arc<Item>>,
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
        let mut found = self.look(sight, opened, (key, looked_up), |item| {
            self.is_live(item).then(|| found(item))
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
        let mut meta = self.look(sight, opened, (key, looked_up), |item| {
            let is_shown = item.operation.is_tombstone() || self.is_live(item);
            is_shown.then(|| Meta::of(item))
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
        let live = |item: &Item| self.is_live(item).then_some(());
        match self.look(sight, opened, (key, looked_up), live) {
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
        let sight = self.admit_read()?;
        let opened = self.admit_collection_in_force(request.collection)?;
        let now = self.now().seconds;
        let is_wanted = |item: &Item| {
            let document = &item.document;
            item.seqno >= opened.start
                && document.key.collection() == request.collection
                && !item.operation.is_tombstone()
                && !is_expired(document.expiry, now)
        };
        let random = || self.environment.random.next_u64();
        // Else all of the map would be looked through for nothing.
        let has_none = self.collections.read().has_none_of(request.collection);
        for _ in 0..if has_none { 0 } else { PICKS } {
            let Some(picked) = self.map.pick(random, is_wanted) else {
                break;
            };
            // Read as any is: it may be hidden, or locked, or gone by now.
            let key = picked.document.key.clone();
            match self.get(&key) {
                Err(OperationError::KeyNotFound) => {}
                found => return Ok(Picked { key, found: found? }),
            }
        }
        Err(match sight {
            Sight::Whole => OperationError::KeyNotFound,
            Sight::Partial => WARMING_UP,
        })
    }

    fn look<R>(
        &self,
        sight: Sight,
        opened: Opened,
        (key, looked_up): (&DocumentKey, Option<&LookedUp>),
        read: impl Fn(&Item) -> Option<R>,
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
        let read_in_memory = |item: &Arc<Item>| {
            item.token.note_use();
            read(item)
        };
        match (self.map.read(place, encoded, read_in_memory), sight) {
            (Some(answer), _) => answer.ok_or(OperationError::KeyNotFound),
            (None, Sight::Partial) => Err(WARMING_UP),
            // The looks above are of the same moment as this, or of an earlier one.
            (None, Sight::Whole) if looked_up.is_some() || self.must_ask(Asks::Document) => {
                let newest = self.read_of_store(looked_up)?;
                newest
                    .as_ref()
                    .and_then(read)
                    .ok_or(OperationError::KeyNotFound)
            }
            (None, Sight::Whole) => Err(OperationError::KeyNotFound),
        }
    }

    /// Neither deleted nor expired. Reads the clock only for a document that expires.
    pub(super) fn is_live(&self, item: &Item) -> bool {
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
        let mut apply = |draft: Result<Draft, _>| Ok(self.apply(&mut locked, draft?, now)?.mutated);
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
        let fresh = self.settled(what, live)?;
        Ok(Ready { place, fresh, old })
    }

    /// The newest version of a key, as far as it must be known: what is in memory, or else what the store was found to hold.
    pub(super) fn newest(
        &self,
        locked: &Locked<'_>,
        (place, key): (Place, &DocumentKey),
        asks: Asks,
        looked_up: Option<&LookedUp>,
    ) -> Result<Option<Arc<Item>>, OperationError> {
        match self.map.get(place, key.as_encoded()) {
            None if self.must_ask(asks) => self.looked_up(locked, looked_up),
            there => Ok(there),
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
        old: Option<&Arc<Item>>,
        now: Now,
    ) -> Result<Arc<Item>, OperationError> {
        let item = self.number(locked, fresh, old.map(|old| &**old), now);
        let older = old.map(|old| old.seqno);
        self.commit_active(locked, place, item, older)
    }

    /// Seqno of a change of what is `old` so far; version and revision, unless it brings them along.
    pub(super) fn number(
        &self,
        locked: &Locked<'_>,
        fresh: Fresh,
        old: Option<&Item>,
        now: Now,
    ) -> Arc<Item> {
        let Fresh {
            mut item, version, ..
        } = fresh;
        // Nobody else has it yet, so nothing is copied.
        let fresh = Arc::make_mut(&mut item);
        fresh.seqno = locked.log.last_seqno().next();
        if version == Version::Drawn {
            let changes = old.map(|old| old.document.rev_seqno.0);
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
