//! Rids memory of the documents and prepares of collections that ended, in bounded slices.
//!
//! Invariant: nobody sees what is erased here, and nobody writes its keys: a collection that ended is closed for ever, and
//! one that begins anew under its number does not have what came before. So the vbucket's lock is held for a slice of
//! them at a time, and whatever was begun may be left where it is and gone on with by anybody.

use crate::durability::{Monitor, Prepare};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::vbucket::core::VbucketCore;
use crate::vbucket::kept::Kept;
use storage::Outcome;

/// Documents taken out under one lock: some tens of microseconds.
const DOCUMENTS_AT_ONCE: usize = 256;

/// How far the erasing is.
#[derive(Debug, Default)]
pub(in crate::vbucket) struct Erasing {
    /// A collection ended since the walk began.
    is_asked: AtomicBool,
    /// One ended since the vbucket was opened.
    was_asked: AtomicBool,
    walk: Mutex<Option<Walk>>,
}

/// A walk over the map: the next slice to look at, and what was found and is still there.
#[derive(Debug, Default)]
struct Walk {
    slice: usize,
    found: Vec<Kept>,
}

impl VbucketCore {
    /// Whether documents of collections that ended may be in memory.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.erasing.is_asked.load(Ordering::Acquire) || self.erasing.walk.lock().is_some()
    }

    /// Erases some of them, or looks for some. Yields until there are none.
    pub fn erase_ended(&self) -> Outcome<()> {
        let mut walk = self.erasing.walk.lock();
        if walk.is_none() && self.erasing.is_asked.swap(false, Ordering::AcqRel) {
            *walk = Some(Walk::default());
        }
        let Some(under_way) = walk.as_mut() else {
            return Outcome::Complete(());
        };
        if !under_way.found.is_empty() {
            self.erase(&mut under_way.found);
            return Outcome::Yielded;
        }
        if let Some(kept) = self.map.slice(under_way.slice) {
            under_way.slice = under_way.slice.saturating_add(1);
            let collections = self.collections.read();
            let has_ended = |kept: &Kept| !collections.has(kept.key(), kept.seqno());
            under_way.found = kept.into_iter().filter(has_ended).collect();
            return Outcome::Yielded;
        }
        if !self.forget_ended(DOCUMENTS_AT_ONCE) {
            return Outcome::Yielded;
        }
        *walk = None;
        if self.erasing.is_asked.load(Ordering::Acquire) {
            Outcome::Yielded
        } else {
            Outcome::Complete(())
        }
    }

    /// Takes some of them out of the map; those that are left stay found, also when this panics.
    fn erase(&self, found: &mut Vec<Kept>) {
        let _locked = self.lock();
        let collections = self.collections.read();
        for _ in 0..DOCUMENTS_AT_ONCE {
            let Some(kept) = found.last() else { return };
            let key = kept.key();
            // Looked at again: a rollback may have taken back that the collection ended.
            if !collections.has(key, kept.seqno())
                && let Some(gone) = self.map.remove(key.as_encoded(), kept.seqno())
            {
                collections.note_gone(gone.held());
            }
            found.pop();
        }
    }

    /// Forgets up to `max` prepares of collections that ended, but for those an active vbucket has yet to decide. Whether
    /// that was all of them.
    fn forget_ended(&self, max: usize) -> bool {
        let mut ended = self.prepares.outstanding();
        {
            let collections = self.collections.read();
            ended.retain(|one| !collections.has(&one.key, one.seqno));
        }
        if ended.is_empty() {
            return true;
        }
        let mut locked = self.lock();
        let is_undecided = |one: &Prepare| match &locked.durable.monitor {
            Monitor::Active(active) => active.tracks(one.seqno),
            Monitor::Passive(_) | Monitor::Dead(_) => false,
        };
        {
            // Looked at again: a rollback may have taken back that the collection ended.
            let collections = self.collections.read();
            ended.retain(|one| !collections.has(&one.key, one.seqno) && !is_undecided(one));
        }
        for one in ended.iter().take(max) {
            self.forget_prepare(&mut locked, &one.key, one.seqno);
        }
        locked.after_monitor();
        ended.len() <= max
    }

    /// Whether a collection ended while the vbucket was loaded, or later.
    pub(in crate::vbucket) fn had_an_end(&self) -> bool {
        self.erasing.was_asked.load(Ordering::Acquire)
    }

    /// A collection ended: whoever erases is told.
    pub(in crate::vbucket) fn ask_for_erasing(&self) {
        self.erasing.was_asked.store(true, Ordering::Release);
        self.erasing.is_asked.store(true, Ordering::Release);
        self.manifest.note_ended();
    }
}
