//! A consumer that stands still, during a backfill or behind it, for lack of room in its window or in its mailbox, keeps
//! no more of the checkpoint log than two checkpoints, and gets everything when it goes on; one that dies leaves nothing.
#![cfg(test)]

mod disk_side;

use std::time::Duration;

use disk_side::readers::{Consumer, Streamed};
use messages::stream::StreamEndReason;
use piggin_actors::backfill::BackfillLimits;

/// More than the log keeps by itself: a checkpoint is full after twelve.
const KEYS: std::ops::Range<u64> = 0..60;
const MANY: usize = 400;

/// A vbucket whose documents are on disk and not in its log.
fn filled(seed: u64) -> Streamed {
    let mut streamed = Streamed::new(seed);
    streamed.write(KEYS, 60);
    streamed
}

/// Writes while a consumer stands still: the log keeps no more than without it, but for what may be kept for it.
fn frees_the_log(streamed: &mut Streamed, alone: u64) {
    let most = streamed.write(KEYS, MANY);
    assert!(
        most < 5 * alone,
        "{most} bytes, {alone} without the consumer"
    );
    let core = streamed.core();
    assert_eq!(core.cursors(), 1, "its place in the log");
    assert!(core.checkpoint_bytes() <= 2 * alone);
}

#[test]
fn a_window_that_is_full_during_a_backfill_keeps_no_log() {
    let mut streamed = filled(1);
    let alone = streamed.write(KEYS, MANY);
    let consumer = Consumer::with_room(usize::MAX);
    let (_, acknowledged) = streamed.open(&consumer, Some(1));
    streamed.turns();
    // One event overshot the window: the marker of what is read from disk.
    assert_eq!(consumer.content().snapshots, 1);
    assert_eq!(streamed.core().cursors(), 2, "a place behind the snapshot");
    assert_eq!(
        streamed.backfills.figures().backfills,
        0,
        "all of it is read"
    );
    frees_the_log(&mut streamed, alone);
    streamed.drain(&consumer, &acknowledged);
    streamed.assert_has_all(&consumer, KEYS);
    streamed.next_life();
    assert_eq!(consumer.content().end, Some(StreamEndReason::Disconnected));
    streamed.assert_at_base();
}

#[test]
fn a_window_that_is_full_behind_a_backfill_keeps_no_log() {
    let mut streamed = filled(2);
    let alone = streamed.write(KEYS, MANY);
    let consumer = Consumer::with_room(usize::MAX);
    let (_, acknowledged) = streamed.open(&consumer, Some(1));
    streamed.drain(&consumer, &acknowledged);
    // In memory now; the next event fills its window, perhaps in the middle of a snapshot.
    streamed.write(KEYS, 3);
    let before = consumer.content().last;
    frees_the_log(&mut streamed, alone);
    assert!(consumer.content().last <= before.next(), "it stands still");
    streamed.drain(&consumer, &acknowledged);
    streamed.assert_has_all(&consumer, KEYS);
    consumer.leave();
    streamed.assert_at_base();
}

#[test]
fn a_mailbox_that_is_full_keeps_no_log_and_loses_nothing() {
    for room in 0..6 {
        let mut streamed = filled(3);
        let alone = streamed.write(KEYS, MANY);
        let consumer = Consumer::with_room(room);
        let (_, acknowledged) = streamed.open(&consumer, None);
        streamed.turns();
        assert!(room > 0 || streamed.turn(), "it is to be offered again");
        frees_the_log(&mut streamed, alone);
        streamed.drain(&consumer, &acknowledged);
        streamed.assert_has_all(&consumer, KEYS);
        consumer.leave();
        streamed.assert_at_base();
    }
}

#[test]
fn a_dead_consumer_gives_its_name_back_at_once() {
    let mut streamed = filled(4);
    let dead = Consumer::with_room(2);
    streamed.open(&dead, None);
    streamed.turns();
    let last = dead.content().last;
    dead.leave();
    // Nobody looked since: whoever comes back is faster.
    let consumer = Consumer::with_room(usize::MAX);
    let (_, acknowledged) = streamed.open(&consumer, None);
    streamed.write(KEYS, 30);
    streamed.drain(&consumer, &acknowledged);
    streamed.assert_has_all(&consumer, KEYS);
    assert_eq!(dead.content().last, last);
    assert_eq!(streamed.producer.len(), 1);
    assert_eq!(streamed.core().cursors(), 2, "that of the one that lives");
    consumer.leave();
    streamed.assert_at_base();
}

