//! No mark is lost, whatever the order of marks, wake-ups and looks.

use std::sync::atomic::{AtomicU64, AtomicUsize};

use super::*;

fn vbucket(number: u16) -> VbucketId {
    VbucketId::new(number).unwrap()
}

fn counting(sent: WakeSent) -> (WakeFlusher, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let waker = WakeFlusher::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        sent
    });
    (waker, count)
}

#[test]
fn a_vbucket_is_queued_once_and_one_wake_is_under_way() {
    let dirty = DirtyVbuckets::new(4);
    let (waker, sent_times) = counting(WakeSent::Delivered);
    dirty.set_waker(waker);
    for _ in 0..3 {
        dirty.mark(vbucket(2));
        dirty.mark(vbucket(1));
    }
    assert_eq!(sent_times.load(Ordering::Relaxed), 1);
    dirty.clear_wake();
    assert_eq!(dirty.take(), Some(vbucket(2)));
    dirty.mark(vbucket(2));
    assert_eq!(sent_times.load(Ordering::Relaxed), 2);
    let rest: Vec<_> = std::iter::from_fn(|| dirty.take()).collect();
    assert_eq!(rest, [vbucket(1), vbucket(2)]);
}

#[test]
fn a_wake_that_was_not_delivered_is_tried_again_with_the_next_mark() {
    let dirty = DirtyVbuckets::new(4);
    let (waker, sent_times) = counting(WakeSent::Full);
    dirty.set_waker(waker);
    dirty.mark(vbucket(0));
    dirty.mark(vbucket(0));
    assert_eq!(sent_times.load(Ordering::Relaxed), 2);
    assert_eq!(dirty.take(), Some(vbucket(0)));
    assert_eq!(dirty.take(), None, "it is in the queue once");
}

#[test]
fn a_new_flusher_is_woken_for_what_waits_already() {
    let dirty = DirtyVbuckets::new(4);
    dirty.mark(vbucket(3));
    let (waker, sent_times) = counting(WakeSent::Delivered);
    dirty.set_waker(waker);
    assert_eq!(sent_times.load(Ordering::Relaxed), 1);
    assert_eq!(dirty.take(), Some(vbucket(3)));
}

/// Writers raise a figure and mark; the flusher looks at figures only when woken, and only at those it is given. If an
/// edge were lost it would wait for ever; the join below would not come back.
#[test]
fn threads_lose_no_mark() {
    const VBUCKETS: u16 = 8;
    const ROUNDS: u64 = 30_000;
    let dirty = DirtyVbuckets::new(VBUCKETS);
    let (wake, woken) = bounded(1);
    dirty.set_waker(WakeFlusher::new(move || {
        if wake.try_send(()).is_ok() {
            WakeSent::Delivered
        } else {
            WakeSent::Full
        }
    }));
    let figures: Vec<_> = (0..VBUCKETS).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for writer in 0..2u16 {
            let (dirty, figures) = (&dirty, &figures);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let number = u16::try_from(round % u64::from(VBUCKETS)).unwrap();
                    figures[usize::from((number + writer) % VBUCKETS)]
                        .fetch_add(1, Ordering::Relaxed);
                    dirty.mark(vbucket((number + writer) % VBUCKETS));
                }
            });
        }
        let mut seen = [0u64; VBUCKETS as usize];
        while seen.iter().sum::<u64>() < 2 * ROUNDS {
            woken.recv().unwrap();
            dirty.clear_wake();
            while let Some(id) = dirty.take() {
                seen[id.index()] = figures[id.index()].load(Ordering::Relaxed);
            }
        }
    });
}

#[test]
fn a_change_nobody_waits_for_wakes_only_a_flusher_that_has_nothing_under_way() {
    let dirty = DirtyVbuckets::new(4);
    let (waker, sent_times) = counting(WakeSent::Delivered);
    dirty.set_waker(waker);
    dirty.set_flusher_busy(true);
    dirty.mark_for_next_look(vbucket(1));
    assert_eq!(
        sent_times.load(Ordering::Relaxed),
        0,
        "the answer is soon enough"
    );
    dirty.mark(vbucket(2));
    assert_eq!(sent_times.load(Ordering::Relaxed), 1, "somebody waits");
    // The look the answer brings: what was put meanwhile is there, what comes later wakes again.
    dirty.clear_wake();
    dirty.set_flusher_busy(false);
    let taken: Vec<_> = std::iter::from_fn(|| dirty.take()).collect();
    assert_eq!(taken, [vbucket(1), vbucket(2)]);
    dirty.mark_for_next_look(vbucket(3));
    assert_eq!(sent_times.load(Ordering::Relaxed), 2);
}
