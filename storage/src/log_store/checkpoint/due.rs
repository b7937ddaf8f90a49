//! When a manifest is due: when it frees a log file, when the last one failed, and when it lies many log files back.
//!
//! Invariant: whoever needs log files no more and tells so is looked at; what was found stays found until a manifest of a later
//! moment is made. Told by seals, deletions and rollbacks, asked by maintenance, before it seals or merges.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Log files a manifest may lie back: where one vbucket needs the first file for long, what opening replays, and what a damaged
/// frame can concern, stays bounded by this all the same.
const FILES_BACK_MAX: u64 = 4;

/// Of a shard.
#[derive(Debug)]
pub(crate) struct Due {
    /// How often somebody said that log files may be needed no more, and how many of these were looked at in vain, or are in a
    /// manifest.
    told: AtomicU64,
    settled: AtomicU64,
    /// The last one failed.
    is_owed: AtomicBool,
    /// The log file of the moment the last one is of.
    made_in: AtomicU64,
}

impl Due {
    /// Of a shard that was opened; it may have crashed behind a seal.
    pub(crate) fn since(current_file: u64) -> Due {
        Due {
            told: AtomicU64::new(1),
            settled: AtomicU64::new(0),
            is_owed: AtomicBool::new(false),
            made_in: AtomicU64::new(current_file),
        }
    }

    /// What somebody needed of the log is sealed, or gone. To be said behind that.
    pub(crate) fn tell(&self) {
        self.told.fetch_add(1, Ordering::AcqRel);
    }

    /// One is made of this moment. To be said before what it is of is taken, under the writer's lock.
    pub(crate) fn begin(&self, current_file: u64) {
        let told = self.told.load(Ordering::Acquire);
        self.settled.fetch_max(told, Ordering::AcqRel);
        self.made_in.fetch_max(current_file, Ordering::AcqRel);
        self.is_owed.store(false, Ordering::Release);
    }

    /// It failed.
    pub(crate) fn owe(&self) {
        self.is_owed.store(true, Ordering::Release);
    }

    /// Whether the last one failed.
    pub(crate) fn is_owed(&self) -> bool {
        self.is_owed.load(Ordering::Acquire)
    }

    /// Whether one is worth it in a log from `first` to `current`, of which the oldest file that is needed is asked for.
    pub(crate) fn frees(
        &self,
        first: u64,
        current: u64,
        oldest_needed: impl FnOnce() -> Option<u64>,
    ) -> bool {
        let told = self.told.load(Ordering::Acquire);
        if told == self.settled.load(Ordering::Acquire) {
            return false;
        }
        let lies_back = current.saturating_sub(self.made_in.load(Ordering::Acquire));
        if lies_back >= FILES_BACK_MAX {
            return true;
        }
        let frees = oldest_needed().is_some_and(|oldest| oldest > first);
        if !frees {
            self.settled.fetch_max(told, Ordering::AcqRel);
        }
        frees
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_when_it_frees_a_file_of_which_somebody_told() {
        let due = Due::since(1);
        assert!(!due.frees(1, 2, || Some(1)), "looked at after an opening");
        assert!(!due.frees(1, 2, || panic!("nobody told")));
        due.tell();
        assert!(!due.frees(1, 2, || None), "all is held");
        due.tell();
        assert!(due.frees(1, 2, || Some(2)));
        assert!(due.frees(1, 2, || Some(2)), "until one is made");
        due.begin(2);
        assert!(!due.frees(2, 2, || panic!("it is in it")));
        // Told while it is made, of what is not in it.
        due.tell();
        assert!(due.frees(2, 3, || Some(3)));
    }

    #[test]
    fn it_is_due_when_the_last_one_lies_far_back() {
        let due = Due::since(1);
        due.begin(3);
        due.tell();
        assert!(!due.frees(1, 6, || Some(1)));
        due.tell();
        assert!(due.frees(1, 7, || Some(1)));
        due.begin(7);
        assert!(!due.frees(1, 11, || panic!("nobody told")));
    }

    #[test]
    fn one_that_failed_is_owed_until_the_next_begins() {
        let due = Due::since(1);
        assert!(!due.is_owed());
        due.owe();
        assert!(due.is_owed());
        due.begin(1);
        assert!(!due.is_owed());
    }
}
