//! Which documents leave memory when it is short: those nobody reads first, then those of one active vbucket after the other,
//! round and round, until enough is free.
//!
//! Invariant: its place is kept, so that each document is looked at once a round, and one that was used lately has as many
//! rounds more; when whole rounds free next to nothing it says so, and is not to be asked again at once. Pure.

use crate::vbucket::{Evicted, EvictionWalk};

/// Looks at a vbucket's map in one go, each at about a hundred documents: a fraction of a millisecond.
const LOOKS_AT_ONCE: u32 = 16;
/// After so many rounds even what was used most has had its turn.
const ROUNDS: u64 = 4;

/// Which vbuckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Replicas, and whatever else serves no client.
    Unread,
    /// Active ones.
    Read,
}

/// What asking for memory came to.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paged {
    /// There is enough.
    Enough,
    /// It goes on.
    More,
    /// Hardly anything can leave now: it is not on disk, or not sealed, or somebody holds it, or only what must stay is there.
    Nothing,
}

/// The memory of a bucket, as the pager is asked for some of it.
#[derive(Clone, Copy, Debug)]
pub struct Shortage {
    /// Whether it is to begin.
    pub is_short: bool,
    /// Bytes that are to be free before it ends.
    pub bytes: u64,
    /// What rounds must free to be worth it.
    pub worth_bytes: u64,
}

/// Where it is.
#[derive(Debug, Default)]
pub struct Pager {
    /// It began, and has not come to its end.
    is_at_work: bool,
    unread: Place,
    read: Place,
    /// Vbuckets that are yet to be looked at before those that are read.
    unread_first: u16,
    /// Active vbuckets it came to the end of, and what was freed, since it was judged last.
    ended: u64,
    freed: u64,
    /// What would have left then, had it been sealed and nobody held it.
    hindered: u64,
    waits_for_seals: bool,
    /// Bytes that could not be freed when it was tried last.
    stuck_bytes: u64,
    /// It ends when no more than these are to be freed.
    enough_bytes: u64,
    rounds: u64,
}

/// Where it is among the vbuckets of a side.
#[derive(Debug, Default)]
struct Place {
    vbucket: u16,
    walk: EvictionWalk,
}

impl Place {
    /// Goes on to the next vbucket; whether that is the first again.
    fn end_vbucket(&mut self, vbuckets: u16) -> bool {
        self.walk = EvictionWalk::default();
        self.vbucket = self.vbucket.saturating_add(1);
        let is_round = self.vbucket >= vbuckets;
        if is_round {
            self.vbucket = 0;
        }
        is_round
    }
}

impl Pager {
    /// Has some documents leave. `evict` goes on in a vbucket, where there is one of that side. Of each round the vbuckets
    /// that nobody reads are the first, so that they alone give way for as long as that is enough.
    pub fn step(
        &mut self,
        vbuckets: u16,
        shortage: impl Fn() -> Shortage,
        mut evict: impl FnMut(u16, Side, &mut EvictionWalk) -> Option<Evicted>,
    ) -> Paged {
        if vbuckets == 0 {
            return Paged::Enough;
        }
        let (mut looks, mut passed) = (0_u32, 0_u32);
        // Vbuckets of the other side cost next to nothing, and are all passed in one go.
        while looks < LOOKS_AT_ONCE && passed < u32::from(vbuckets).saturating_mul(2) {
            let Shortage {
                is_short,
                bytes,
                worth_bytes,
            } = shortage();
            let was_at_work = self.is_at_work;
            if !was_at_work {
                self.enough_bytes = self.enough_of(bytes);
            }
            self.is_at_work = bytes > self.enough_bytes && (is_short || was_at_work);
            if !self.is_at_work {
                return Paged::Enough;
            }
            if !was_at_work {
                self.unread_first = vbuckets;
            }
            let (side, place) = if self.unread_first > 0 {
                (Side::Unread, &mut self.unread)
            } else {
                (Side::Read, &mut self.read)
            };
            let evicted = evict(place.vbucket, side, &mut place.walk);
            if evicted.is_some() {
                looks = looks.saturating_add(1);
            } else {
                passed = passed.saturating_add(1);
            }
            let evicted = evicted.unwrap_or(Evicted {
                is_at_end: true,
                ..Evicted::default()
            });
            self.freed = self.freed.saturating_add(evicted.bytes);
            self.hindered = self.hindered.saturating_add(evicted.hindered_bytes);
            if evicted.is_at_end && self.end_vbucket(vbuckets) {
                let freed = std::mem::take(&mut self.freed);
                let hindered = std::mem::take(&mut self.hindered) / ROUNDS;
                if freed < worth_bytes.max(1) {
                    self.is_at_work = false;
                    self.stuck_bytes = shortage().bytes.saturating_sub(hindered);
                    self.waits_for_seals = hindered >= worth_bytes.max(1);
                    return Paged::Nothing;
                }
            }
        }
        Paged::More
    }

