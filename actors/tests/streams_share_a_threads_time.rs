//! However much the streams of a thread have to say, a look at them is a bounded slice of its time, and each of them has its
//! turn.
#![cfg(test)]

mod disk_side;

use bytes::Bytes;

use disk_side::readers::{Consumer, Streamed};
use disk_side::vbucket::key;
use messages::vbucket::{Set, WriteOptions};

const STREAMS: u16 = 6;
const VALUE: usize = 64 << 10;
const DOCUMENTS: u64 = 24;
/// A slice, and a piece of the one who used it up.
const SLICE: usize = (1 << 20) + (256 << 10) + 2 * VALUE;

fn bytes(consumer: &Consumer) -> usize {
    let content = consumer.content();
    content.documents.values().map(Bytes::len).sum()
}

#[test]
fn a_look_is_bounded_and_nobody_is_forgotten() {
    let mut streamed = Streamed::new(1);
    let core = streamed.core();
    for number in 0..DOCUMENTS {
        core.set(Set {
            key: key(number),
            value: Bytes::from(vec![b'v'; VALUE]),
            options: WriteOptions::default(),
        })
        .unwrap();
    }
    let consumers: Vec<Consumer> = (0..STREAMS)
        .map(|number| {
            let consumer = Consumer::with_room(usize::MAX);
            streamed.open_numbered(number, &consumer, None);
            consumer
        })
        .collect();
    let all = usize::try_from(DOCUMENTS).unwrap() * VALUE;
    let (mut before, mut looks) = (0, 0);
    let total = usize::from(STREAMS) * all;
    while before < total {
        let _full = streamed.producer.look();
        let got: Vec<usize> = consumers.iter().map(bytes).collect();
        let now: usize = got.iter().sum();
        assert!(now - before <= SLICE, "{} bytes in one look", now - before);
        looks += 1;
        // One uses up a slice, and those that had no turn come before those that had one.
        assert!(looks < STREAMS || got.iter().all(|got| *got > 0), "{got:?}");
        assert!(looks < 100, "{got:?}");
        before = now;
    }
    for consumer in &consumers {
        streamed.assert_has_all(consumer, 0..DOCUMENTS);
    }
    streamed.next_life();
    streamed.assert_at_base();
}
