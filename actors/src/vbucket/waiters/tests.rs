//! Everybody is answered once, in order, and nobody leaves anything behind.

use std::task::Waker;

use proptest::prelude::*;

use super::*;
use messages::DownCause;
use storage::VbucketId;

fn poll(persisted: &mut Persisted) -> Poll<Answer> {
    Pin::new(persisted).poll(&mut Context::from_waker(Waker::noop()))
}

fn wait(waiters: &Waiters, seqno: u64) -> Persisted {
    waiters.reserve().unwrap().wait_for(Seqno(seqno))
}

fn places(waiters: &Waiters) -> usize {
    waiters.inner.lock().places
}

#[test]
fn what_is_on_disk_is_answered_at_once() {
    let waiters = Waiters::new(Seqno(5));
    assert_eq!(poll(&mut wait(&waiters, 5)), Poll::Ready(Ok(())));
    assert_eq!((waiters.len(), places(&waiters)), (0, 0));
}

#[test]
fn a_dropped_wait_leaves_nothing_behind() {
    let waiters = Waiters::default();
    let (one, two) = (wait(&waiters, 1), wait(&waiters, 1));
    drop(one);
    assert_eq!((waiters.len(), places(&waiters)), (1, 1));
    let reserved = waiters.reserve().unwrap();
    drop((two, reserved));
    assert_eq!((waiters.len(), places(&waiters)), (0, 0));
}

#[test]
fn a_full_queue_refuses_the_place_not_the_answer() {
    let waiters = Waiters::default();
    let mut places: Vec<_> = (0..WAITERS_MAX)
        .map(|_| waiters.reserve().unwrap())
        .collect();
    let busy = OperationError::TemporaryFailure(Busy::Queue);
    assert_eq!(waiters.reserve().err(), Some(busy));
    let mut last = places.pop().unwrap().wait_for(Seqno(1));
    waiters.settle_up_to(Seqno(1)).tell();
    assert_eq!(poll(&mut last), Poll::Ready(Ok(())));
    drop(last);
    assert!(waiters.reserve().is_ok());
}

#[test]
fn the_end_answers_all_until_it_is_taken_back() {
    let waiters = Waiters::default();
    let error = OperationError::VbucketDown {
        vbucket: VbucketId::new(3).unwrap(),
        cause: DownCause::Escalated("test".into()),
    };
    let (mut waiting, late) = (wait(&waiters, 1), waiters.reserve().unwrap());
    waiters.end(&error);
    assert_eq!(poll(&mut waiting), Poll::Ready(Err(error.clone())));
    assert_eq!(
        poll(&mut late.wait_for(Seqno(1))),
        Poll::Ready(Err(error.clone()))
    );
    assert_eq!(waiters.reserve().err(), Some(error));
    waiters.resume();
    assert_eq!(poll(&mut wait(&waiters, 1)), Poll::Pending);
}

#[test]
fn what_was_rolled_back_is_refused_and_waits_anew() {
    let waiters = Waiters::new(Seqno(3));
    let (mut low, mut high) = (wait(&waiters, 4), wait(&waiters, 9));
    waiters.settle_up_to(Seqno(4)).tell();
    waiters
        .refuse_above(Seqno(2), OperationError::StaleStream)
        .tell();
    assert_eq!(poll(&mut low), Poll::Ready(Ok(())));
    assert_eq!(
        poll(&mut high),
        Poll::Ready(Err(OperationError::StaleStream))
    );
    assert_eq!(poll(&mut wait(&waiters, 3)), Poll::Pending);
}

proptest! {
    /// A wait is answered exactly when its seqno is reached.
    #[test]
    fn answers_are_those_of_a_model(steps in prop::collection::vec((0u8..3, 0u64..30), 0..200)) {
        let waiters = Waiters::default();
        let mut persisted = 0;
        let mut waiting: Vec<(u64, Persisted)> = Vec::new();
        for (what, number) in steps {
            match what {
                0 => waiting.push((number, wait(&waiters, number))),
                1 if !waiting.is_empty() => {
                    let place = usize::try_from(number).unwrap() % waiting.len();
                    drop(waiting.swap_remove(place));
                }
                1 => {}
                _ => {
                    persisted = persisted.max(number);
                    waiters.settle_up_to(Seqno(number)).tell();
                }
            }
            let is_due = |seqno: u64| seqno <= persisted;
            let due: Vec<_> = waiting.extract_if(.., |(seqno, _)| is_due(*seqno)).collect();
            for (_, mut due) in due {
                prop_assert_eq!(poll(&mut due), Poll::Ready(Ok(())));
            }
            for (_, pending) in &mut waiting {
                prop_assert_eq!(poll(pending), Poll::Pending);
            }
            prop_assert_eq!(waiters.len(), waiting.len());
            prop_assert_eq!(places(&waiters), waiting.len());
        }
    }
}
