//! Documents in memory whose time is up, looked for now and then, so that one that nobody reads does not stay there until its
//! vbucket is compacted.
//!
//! Invariant: a step looks at so many documents at most and holds no vbucket's lock for more than one deletion, and its place
//! is kept, over a panic too; it decides nothing, for each deletion is the vbucket's. Called by the maintenance.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::vbucket::{ExpiryWalk, Swept};

/// Looks at a vbucket's map in one step, each at about a hundred documents.
const LOOKS_AT_ONCE: u32 = 16;

/// Vbuckets whose documents may expire.
pub trait Sweepable: Debug + Send + Sync + 'static {
    /// How many there are.
    fn places(&self) -> u16;
    /// Goes on in one of them, where it is there.
    fn sweep(&self, vbucket: u16, walk: &mut ExpiryWalk) -> Option<Swept>;
}

/// What a step came to.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sweeping {
    /// It goes on.
    More,
    /// Nothing is to be done before then (monotonic).
    Until(Duration),
}

/// The sweep of a bucket, which its maintenance does in all its lives.
#[derive(Clone, Debug)]
pub struct ExpirySweep {
    every: Duration,
    of: Arc<dyn Sweepable>,
    place: Arc<Mutex<Place>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// When the next one begins; nobody looked yet.
    due: Option<Duration>,
    vbucket: u16,
    walk: ExpiryWalk,
}

impl ExpirySweep {
    /// So often; with nothing there is none.
    #[must_use]
    pub fn every(every: Duration, of: Arc<dyn Sweepable>) -> Option<ExpirySweep> {
        (!every.is_zero()).then(|| ExpirySweep {
            every,
            of,
            place: Arc::default(),
        })
    }

    /// Looks at some more documents, if it is time to.
    pub(super) fn step(&self, now: Duration) -> Sweeping {
        let mut place = self.place.lock();
        let due = *place.due.get_or_insert(now.saturating_add(self.every));
        if now < due {
            return Sweeping::Until(due);
        }
        for _ in 0..LOOKS_AT_ONCE {
            if place.vbucket >= self.of.places() {
                let due = now.saturating_add(self.every);
                *place = Place {
                    due: Some(due),
                    ..Place::default()
                };
                return Sweeping::Until(due);
            }
            let vbucket = place.vbucket;
            let swept = self.of.sweep(vbucket, &mut place.walk);
            if swept.is_none_or(|swept| swept.is_at_end) {
                place.vbucket = vbucket.saturating_add(1);
                place.walk = ExpiryWalk::default();
            }
        }
        Sweeping::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::panics::caught;

    /// Three vbuckets of twenty looks each.
    #[derive(Debug, Default)]
    struct Vbuckets {
        looks: Mutex<[u32; 3]>,
        panics_at: Option<u32>,
    }

    impl Sweepable for Vbuckets {
        fn places(&self) -> u16 {
            3
        }

        fn sweep(&self, vbucket: u16, _: &mut ExpiryWalk) -> Option<Swept> {
            let mut looks = self.looks.lock();
            let of_it = &mut looks[usize::from(vbucket)];
            *of_it += 1;
            assert_ne!((vbucket, Some(*of_it)), (1, self.panics_at), "injected");
            Some(Swept {
                deleted: 0,
                is_at_end: of_it.is_multiple_of(20),
            })
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_is_done_in_bounded_steps_once_in_its_time() {
        let of = Arc::new(Vbuckets::default());
        let sweep = ExpirySweep::every(10 * SECOND, Arc::clone(&of) as _).unwrap();
        assert_eq!(sweep.step(5 * SECOND), Sweeping::Until(15 * SECOND));
        assert_eq!(sweep.step(14 * SECOND), Sweeping::Until(15 * SECOND));
        assert_eq!(*of.looks.lock(), [0; 3]);
        for looked in [[16, 0, 0], [20, 12, 0], [20, 20, 8]] {
            assert_eq!(sweep.step(15 * SECOND), Sweeping::More);
            assert_eq!(*of.looks.lock(), looked);
        }
        assert_eq!(sweep.step(16 * SECOND), Sweeping::Until(26 * SECOND));
        assert_eq!(*of.looks.lock(), [20; 3]);
        assert_eq!(sweep.step(26 * SECOND), Sweeping::More);
    }

    #[test]
    fn a_panic_costs_it_no_more_than_a_look() {
        let of = Arc::new(Vbuckets {
            panics_at: Some(3),
            ..Vbuckets::default()
        });
        let sweep = ExpirySweep::every(SECOND, Arc::clone(&of) as _).unwrap();
        assert_eq!(sweep.step(SECOND), Sweeping::Until(2 * SECOND));
        assert_eq!(sweep.step(2 * SECOND), Sweeping::More);
        assert!(caught(|| sweep.step(2 * SECOND)).is_err());
        for _ in 0..2 {
            assert_eq!(sweep.step(2 * SECOND), Sweeping::More);
        }
        assert_eq!(sweep.step(2 * SECOND), Sweeping::Until(3 * SECOND));
        assert_eq!(*of.looks.lock(), [20; 3]);
    }

    #[test]
    fn with_no_time_given_there_is_none() {
        assert!(ExpirySweep::every(Duration::ZERO, Arc::new(Vbuckets::default())).is_none());
    }
}
