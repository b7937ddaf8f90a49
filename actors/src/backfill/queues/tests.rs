//! Turns, limits and the latch of full buffers, step by step.

use super::*;

const LIMITS: BackfillLimits = BackfillLimits {
    of_consumer_max: 2,
    in_progress_max: 3,
    buffer_bytes_max: 100,
    step_bytes: 10,
    idle_max: Duration::from_secs(720),
    retry: Duration::from_secs(1),
};
const NOW: Duration = Duration::from_secs(5);

fn consumer(name: &str) -> Arc<str> {
    name.into()
}

/// The pipes are known by the numbers of their backfills.
fn queues(of: &[(&str, u32)]) -> Queues<u32, u32> {
    let mut queues = Queues::new(LIMITS);
    for (name, job) in of {
        assert!(queues.schedule(&consumer(name), |_| *job).is_ok());
    }
    queues
}

fn run(queues: &mut Queues<u32, u32>) -> Option<Entry<u32>> {
    match queues.next(NOW) {
        Next::Run(entry) => Some(entry),
        Next::GiveUp(_) | Next::WaitUntil(_) | Next::Wait | Next::End => None,
    }
}

fn buffered(queues: &mut Queues<u32, u32>, name: &str, job: u32, bytes: u64, now: Duration) {
    let of = (&consumer(name), BackfillId(u64::from(job)));
    queues.buffered(of, &job, bytes, now);
}

fn released(
    queues: &mut Queues<u32, u32>,
    name: &str,
    job: u32,
    bytes: u64,
    now: Duration,
) -> bool {
    queues.released((&consumer(name), BackfillId(u64::from(job))), bytes, now)
}

fn turns(queues: &mut Queues<u32, u32>, count: usize) -> Vec<u32> {
    let mut turns = Vec::new();
    for _ in 0..count {
        let entry = run(queues).expect("a turn");
        turns.push(entry.job);
        assert!(queues.put_back(entry, Turn::Again).is_ok());
    }
    turns
}

#[test]
fn consumers_and_their_backfills_take_turns() {
    let mut queues = queues(&[("a", 1), ("a", 2), ("b", 3)]);
    assert_eq!(turns(&mut queues, 6), [1, 3, 2, 3, 1, 3]);
}

#[test]
fn limits_let_others_wait_and_a_place_that_is_free_is_taken() {
    let mut queues = queues(&[("a", 1), ("a", 2), ("a", 3), ("b", 4), ("b", 5)]);
    let running: Vec<_> = std::iter::from_fn(|| run(&mut queues)).collect();
    let mut jobs: Vec<u32> = running.iter().map(|entry| entry.job).collect();
    jobs.sort_unstable();
    // Two of a, and one of b: three in all.
    assert_eq!(jobs, [1, 2, 4]);
    let first = &running[0];
    queues.done(&first.consumer, first.id);
    assert_eq!(run(&mut queues).map(|entry| entry.job), Some(5));
}

#[test]
fn a_full_buffer_holds_up_its_consumer_until_a_quarter_is_free() {
    let mut queues = queues(&[("a", 1), ("b", 2)]);
    turns(&mut queues, 2);
    buffered(&mut queues, "a", 1, 100, NOW);
    assert_eq!(turns(&mut queues, 3), [2, 2, 2]);
    assert!(!released(&mut queues, "a", 1, 25, NOW));
    assert_eq!(turns(&mut queues, 2), [2, 2]);
    assert!(released(&mut queues, "a", 1, 1, NOW));
    assert_eq!(turns(&mut queues, 2), [1, 2]);
}

#[test]
fn an_item_larger_than_the_buffer_passes() {
    let mut queues = queues(&[("a", 1)]);
    buffered(&mut queues, "a", 1, 1000, NOW);
    assert!(run(&mut queues).is_none());
    assert!(released(&mut queues, "a", 1, 1000, NOW));
    assert!(run(&mut queues).is_some());
}

/// The backfills that are given up.
fn given_up(queues: &mut Queues<u32, u32>, now: Duration) -> Option<Vec<u32>> {
    match queues.next(now) {
        Next::GiveUp(pipes) => Some(pipes),
        Next::Run(_) | Next::WaitUntil(_) | Next::Wait | Next::End => None,
    }
}