#[test]
fn the_end_of_a_stream_is_kept_over_a_panic_for_a_full_mailbox() {
    let mut streamed = filled(5);
    let consumer = Consumer::with_room(1);
    streamed.open(&consumer, None);
    streamed.turns();
    streamed.next_life();
    assert_eq!(consumer.content().end, None, "it has no room");
    assert!(streamed.turn(), "it is to be offered again");
    streamed.next_life();
    assert!(streamed.turn(), "two lives later, too");
    consumer.set_room(5);
    assert!(!streamed.turn());
    // Once: whatever came behind it would be refused.
    assert_eq!(consumer.content().end, Some(StreamEndReason::Disconnected));
    streamed.assert_at_base();
}

/// Three streams of one consumer whose backfills fill its buffer: one takes what it gets, now and then.
#[test]
fn those_that_take_nothing_of_a_full_buffer_are_given_up_together() {
    let (keys, limits) = (
        0..600,
        BackfillLimits {
            step_bytes: 1 << 10,
            buffer_bytes_max: 24 << 10,
            ..BackfillLimits::default()
        },
    );
    let mut streamed = Streamed::within(7, limits);
    streamed.write(keys.clone(), 600);
    let consumers: [Consumer; 3] = std::array::from_fn(|_| Consumer::with_room(usize::MAX));
    let mut windows = Vec::new();
    for (number, consumer) in (0..).zip(&consumers) {
        windows.push(streamed.open_numbered(number, consumer, Some(1)).1);
    }
    streamed.turns();
    let figures = streamed.backfills.figures();
    assert!(
        figures.buffered_bytes > limits.buffer_bytes_max / 4 * 3,
        "{figures:?}"
    );
    assert!(figures.backfills > 0, "they rest: {figures:?}");
    let half_a_minute = Duration::from_secs(30);
    let due = streamed.now() + limits.idle_max;
    // As long as the second takes something the buffer may not be full.
    let mut stands_since = streamed.now();
    while consumers[0].content().end.is_none() {
        let latest = stands_since + limits.idle_max + 2 * half_a_minute;
        assert!(streamed.now() < latest, "it stands still");
        assert!(consumers.iter().all(|one| one.content().end.is_none()));
        streamed.cores.plant.ground.clock.advance(half_a_minute);
        let before = consumers[1].content().last;
        for _ in 0..40 {
            streamed.acknowledge(&consumers[1], &windows[1]);
            streamed.turn();
        }
        if consumers[1].content().last > before {
            stands_since = streamed.now();
        }
    }
    assert!(streamed.now() >= due);
    let ends: Vec<_> = consumers.iter().map(|one| one.content().end).collect();
    assert_eq!(
        ends,
        [
            Some(StreamEndReason::Slow),
            None,
            Some(StreamEndReason::Slow)
        ]
    );
    // With that there is room again.
    streamed.drain(&consumers[1], &windows[1]);
    streamed.assert_has_all(&consumers[1], keys);
    consumers[1].leave();
    streamed.assert_at_base();
}

#[test]
fn whatever_ends_a_stream_in_the_middle_leaves_nothing() {
    for turns in 0..12 {
        for how in 0..3 {
            let mut streamed = filled(6);
            let consumer = Consumer::with_room(usize::MAX);
            let (stream, _) = streamed.open(&consumer, Some(200));
            for _ in 0..turns {
                streamed.turn();
            }
            let vbucket = streamed.core().id();
            let end = match how {
                0 => {
                    streamed.producer.close(vbucket, stream).unwrap();
                    Some(StreamEndReason::Closed)
                }
                1 => {
                    streamed.next_life();
                    Some(StreamEndReason::Disconnected)
                }
                _ => {
                    consumer.leave();
                    None
                }
            };
            streamed.turn();
            assert_eq!(consumer.content().end, end, "{turns} turns, {how}");
            streamed.assert_at_base();
        }
    }
}
