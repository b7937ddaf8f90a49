//! What was asked of each key and what was answered, over all openings; the truth the checkers compare with.
//!
//! Invariant: the writes of a key stand in the order they were asked for, and nobody asks for the next one before the
//! last was answered. A write that was refused whole is not here; one whose outcome nobody knows is.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use piggin::storage::{Seqno, VbucketId};

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nobody knows: the caller was told of a crash, or nothing at all.
    Unknown,
    /// Acknowledged in memory.
    InMemory(Seqno),
    /// Acknowledged on disk.
    Persisted(Seqno),
}

impl Outcome {
    pub(crate) fn seqno(self) -> Option<Seqno> {
        match self {
            Outcome::Unknown => None,
            Outcome::InMemory(seqno) | Outcome::Persisted(seqno) => Some(seqno),
        }
    }
}

/// A write; no value is a deletion.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) value: Option<Bytes>,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct KeyHistory {
    /// What was found when the bucket was opened last.
    pub(crate) settled: Option<Bytes>,
    /// What was asked since.
    pub(crate) writes: Vec<Written>,
}

impl KeyHistory {
    /// What may be there if the vbucket ends at `high`: the last write known to be at or below, or one after it whose
    /// outcome nobody knows. A version acknowledged in memory alone may be missing, and an older one be there, where a
    /// later write took its place in memory and lies above.
    pub(crate) fn possible(&self, high: Seqno) -> Vec<Option<Bytes>> {
        let is_above = |written: &Written| written.outcome.seqno().is_some_and(|one| one > high);
        let below = self.writes.iter().take_while(|written| !is_above(written));
        let below: Vec<&Written> = below.collect();
        let mut possible = vec![self.settled.clone()];
        for (index, written) in below.iter().enumerate() {
            let mut later = self.writes.iter().skip(index + 1);
            let may_be_replaced = later.any(|one| is_above(one) || one.outcome == Outcome::Unknown);
            match written.outcome {
                Outcome::Persisted(_) => possible.clear(),
                Outcome::InMemory(_) if high == Seqno::MAX || !may_be_replaced => possible.clear(),
                Outcome::InMemory(_) | Outcome::Unknown => {}
            }
            possible.push(written.value.clone());
        }
        possible
    }
}

pub(crate) type Place = (VbucketId, String);

/// All keys. A clone is the same history.
#[derive(Clone, Default)]
pub(crate) struct History {
    keys: Arc<Mutex<BTreeMap<Place, KeyHistory>>>,
    findings: Arc<Mutex<Vec<String>>>,
    done: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl History {
    pub(crate) fn keys(&self) -> BTreeMap<Place, KeyHistory> {
        self.keys.lock().clone()
    }

    /// What there is now, if that is known for certain.
    pub(crate) fn known(&self, place: &Place) -> Option<Bytes> {
        let keys = self.keys.lock();
        match &keys.get(place)?.possible(Seqno::MAX)[..] {
            [Some(known)] => Some(known.clone()),
            _ => None,
        }
    }

    /// What may be there, as [`KeyHistory::possible`] says.
    pub(crate) fn possible(&self, place: &Place, high: Seqno) -> Vec<Option<Bytes>> {
        let keys = self.keys.lock();
        let history = keys.get(place);
        history.map_or(vec![None], |history| history.possible(high))
    }

    /// The newest write, if there was one since the bucket was opened.
    pub(crate) fn newest(&self, place: &Place) -> Option<(Option<Bytes>, Outcome)> {
        let keys = self.keys.lock();
        let newest = keys.get(place)?.writes.last()?;
        Some((newest.value.clone(), newest.outcome))
    }

    /// A client saw a promise broken.
    pub(crate) fn found(&self, finding: String) {
        self.findings.lock().push(finding);
    }

    /// A client did something of which many runs must have some.
    pub(crate) fn did(&self, what: &'static str) {
        *self.done.lock().entry(what).or_default() += 1;
    }

    /// How often clients did what.
    pub(crate) fn done(&self) -> BTreeMap<&'static str, u64> {
        self.done.lock().clone()
    }

    /// What clients saw, once.
    pub(crate) fn take_findings(&self) -> Vec<String> {
        std::mem::take(&mut self.findings.lock())
    }

    /// A write is asked for; its outcome is unknown until it is told.
    pub(crate) fn asked(&self, place: &Place, value: Option<Bytes>) {
        let mut keys = self.keys.lock();
        let history = keys.entry(place.clone()).or_default();
        let outcome = Outcome::Unknown;
        history.writes.push(Written { value, outcome });
    }

    /// What became of the newest write of a key.
    pub(crate) fn answered(&self, place: &Place, outcome: Outcome) {
        let mut keys = self.keys.lock();
        let newest = keys
            .get_mut(place)
            .and_then(|history| history.writes.last_mut());
        if let Some(written) = newest {
            written.outcome = outcome;
        }
    }

    /// The newest write of a key was refused whole.
    pub(crate) fn refused(&self, place: &Place) {
        if let Some(history) = self.keys.lock().get_mut(place) {
            history.writes.pop();
        }
    }

    /// This was found when the bucket was opened: what is not there now must not return.
    pub(crate) fn settle(&self, place: &Place, found: Option<Bytes>) {
        if let Some(history) = self.keys.lock().get_mut(place) {
            history.settled = found;
            history.writes.clear();
        }
    }
}
