//! Whether a consumer must go back before it can go on, from what it says it has and what the vbucket is.
//!
//! Pure: rows of `docs/streams.md`. Invariant: a consumer that is let on holds a prefix of this vbucket's history and
//! misses no tombstone that was purged.

use storage::{FailoverTable, Seqno, SnapshotRange, VbucketUuid};

/// What the decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct RollbackQuestion<'a> {
    /// The last seqno the consumer has.
    pub start: Seqno,
    /// The snapshot it lies in.
    pub snapshot: SnapshotRange,
    /// The branch of history the consumer's items are of.
    pub vbucket_uuid: VbucketUuid,
    /// Whether that counts for a consumer that has nothing, too.
    pub is_strict: bool,
    /// The vbucket's branches.
    pub failover_table: &'a FailoverTable,
    /// Its newest item.
    pub high: Seqno,
    /// What was purged.
    pub purged: Purged,
}

/// What is known of tombstones that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Highest tombstone purged here.
    pub here: Seqno,
    /// Highest tombstone the consumer purged itself.
    pub at_consumer: Seqno,
    /// Highest seqno of the collections streamed; `None` when everything is streamed, or one of them is gone.
    pub collections_high: Option<Seqno>,
}

impl Purged {
    /// Whether a consumer that has everything up to `start` may have missed a tombstone.
    #[must_use]
    pub fn is_missed_from(&self, start: Seqno) -> bool {
        start < self.here && start != Seqno::ZERO && self.counts(start)
    }

    /// Whether a backfill of everything from `first` on, of a stream that was asked for from `start` on, may miss one.
    #[must_use]
    pub fn is_missed_by_backfill(&self, start: Seqno, first: Seqno) -> bool {
        first > Seqno(1) && first <= self.here && self.counts(start)
    }

    fn counts(&self, start: Seqno) -> bool {
        // It has everything of its collections, so that none of the tombstones was theirs.
        let has_all = self
            .collections_high
            .is_some_and(|high| start < self.here && high <= start && high <= self.here);
        !has_all && self.at_consumer != self.here
    }
}

/// To where the consumer must go back, if it must.
#[must_use]
pub fn rollback_to(question: &RollbackQuestion<'_>) -> Option<Seqno> {
    let RollbackQuestion {
        start,
        snapshot,
        vbucket_uuid,
        is_strict,
        failover_table,
        high,
        purged,
    } = *question;
    if start == Seqno::ZERO && (!is_strict || vbucket_uuid.0 == 0) {
        return None;
    }
    if purged.is_missed_from(start) {
        return Some(Seqno::ZERO);
    }
    let mut newer = None;
    let mut entries = failover_table.entries().iter();
    let is_known = entries.any(|entry| {
        let is_it = entry.uuid == vbucket_uuid;
        if !is_it {
            newer = Some(entry.seqno);
        }
        is_it
    });
    if !is_known {
        return Some(Seqno::ZERO);
    }
    let upper = newer.unwrap_or(high);
    // At its start it holds nothing of the snapshot, at its end all of it.
    let end = if start == snapshot.start {
        start
    } else {
        snapshot.end
    };
    if end <= upper {
        return None;
    }
    let safe = if start == end { start } else { snapshot.start };
    Some(upper.min(safe))
}

#[cfg(test)]
mod tests {
    use storage::FailoverEntry;

    use super::*;

    const Z: u64 = 3;
    const X: u64 = 2;
    const Y: u64 = 1;
    const Q: u64 = 9;

    fn table() -> FailoverTable {
        let entry = |(uuid, seqno)| FailoverEntry {
            uuid: VbucketUuid(uuid),
            seqno: Seqno(seqno),
        };
        FailoverTable::sanitized([(Z, 100), (X, 50), (Y, 0)].map(entry)).expect("a table")
    }