#[test]
fn all_that_stand_still_for_too_long_are_given_up_at_once() {
    let mut queues = queues(&[("a", 1), ("a", 2), ("a", 3)]);
    // The third one is over, and lies in its pipe.
    for id in 1..=3 {
        buffered(&mut queues, "a", id, 40, NOW);
    }
    assert!(queues.cancel(&consumer("a"), BackfillId(3)).is_some());
    let due = NOW + LIMITS.idle_max;
    assert!(matches!(queues.next(NOW), Next::WaitUntil(until) if until == due));
    assert_eq!(given_up(&mut queues, due), Some(vec![1, 2, 3]));
    assert_eq!(given_up(&mut queues, due), None, "they were told");
    for id in 1..=3 {
        queues.cancel(&consumer("a"), BackfillId(u64::from(id)));
        released(&mut queues, "a", id, 40, due);
    }
    assert_eq!(queues.figures(), (0, 0));
}

#[test]
fn one_of_which_something_is_taken_is_waited_for() {
    let mut queues = queues(&[("a", 1), ("a", 2), ("a", 3)]);
    turns(&mut queues, 3);
    buffered(&mut queues, "a", 1, 50, NOW);
    buffered(&mut queues, "a", 2, 60, NOW);
    let later = NOW + LIMITS.idle_max / 2;
    assert!(!released(&mut queues, "a", 1, 1, later));
    let due = NOW + LIMITS.idle_max;
    // Of the third one nothing was read that could be taken.
    assert_eq!(given_up(&mut queues, due), Some(vec![2]));
    let due = later + LIMITS.idle_max;
    assert!(matches!(queues.next(NOW), Next::WaitUntil(until) if until == due));
    assert_eq!(given_up(&mut queues, due), Some(vec![1]));
}

#[test]
fn a_buffer_that_is_not_full_may_lie_for_ever() {
    let mut queues = queues(&[("a", 1)]);
    buffered(&mut queues, "a", 1, 99, NOW);
    let late = NOW + 10 * LIMITS.idle_max;
    assert_eq!(given_up(&mut queues, late), None);
    // The time is counted from when it is full.
    buffered(&mut queues, "a", 1, 1, late);
    assert_eq!(given_up(&mut queues, late + LIMITS.idle_max / 2), None);
    assert_eq!(given_up(&mut queues, late + LIMITS.idle_max), Some(vec![1]));
}

#[test]
fn what_waits_is_run_in_time_or_when_hastened() {
    let mut queues = queues(&[("a", 1), ("a", 2)]);
    let later = NOW + LIMITS.retry;
    for _ in 0..2 {
        let entry = run(&mut queues).expect("a turn");
        assert!(queues.put_back(entry, Turn::Later(later)).is_ok());
    }
    assert!(matches!(queues.next(NOW), Next::WaitUntil(until) if until == later));
    assert!(queues.hasten(&consumer("a"), BackfillId(2)));
    let entry = run(&mut queues).expect("a turn");
    assert_eq!(entry.job, 2);
    // What happens while a reader has it is not lost.
    assert!(!queues.hasten(&consumer("a"), entry.id));
    assert!(queues.put_back(entry, Turn::Later(later)).is_ok());
    assert_eq!(run(&mut queues).map(|entry| entry.job), Some(2));
    let Next::Run(entry) = queues.next(later) else {
        panic!("it waits");
    };
    assert_eq!(entry.job, 1);
}

#[test]
fn what_is_cancelled_or_stopped_leaves_nothing() {
    let mut queues = queues(&[("a", 1), ("a", 2), ("a", 3), ("b", 4)]);
    let running = run(&mut queues).expect("a turn");
    assert!(queues.cancel(&consumer("a"), running.id).is_none());
    assert_eq!(
        queues
            .cancel(&consumer("a"), BackfillId(3))
            .map(|one| one.job),
        Some(3)
    );
    assert_eq!(queues.take_all(|job| *job == 4).len(), 1);
    let stopped = queues.stop();
    assert_eq!(stopped.len(), 1);
    assert!(matches!(queues.next(NOW), Next::End));
    assert!(queues.schedule(&consumer("a"), |_| 5).is_err());
    let running = queues
        .put_back(running, Turn::Again)
        .expect_err("it is over");
    queues.done(&running.consumer, running.id);
    assert_eq!(queues.figures(), (0, 0));
}
