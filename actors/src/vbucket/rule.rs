//! Whether a write may be done on what is there: present, absent, of the version given, not locked by another, and with no
//! durable write under way.
//!
//! Invariant: judged under the vbucket's lock, on what is committed; a refusal changes nothing, but that a document whose
//! time is up is deleted by the way. Called for plain writes and durable ones.

use super::core::VbucketCore;
use super::document_map::Place;
use super::kept::Kept;
use super::lock::Locked;
use super::lookup::Asks;
use super::manifest::Opened;
use super::memory;
use super::moment::{Now, is_expired};
use messages::OperationError;
use messages::vbucket::Meta;
use storage::{Cas, DocumentKey, Expiry, RevSeqno};

/// What must be there for a write to be done.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// Anything, or the version given.
    Any(Option<Cas>),
    /// Nothing.
    Absent(Option<Cas>),
    /// A document, of the version given if one is.
    Present(Option<Cas>),
    /// The same of a replacement, which is the first to learn that there is none (MB-37342), where that is known.
    Replaced(Option<Cas>),
    /// A document that is locked with this CAS.
    Locked(Cas),
    /// Anything that this version takes the place of, or the version given.
    Outdone(Option<Cas>, Contender),
}

/// A version that was written elsewhere, as it is compared with the one that is here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contender {
    pub(super) rev_seqno: RevSeqno,
    pub(super) cas: Cas,
    pub(super) expiry: Expiry,
    pub(super) flags: u32,
    pub(super) is_deletion: bool,
}

impl Contender {
    /// As the field does it: the order is the same on every node, so all of them keep the same version.
    pub(super) fn takes_the_place_of(&self, here: &Meta) -> bool {
        let (theirs, ours) = ((self.rev_seqno, self.cas), (here.rev_seqno, here.cas));
        match theirs.cmp(&ours) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => {
                let theirs = (self.expiry, self.flags);
                !self.is_deletion && theirs > (here.expiry, here.flags)
            }
        }
    }
}

impl VbucketCore {
    /// The live document there is, if a write may be done on it. An expired document is none; when the write is refused for
    /// it, its deletion is queued at least. Beside a prepare nothing is written, nor does anything expire (MB-43238).
    pub(super) fn judge<'o>(
        &self,
        locked: &mut Locked<'_>,
        place: Place,
        (key, opened): (&DocumentKey, Opened),
        old: Option<&'o Kept>,
        rule: Rule,
        now: Now,
    ) -> Result<Option<&'o Kept>, OperationError> {
        let document = old.filter(|old| !old.meta().is_deleted);
        let live = document.filter(|old| !is_expired(old.meta().expiry, now.seconds));
        let current = live.map(|live| live.meta().cas);
        if self.prepares.open_of(key, opened.start).is_some() {
            // Where it may have been committed elsewhere nobody knows whether there is a document.
            let is_known = !self.prepares.hides(key, opened.start);
            return Err(match (rule, current) {
                (Rule::Replaced(_), None) if is_known => OperationError::KeyNotFound,
                _ => OperationError::SyncWriteInProgress,
            });
        }
        let lock = live.and_then(|live| self.lock_on(key, live.seqno()));
        let verdict = match lock {
            Some(lock) => rule.judge_locked(lock),
            None => rule.judge(current),
        };
        // Of a tombstone, and of what is expired and not deleted, the version counts.
        let here = old.map(Kept::meta);
        let verdict = verdict.and_then(|()| rule.judge_conflict(here, lock.is_some()));
        if let Some(expired) = document.filter(|_| live.is_none() && verdict.is_err()) {
            let bytes = memory::cost_bytes(expired.key(), 0);
            self.expire(locked, place, expired, self.memory.charge(bytes), now)?;
        }
        verdict.map(|()| live)
    }
}

impl Rule {
    /// What of a key that is not in memory must be known.
    pub(super) const fn asks(&self) -> Asks {
        match self {
            Rule::Any(None) => Asks::Nothing,
            Rule::Any(Some(_))
            | Rule::Absent(_)
            | Rule::Present(_)
            | Rule::Replaced(_)
            | Rule::Locked(_) => Asks::Document,
            Rule::Outdone(..) => Asks::Tombstone,
        }
    }

    fn judge_conflict(self, here: Option<Meta>, is_locked: bool) -> Result<(), OperationError> {
        let (Rule::Outdone(_, contender), Some(here)) = (self, here) else {
            return Ok(());
        };
        if contender.takes_the_place_of(&here) {
            return Ok(());
        }
        let current = if is_locked { Cas::LOCKED } else { here.cas };
        Err(OperationError::ConflictLost { current })
    }

    /// There is a document, and its version is known to the holder of its lock alone.
    fn judge_locked(self, lock: Cas) -> Result<(), OperationError> {
        let given = match self {
            Rule::Absent(None) => return Err(OperationError::KeyExists),
            Rule::Absent(Some(_)) => {
                let current = Cas::LOCKED;
                return Err(OperationError::CasMismatch { current });
            }
            Rule::Any(given)
            | Rule::Present(given)
            | Rule::Replaced(given)
            | Rule::Outdone(given, _) => given,
            Rule::Locked(given) => Some(given),
        };
        if given == Some(lock) {
            Ok(())
        } else {
            Err(OperationError::Locked)
        }
    }

    /// `current` is the CAS of the live document there is.
    fn judge(self, current: Option<Cas>) -> Result<(), OperationError> {
        match (self, current) {
            (Rule::Any(None) | Rule::Outdone(None, _), _)
            | (Rule::Absent(None), None)
            | (Rule::Present(None) | Rule::Replaced(None), Some(_)) => Ok(()),
            (Rule::Absent(None), Some(_)) => Err(OperationError::KeyExists),
            // To add is to say that there is no version to compare with.
            (Rule::Absent(Some(_)), current) => Err(OperationError::CasMismatch {
                current: current.unwrap_or_default(),
            }),
            (
                Rule::Present(_)
                | Rule::Replaced(_)
                | Rule::Any(Some(_))
                | Rule::Outdone(Some(_), _)
                | Rule::Locked(_),
                None,
            ) => Err(OperationError::KeyNotFound),
            (Rule::Locked(_), Some(_)) => Err(OperationError::NotLocked),
            (
                Rule::Any(Some(given))
                | Rule::Present(Some(given))
                | Rule::Replaced(Some(given))
                | Rule::Outdone(Some(given), _),
                Some(current),
            ) => {
                if given == current {
                    Ok(())
                } else {
                    Err(OperationError::CasMismatch { current })
                }
            }
        }
    }
}
