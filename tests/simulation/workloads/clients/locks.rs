//! A client locks a document, sees that nobody changes it without the lock, and ends the lock by a write or by taking it back.
//!
//! Invariant: as long as a lock lasts no other write of its document is done, whatever panics; and what was locked is what was
//! acknowledged last.

use std::time::Duration;

use piggin::messages::OperationError;
use piggin::messages::vbucket::{Found, GetAndLock, Set, Unlock, Write, WriteOptions};
use piggin::storage::{Cas, CollectionId, DocumentKey, Seqno};
use supervisor::testing::Clock;

use super::{Client, Ended, KEYS, PATIENCE};
use crate::history::Place;

/// The longest a lock may last, in seconds.
const LOCKED_S: u32 = 30;

/// A document was locked.
pub(crate) const LOCKED: &str = "locked";
/// A write without the lock was refused.
pub(crate) const REFUSED: &str = "refused for a lock";
/// The holder wrote.
pub(crate) const WRITTEN: &str = "written by its lock";
/// The holder took it back.
pub(crate) const UNLOCKED: &str = "unlocked";

impl Client {
    pub(super) async fn lock_and_write(&self) -> Ended {
        let place = self.place(self.random.below(KEYS));
        let locked = tokio::time::timeout(PATIENCE, self.lock(&place)).await;
        let since = self.world.clock().monotonic();
        let found = match locked {
            Ok(Ok(found)) => found,
            Ok(Err(OperationError::KeyNotFound)) => {
                self.expect(&place, None);
                return Ended::Done;
            }
            Ok(Err(_)) => return Ended::Failed,
            Err(_) => return Ended::Unanswered,
        };
        self.history.did(LOCKED);
        self.expect(&place, Some(&found));
        let mut worst = Ended::Done;
        if self.random.chance(500) {
            worst = self.write_to_locked(&place, since).await;
        }
        if worst == Ended::Unanswered {
            return worst;
        }
        let (ended, what) = if self.random.chance(500) {
            let ended = self.write_as(&place, Some(found.meta.cas)).await;
            (ended, WRITTEN)
        } else {
            (self.unlock(&place, found.meta.cas).await, UNLOCKED)
        };
        if ended == Ended::Done {
            self.history.did(what);
        }
        worst.max(ended)
    }

    async fn lock(&self, place: &Place) -> Result<Found, OperationError> {
        let vbucket = self.bucket.vbucket(place.0);
        let Some(vbucket) = vbucket.filter(|_| self.random.chance(500)) else {
            return self.bucket.get_and_lock(&place.1, LOCKED_S).await;
        };
        let lock = GetAndLock {
            key: key_of(place),
            seconds: LOCKED_S,
        };
        let answer = vbucket.send(lock).await;
        answer.unwrap_or(Err(OperationError::Closed))
    }

    async fn unlock(&self, place: &Place, cas: Cas) -> Ended {
        let vbucket = self.bucket.vbucket(place.0);
        let vbucket = vbucket.filter(|_| self.random.chance(500));
        let unlocked = async {
            match vbucket {
                None => self.bucket.unlock(&place.1, cas).await,
                Some(vbucket) => {
                    let key = key_of(place);
                    let answer = vbucket.send(Unlock { key, cas }).await;
                    answer.unwrap_or(Err(OperationError::Closed))
                }
            }
        };
        match tokio::time::timeout(PATIENCE, unlocked).await {
            Ok(Ok(())) => Ended::Done,
            Ok(Err(_)) => Ended::Failed,
            Err(_) => Ended::Unanswered,
        }
    }

    /// Without the lock's CAS, which must be refused as long as the lock lasts.
    async fn write_to_locked(&self, place: &Place, since: Duration) -> Ended {
        let before = self.history.newest(place);
        let ended = self.write_as(place, None).await;
        let lasted = self.world.clock().monotonic().saturating_sub(since);
        let is_done = self.history.newest(place) != before && ended == Ended::Done;
        if is_done && lasted < Duration::from_secs(LOCKED_S.into()) {
            self.history
                .found(format!("{place:?} was written to while it was locked"));
        }
        if ended == Ended::Failed && self.history.newest(place) == before {
            self.history.did(REFUSED);
            return Ended::Done;
        }
        ended
    }

    async fn write_as(&self, place: &Place, cas: Option<Cas>) -> Ended {
        let (value, acknowledge) = (self.value(), self.acknowledge());
        self.history.asked(place, Some(value.clone()));
        let set = Set {
            key: key_of(place),
            value,
            options: WriteOptions {
                acknowledge,
                cas,
                ..WriteOptions::default()
            },
        };
        let answer = self.ask(place, Write::Set(set)).await;
        self.note(place, acknowledge, answer.as_ref())
    }

    /// What is read is what was acknowledged last.
    fn expect(&self, place: &Place, found: Option<&Found>) {
        let found = found.map(|found| &found.value);
        let possible = self.history.possible(place, Seqno::MAX);
        if !possible.iter().any(|one| one.as_ref() == found) {
            self.history
                .found(format!("{place:?}: what was locked was never acknowledged"));
        }
    }
}

fn key_of(place: &Place) -> DocumentKey {
    let key = DocumentKey::new(CollectionId::DEFAULT, place.1.as_bytes());
    key.expect("a short name")
}