    /// How much of what is to be freed may stay. Where some of it can never leave, half of the rest stays, too: it would else
    /// leave to the last byte, however often it is used, for a mark that cannot be reached.
    fn enough_of(&mut self, bytes: u64) -> u64 {
        if self.stuck_bytes >= bytes {
            // What was stuck is not any more, or nothing else is there: to be tried.
            self.stuck_bytes = 0;
        }
        match self.stuck_bytes {
            0 => 0,
            stuck => stuck.saturating_add((bytes.saturating_sub(stuck)) / 2),
        }
    }

    /// Goes on to the next vbucket; whether the rounds are to be judged.
    fn end_vbucket(&mut self, vbuckets: u16) -> bool {
        if self.unread_first > 0 {
            self.unread.end_vbucket(vbuckets);
            self.unread_first = self.unread_first.saturating_sub(1);
            return false;
        }
        if self.read.end_vbucket(vbuckets) {
            self.rounds = self.rounds.saturating_add(1);
            self.unread_first = vbuckets;
        }
        self.ended = self.ended.saturating_add(1);
        let is_over = self.ended >= ROUNDS.saturating_mul(u64::from(vbuckets));
        if is_over {
            self.ended = 0;
        }
        is_over
    }

    /// Whether more would have left when hardly anything could, had more been sealed.
    #[must_use]
    pub const fn waits_for_seals(&self) -> bool {
        self.waits_for_seals
    }

