//! Tokens are charged once, released once, and a pool learns of all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{MemoryAccount, MemoryPool, MemoryToken};

const MIB: u64 = 1 << 20;

fn account(quota_bytes: u64) -> Arc<MemoryAccount> {
    Arc::new(MemoryAccount::new(Arc::new(MemoryPool::new(quota_bytes))))
}

#[test]
fn a_token_is_released_with_its_last_owner() {
    let account = account(64 * MIB);
    let token = account.charge(1000);
    let copy = token.clone();
    assert_eq!(account.held_bytes(), 2000);
    drop(token);
    assert_eq!(account.held_bytes(), 1000);
    drop(copy);
    assert_eq!(account.held_bytes(), 0);
}

#[test]
fn a_value_that_left_is_paid_for_no_more_and_a_copy_knows_it() {
    let account = account(64 * MIB);
    let mut token = account.charge(1000);
    assert!(token.has_value());
    token.leave_out_value(300);
    assert_eq!((token.bytes(), account.held_bytes()), (300, 300));
    let copy = token.clone();
    assert!(!token.has_value() && !copy.has_value());
    assert_eq!(account.held_bytes(), 600);
    drop((token, copy));
    assert_eq!(account.held_bytes(), 0);
    assert_eq!(size_of::<MemoryToken>(), 16);
}

#[test]
fn the_empty_token_costs_nothing() {
    let copy = MemoryToken::default().clone();
    assert_eq!(copy.bytes(), 0);
}

#[test]
fn a_charge_above_the_quota_is_refused_and_nothing_is_held() {
    let account = account(1000);
    let held = account.try_charge(600, 0);
    assert!(held.is_some());
    assert!(account.try_charge(401, 0).is_none());
    assert!(account.try_charge(401, 1).is_some(), "within the allowance");
    drop(held);
    assert!(account.try_charge(1000, 0).is_some());
    assert_eq!(account.held_bytes(), 0);
}

#[test]
fn the_pool_learns_of_everything_in_steps_and_at_the_end() {
    let pool = Arc::new(MemoryPool::new(64 * MIB));
    let one = Arc::new(MemoryAccount::new(Arc::clone(&pool)));
    let two = Arc::new(MemoryAccount::new(Arc::clone(&pool)));
    let small = one.charge(100);
    assert_eq!(pool.held_bytes(), 0, "not told of less than a step");
    let large = two.charge(MIB);
    assert_eq!(pool.held_bytes(), MIB);
    drop((large, two));
    assert_eq!(pool.held_bytes(), 0);
    drop((small, one));
    assert_eq!(pool.held_bytes(), 0);
}

#[test]
fn memory_is_short_from_the_high_mark_on() {
    let pool = Arc::new(MemoryPool::new(1000));
    let account = Arc::new(MemoryAccount::new(Arc::clone(&pool)));
    let held = account.charge(849);
    assert!(!pool.is_above_high_mark());
    let more = account.charge(1);
    assert!(pool.is_above_high_mark());
    drop((held, more));
    assert!(!pool.is_above_high_mark());
    assert!(!MemoryPool::new(u64::MAX).is_above_high_mark());
}

#[test]
fn what_was_refused_is_to_be_free_until_it_is() {
    let pool = Arc::new(MemoryPool::new(1000));
    let told = Arc::new(AtomicU64::new(0));
    let tell = Arc::clone(&told);
    pool.when_wanted(move || {
        tell.fetch_add(1, Ordering::Relaxed);
    });
    let account = Arc::new(MemoryAccount::new(Arc::clone(&pool)));
    let held = account.charge(700);
    assert_eq!(pool.lacks_bytes(), 0, "nobody asked");
    pool.note_refused(1001);
    assert_eq!(pool.lacks_bytes(), 0, "it never can be");
    for bytes in [400, 300, 400] {
        pool.note_refused(bytes);
    }
    assert_eq!(pool.lacks_bytes(), 100);
    assert_eq!(told.load(Ordering::Relaxed), 1, "more is not asked for");
    drop(held);
    assert_eq!(pool.lacks_bytes(), 0);
    let held = account.charge(700);
    assert_eq!(pool.lacks_bytes(), 0, "it was free, that is over");
    drop(held);
}

#[test]
fn threads_lose_no_byte() {
    let pool = Arc::new(MemoryPool::new(64 * MIB));
    let account = Arc::new(MemoryAccount::new(Arc::clone(&pool)));
    let held: Vec<_> = std::thread::scope(|scope| {
        let work = |seed: u64| {
            let account = &account;
            scope.spawn(move || {
                let mut held = Vec::new();
                for turn in 0..20_000u64 {
                    held.push(account.charge((turn * seed) % 4096));
                    if turn % 3 == 0 {
                        held.swap_remove(held.len() / 2);
                    }
                }
                held
            })
        };
        let threads = [work(7), work(13)];
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let expected: u64 = held.iter().map(MemoryToken::bytes).sum();
    assert_eq!(account.held_bytes(), expected);
    drop(held);
    drop(account);
    assert_eq!(pool.held_bytes(), 0);
}

#[test]
fn a_token_that_knows_how_often_it_was_used_is_no_longer_for_it() {
    assert_eq!(size_of::<MemoryToken>(), 2 * size_of::<u64>());
}

#[test]
fn a_use_is_taken_off_once_and_few_are_told_apart() {
    let account = account(1000);
    let fresh = account.charge(1);
    assert!(fresh.take_use(), "what is new has a chance");
    assert!(!fresh.take_use());
    for _ in 0..100 {
        fresh.note_use();
    }
    let newer = account.charge(1);
    newer.take_over_uses(&fresh);
    for token in [fresh, newer] {
        assert_eq!((0..100).take_while(|_| token.take_use()).count(), 3);
    }
    let cold = account.charge(1);
    let other = account.charge(1);
    assert!(other.take_use());
    cold.take_over_uses(&other);
    assert!(
        cold.take_use(),
        "what is new has a chance, whatever it replaces"
    );
}

#[test]
fn documents_are_evicted_down_to_the_low_mark() {
    let pool = Arc::new(MemoryPool::new(1000));
    let account = Arc::new(MemoryAccount::new(Arc::clone(&pool)));
    let _held = account.charge(749);
    assert_eq!(pool.above_low_mark(), 0);
    let _more = account.charge(101);
    assert_eq!(pool.above_low_mark(), 100);
    assert!(account.has_room(150, 1000));
    assert!(!account.has_room(151, 1000));
}