    fn ask(uuid: u64, [start, from, to]: [u64; 3], purged: Purged) -> Option<u64> {
        let failover_table = table();
        let question = RollbackQuestion {
            start: Seqno(start),
            snapshot: SnapshotRange {
                start: Seqno(from),
                end: Seqno(to),
            },
            vbucket_uuid: VbucketUuid(uuid),
            is_strict: false,
            failover_table: &failover_table,
            high: Seqno(150),
            purged,
        };
        rollback_to(&question).map(|seqno| seqno.0)
    }

    #[test]
    fn branches_decide_as_the_field_does() {
        let rows = [
            (Y, [40, 30, 60], Some(30)),
            (Y, [60, 55, 60], Some(50)),
            (Y, [50, 50, 90], None),
            (X, [40, 30, 60], None),
            (Z, [150, 140, 160], Some(140)),
            (Z, [160, 160, 160], Some(150)),
            (Q, [10, 10, 10], Some(0)),
            (Z, [150, 150, 150], None),
            (Q, [0, 0, 0], None),
        ];
        for (uuid, consumer, expected) in rows {
            let answer = ask(uuid, consumer, Purged::default());
            assert_eq!(answer, expected, "{uuid} {consumer:?}");
        }
    }

    #[test]
    fn purged_tombstones_decide_as_the_field_does() {
        let here = |seqno| Purged {
            here: Seqno(seqno),
            ..Purged::default()
        };
        assert_eq!(ask(Z, [44, 44, 44], here(45)), Some(0));
        assert_eq!(ask(Z, [45, 45, 45], here(45)), None);
        let both = Purged {
            at_consumer: Seqno(45),
            ..here(45)
        };
        assert_eq!(ask(Z, [44, 44, 44], both), None);
        // A consumer that has all of its collections misses none of theirs.
        let has_all = Purged {
            collections_high: Some(Seqno(40)),
            ..here(45)
        };
        assert_eq!(ask(Z, [44, 44, 44], has_all), None);
        let has_not = Purged {
            collections_high: Some(Seqno(46)),
            ..here(45)
        };
        assert_eq!(ask(Z, [44, 44, 44], has_not), Some(0));
        assert_eq!(ask(Q, [0, 0, 0], here(45)), None);
    }

    #[test]
    fn strict_compares_the_uuid_of_a_consumer_that_has_nothing() {
        let failover_table = table();
        let mut question = RollbackQuestion {
            start: Seqno::ZERO,
            snapshot: SnapshotRange::default(),
            vbucket_uuid: VbucketUuid(Q),
            is_strict: true,
            failover_table: &failover_table,
            high: Seqno(150),
            purged: Purged::default(),
        };
        assert_eq!(rollback_to(&question), Some(Seqno::ZERO));
        question.vbucket_uuid = VbucketUuid(Z);
        assert_eq!(rollback_to(&question), None);
        question.vbucket_uuid = VbucketUuid(0);
        assert_eq!(rollback_to(&question), None);
    }

    /// MB-65019, MB-64931: the same for requests of collections. What lets a request through lets its backfill through as
    /// well, as long as nothing was purged in between.
    #[test]
    fn mb_62940_request_and_backfill_agree() {
        for number in 0..10u64.pow(4) {
            let digit = |place: u32| number / 10u64.pow(place) % 10;
            let (start, collections) = (digit(0), digit(3));
            let purged = Purged {
                here: Seqno(digit(1)),
                at_consumer: Seqno(digit(2)),
                collections_high: (collections > 0).then_some(Seqno(collections)),
            };
            if ask(Z, [start, start, start], purged).is_none() {
                let is_missed = purged.is_missed_by_backfill(Seqno(start), Seqno(start + 1));
                assert!(!is_missed, "{start} {purged:?}");
            }
        }
    }

    #[test]
    fn a_backfill_looks_again() {
        let purged = Purged {
            here: Seqno(45),
            ..Purged::default()
        };
        assert!(purged.is_missed_by_backfill(Seqno(30), Seqno(31)));
        assert!(!purged.is_missed_by_backfill(Seqno(45), Seqno(46)));
        assert!(!purged.is_missed_by_backfill(Seqno::ZERO, Seqno(1)));
    }
}
