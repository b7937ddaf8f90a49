//! The clock never repeats and never goes back, whatever the wall clock does and whoever asks.

use std::collections::BTreeSet;

use super::{Cas, HybridLogicalClock};

const SECOND: u64 = 1_000_000_000;

#[test]
fn it_rises_while_the_wall_clock_stands_still() {
    let clock = HybridLogicalClock::default();
    let mut before = clock.next(SECOND);
    for _ in 0..200_000 {
        let next = clock.next(SECOND);
        assert!(next > before);
        before = next;
    }
    assert_eq!(clock.newest(), before);
}

#[test]
fn it_rises_while_the_wall_clock_goes_back() {
    let clock = HybridLogicalClock::default();
    let before = clock.next(9 * SECOND);
    assert_eq!(clock.next(SECOND), Cas(before.0 + 1));
    assert_eq!(clock.next(0), Cas(before.0 + 2));
}

#[test]
fn it_follows_the_wall_clock_in_its_high_bits() {
    let clock = HybridLogicalClock::default();
    let time = 1_700_000_000 * SECOND + 12_345;
    assert_eq!(clock.next(time), Cas(time & !0xffff));
    let later = time + SECOND;
    assert_eq!(clock.next(later), Cas(later & !0xffff));
}

#[test]
fn it_goes_on_after_what_was_given_or_seen_before() {
    let clock = HybridLogicalClock::after(Cas(5 * SECOND));
    assert_eq!(clock.next(SECOND), Cas(5 * SECOND + 1));
    clock.observe(Cas(7 * SECOND));
    assert_eq!(clock.next(SECOND), Cas(7 * SECOND + 1));
    clock.observe(Cas(3));
    assert_eq!(clock.newest(), Cas(7 * SECOND + 1));
}

#[test]
fn at_its_end_it_stays_there_and_does_not_wrap() {
    let clock = HybridLogicalClock::after(Cas(u64::MAX));
    assert_eq!(clock.next(SECOND), Cas(u64::MAX));
}

#[test]
fn threads_never_get_the_same() {
    const EACH: u64 = 20_000;
    let clock = HybridLogicalClock::default();
    let take = |first: u64| {
        let times = (0..EACH).map(|step| SECOND + (first + step) % 7 * 40_000);
        let given: Vec<Cas> = times.map(|time| clock.next(time)).collect();
        assert!(given.is_sorted_by(|earlier, later| earlier < later));
        given
    };
    let given: Vec<Vec<Cas>> = std::thread::scope(|scope| {
        let threads = [0, 1, 2, 3].map(|first| scope.spawn(move || take(first)));
        threads.map(|thread| thread.join().unwrap()).to_vec()
    });
    let different: BTreeSet<Cas> = given.concat().into_iter().collect();
    assert_eq!(different.len() as u64, 4 * EACH);
}