    /// Rounds it did.
    #[must_use]
    pub const fn rounds(&self) -> u64 {
        self.rounds
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Three active vbuckets that free so much with each look, two looks to a vbucket; beside them as many that nobody reads and
    /// that free `unread_frees`. What it came to, and the looks at each side.
    fn page(state: &mut Pager, short: u64, frees: u64, unread_frees: u64) -> (Paged, u64, u64) {
        let (left, looks, unread) = (Cell::new(short), Cell::new(0u64), Cell::new(0u64));
        let shortage = || Shortage {
            is_short: left.get() > 50,
            bytes: left.get(),
            worth_bytes: 10,
        };
        let came = state.step(6, shortage, |vbucket, side, _| {
            let (of, bytes, counted) = match side {
                Side::Unread => (1, unread_frees, &unread),
                Side::Read => (0, frees, &looks),
            };
            if vbucket % 2 != of {
                return None;
            }
            counted.set(counted.get() + 1);
            left.set(left.get().saturating_sub(bytes));
            Some(Evicted {
                documents: 1,
                bytes,
                is_at_end: side == Side::Unread || counted.get() % 2 == 0,
                ..Evicted::default()
            })
        });
        (came, looks.get(), unread.get())
    }

    #[test]
    fn it_begins_when_memory_is_short_and_ends_when_enough_is_free() {
        let mut state = Pager::default();
        assert_eq!(page(&mut state, 50, 10, 0).0, Paged::Enough, "not short");
        let below = page(&mut state, 60, 10, 0);
        assert_eq!(below, (Paged::Enough, 6, 3), "below the low mark");
        assert_eq!(page(&mut state, 1000, 10, 0).0, Paged::More);
        assert_eq!(page(&mut state, 40, 10, 0).0, Paged::Enough, "it had begun");
        assert_eq!(page(&mut state, 40, 10, 0).1, 0, "it had ended");
    }

    #[test]
    fn what_nobody_reads_gives_way_alone_while_that_is_enough() {
        let mut state = Pager::default();
        for _ in 0..5 {
            assert_eq!(page(&mut state, 60, 10, 20), (Paged::Enough, 0, 3));
        }
        assert_eq!(page(&mut state, 100, 10, 20), (Paged::Enough, 4, 3));
    }

    #[test]
    fn rounds_that_free_next_to_nothing_are_not_gone_on_with() {
        let mut state = Pager::default();
        let came = (0..10).find(|_| page(&mut state, 1000, 0, 0).0 == Paged::Nothing);
        // Four rounds with three looks at each side, two to an active one.
        assert_eq!(came, Some(2));
        assert_eq!(state.rounds(), 4);
    }

    /// A vbucket of which so much can leave, and so much never can; of the latter some is only hindered.
    fn page_one(state: &mut Pager, left: &Cell<u64>, stuck: u64, hindered: u64) -> Paged {
        let shortage = || Shortage {
            is_short: left.get() > 50,
            bytes: left.get(),
            worth_bytes: 1,
        };
        state.step(1, shortage, |_, side, _| {
            let bytes = left.get().saturating_sub(stuck).min(2);
            left.set(left.get() - bytes);
            (side == Side::Read).then_some(Evicted {
                documents: 0,
                bytes,
                hindered_bytes: hindered,
                is_at_end: true,
            })
        })
    }

    fn page_to_its_end(state: &mut Pager, left: &Cell<u64>, stuck: u64, hindered: u64) -> Paged {
        let ended = |paged: &Paged| *paged != Paged::More;
        let mut all = (0..100).map(|_| page_one(state, left, stuck, hindered));
        all.find(ended).expect("it ends")
    }

    #[test]
    fn what_can_leave_is_not_driven_out_for_what_cannot() {
        let mut state = Pager::default();
        let left = Cell::new(60);
        assert_eq!(page_to_its_end(&mut state, &left, 20, 0), Paged::Nothing);
        assert_eq!(left.get(), 20, "it tried");
        assert!(!state.waits_for_seals());
        left.set(40);
        let paged = page_one(&mut state, &left, 20, 0);
        assert_eq!((paged, left.get()), (Paged::Enough, 40), "it is not short");
        left.set(60);
        assert_eq!(page_to_its_end(&mut state, &left, 20, 0), Paged::Enough);
        assert_eq!(left.get(), 40, "half of the rest stays");
        // What was stuck can leave now, and memory is short because of nothing else.
        left.set(60);
        assert_eq!(page_to_its_end(&mut state, &left, 60, 0), Paged::Nothing);
        assert_eq!(page_to_its_end(&mut state, &left, 0, 0), Paged::Enough);
        assert_eq!(left.get(), 0);
    }

    #[test]
    fn what_is_only_not_sealed_is_waited_for() {
        let mut state = Pager::default();
        let left = Cell::new(60);
        assert_eq!(page_to_its_end(&mut state, &left, 60, 60), Paged::Nothing);
        assert!(state.waits_for_seals());
        assert_eq!(page_to_its_end(&mut state, &left, 0, 0), Paged::Enough);
        assert_eq!(left.get(), 0, "it is sealed, and goes to the low mark");
    }

    #[test]
    fn its_place_is_kept() {
        let mut state = Pager::default();
        let mut seen = Vec::new();
        let short = || Shortage {
            is_short: true,
            bytes: 1,
            worth_bytes: 0,
        };
        let mut look = |vbucket, side, _: &mut EvictionWalk| {
            let is_at_end = Evicted {
                is_at_end: true,
                ..Evicted::default()
            };
            (side == Side::Read).then(|| {
                seen.push(vbucket);
                is_at_end
            })
        };
        for _ in 0..2 {
            assert_eq!(state.step(40, short, &mut look), Paged::More);
        }
        let enough = || Shortage {
            bytes: 0,
            ..short()
        };
        assert_eq!(state.step(40, enough, &mut look), Paged::Enough);
        for _ in 0..2 {
            assert_eq!(state.step(40, short, &mut look), Paged::More);
        }
        assert_eq!(seen[..40], (0..40).collect::<Vec<u16>>());
        assert_eq!(seen[40..], (0..16).collect::<Vec<u16>>());
    }
}
