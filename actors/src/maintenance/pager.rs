//! Which documents leave memory when it is short: those of one vbucket after the other, round and round, until enough is free.
//!
//! Invariant: its place is kept, so that each document is looked at once a round, and one that was used lately has as many
//! rounds more; when whole rounds free next to nothing it says so, and is not to be asked again at once. Pure.

use crate::vbucket::{Evicted, EvictionWalk};

/// Looks at a vbucket's map in one go, each at about a hundred documents: a fraction of a millisecond.
const LOOKS_AT_ONCE: u32 = 16;
/// After so many rounds even what was used most has had its turn.
const ROUNDS: u64 = 4;

/// What asking for memory came to.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paged {
    /// There is enough.
    Enough,
    /// It goes on.
    More,
    /// Hardly anything can leave now: it is not on disk, or not sealed, or somebody holds it.
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
    vbucket: u16,
    walk: EvictionWalk,
    /// Vbuckets it came to the end of, and what was freed, since it was judged last.
    ended: u64,
    freed: u64,
    rounds: u64,
}

impl Pager {
    /// Has some documents leave. `evict` goes on in a vbucket, where there is one.
    pub fn step(
        &mut self,
        vbuckets: u16,
        shortage: impl Fn() -> Shortage,
        mut evict: impl FnMut(u16, &mut EvictionWalk) -> Option<Evicted>,
    ) -> Paged {
        for _ in 0..LOOKS_AT_ONCE {
            let Shortage {
                is_short,
                bytes,
                worth_bytes,
            } = shortage();
            self.is_at_work = bytes > 0 && (is_short || self.is_at_work);
            if !self.is_at_work || vbuckets == 0 {
                return Paged::Enough;
            }
            let evicted = evict(self.vbucket, &mut self.walk);
            let evicted = evicted.unwrap_or(Evicted {
                is_at_end: true,
                ..Evicted::default()
            });
            self.freed = self.freed.saturating_add(evicted.bytes);
            if evicted.is_at_end && self.end_vbucket(vbuckets) {
                let freed = std::mem::take(&mut self.freed);
                if freed < worth_bytes.max(1) {
                    return Paged::Nothing;
                }
            }
        }
        Paged::More
    }

    /// Goes on to the next vbucket; whether the rounds are to be judged.
    fn end_vbucket(&mut self, vbuckets: u16) -> bool {
        self.walk = EvictionWalk::default();
        self.vbucket = self.vbucket.saturating_add(1);
        if self.vbucket >= vbuckets {
            self.vbucket = 0;
            self.rounds = self.rounds.saturating_add(1);
        }
        self.ended = self.ended.saturating_add(1);
        let is_over = self.ended >= ROUNDS.saturating_mul(u64::from(vbuckets));
        if is_over {
            self.ended = 0;
        }
        is_over
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

    /// So many vbuckets that free so much with each look, two looks to a vbucket.
    fn page(state: &mut Pager, short: u64, frees: u64) -> (Paged, u64) {
        let (left, looks) = (Cell::new(short), Cell::new(0u64));
        let shortage = || Shortage {
            is_short: left.get() > 50,
            bytes: left.get(),
            worth_bytes: 10,
        };
        let came = state.step(3, shortage, |_, _| {
            looks.set(looks.get() + 1);
            left.set(left.get().saturating_sub(frees));
            Some(Evicted {
                documents: 1,
                bytes: frees,
                is_at_end: looks.get() % 2 == 0,
            })
        });
        (came, looks.get())
    }

    #[test]
    fn it_begins_when_memory_is_short_and_ends_when_enough_is_free() {
        let mut state = Pager::default();
        assert_eq!(page(&mut state, 50, 10), (Paged::Enough, 0), "not short");
        assert_eq!(
            page(&mut state, 60, 10),
            (Paged::Enough, 6),
            "below the low mark"
        );
        assert_eq!(page(&mut state, 1000, 10), (Paged::More, 16));
        assert_eq!(page(&mut state, 40, 10), (Paged::Enough, 4), "it had begun");
        assert_eq!(page(&mut state, 40, 10), (Paged::Enough, 0), "it had ended");
    }

    #[test]
    fn rounds_that_free_next_to_nothing_are_not_gone_on_with() {
        let mut state = Pager::default();
        // Four rounds over three vbuckets, with two looks at each.
        assert_eq!(page(&mut state, 1000, 0), (Paged::More, 16));
        assert_eq!(page(&mut state, 1000, 0), (Paged::Nothing, 8));
        assert_eq!(state.rounds(), 4);
    }

    #[test]
    fn its_place_is_kept() {
        let mut state = Pager::default();
        let mut seen = Vec::new();
        for _ in 0..2 {
            let short = || Shortage {
                is_short: true,
                bytes: 1,
                worth_bytes: 0,
            };
            let came = state.step(40, short, |vbucket, _| {
                seen.push(vbucket);
                None
            });
            assert_eq!(came, Paged::More);
        }
        assert_eq!(seen, (0..32).collect::<Vec<u16>>());
    }
}
