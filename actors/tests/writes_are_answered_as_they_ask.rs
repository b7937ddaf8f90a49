//! In memory, or on disk: a write is answered when it asked to be, and dropping the answer takes nothing back.

#![cfg(test)]

mod support;

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use messages::vbucket::{Acknowledge, Mutated, Write, WriteBatch};
use messages::{Busy, OperationError};
use piggin_actors::vbucket::{Acknowledged, WAITERS_MAX};
use storage::Seqno;

use support::{active, delete, set, value};

fn persisted(name: &str) -> Write {
    let mut set = set(name, "value");
    set.options.acknowledge = Acknowledge::Persisted;
    Write::Set(set)
}

fn poll(answer: &mut Acknowledged) -> Poll<Result<Mutated, OperationError>> {
    Pin::new(answer).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_persisted_write_is_answered_once_it_is_on_disk() {
    let bench = active();
    let core = &bench.core;
    let mut answer = core.write_acknowledged(persisted("a"));
    assert_eq!(value(core, "a").unwrap(), "value", "in memory at once");
    assert_eq!(poll(&mut answer), Poll::Pending);
    let high = core
        .take_for_flush(9, usize::MAX)
        .unwrap()
        .watermarks
        .high_seqno;
    core.note_persisted(high);
    let Poll::Ready(Ok(mutated)) = poll(&mut answer) else {
        panic!("it is on disk");
    };
    assert_eq!(mutated.token.seqno, Seqno(1));
}

#[test]
fn a_write_in_memory_is_answered_at_once() {
    let bench = active();
    let write = Write::Set(set("a", "1"));
    let answer = bench.core.write_acknowledged(write).now().unwrap();
    assert_eq!(answer.unwrap().token.seqno, Seqno(1));
    let refused = bench.core.write_acknowledged(Write::Delete(delete("b")));
    assert_eq!(refused.now().unwrap(), Err(OperationError::KeyNotFound));
}

#[test]
fn an_answer_that_is_dropped_takes_nothing_back() {
    let bench = active();
    let answer = bench.core.write_acknowledged(persisted("a"));
    drop(answer);
    assert_eq!(bench.core.waiting(), 0);
    assert_eq!(value(&bench.core, "a").unwrap(), "value");
}

#[test]
fn a_batch_is_answered_each_as_it_asks_and_refused_where_nobody_may_wait() {
    let bench = active();
    let core = &bench.core;
    let places: Vec<_> = (1..WAITERS_MAX)
        .map(|_| core.reserve_wait().unwrap())
        .collect();
    let writes = vec![
        Write::Set(set("a", "1")),
        persisted("b"),
        persisted("c"),
        Write::Set(set("d", "1")),
    ];
    let mut answers = core.write_batch_acknowledged(WriteBatch { writes });
    assert_eq!(answers.len(), 4);
    assert!(matches!(poll(&mut answers[0]), Poll::Ready(Ok(_))));
    assert_eq!(poll(&mut answers[1]), Poll::Pending);
    let full = Err(OperationError::TemporaryFailure(Busy::Queue));
    assert_eq!(poll(&mut answers[2]), Poll::Ready(full));
    assert!(matches!(poll(&mut answers[3]), Poll::Ready(Ok(_))));
    assert_eq!(
        value(core, "c"),
        Err(OperationError::KeyNotFound),
        "nothing was applied"
    );
    assert_eq!(core.high_seqno(), Seqno(3));
    drop(places);
}
