//! The machine by itself: merging, limits, retries, cancels, the end, and in any order that no waiter is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use storage::StorageError;

const NOW: Duration = Duration::from_secs(10);

fn id(number: u16) -> VbucketId {
    VbucketId::new(number).unwrap()
}

fn machine(running_max: usize) -> CompactorState {
    CompactorState::new(CompactorLimits {
        running_max,
        waiters_max: 100,
        backoff: Backoff::DISK,
    })
}

fn purge(drop_deletes: bool, purge_before_s: u32) -> Purge {
    Purge {
        drop_deletes,
        purge_before_s,
    }
}

fn taken(state: &mut CompactorState, now: Duration) -> Assignment {
    match state.take(now) {
        Taken::Run(assignment) => assignment,
        other @ (Taken::Later(_) | Taken::Nothing) => panic!("{other:?}"),
    }
}

type Answer = (u64, Result<Compacted, CompactError>);

fn answers(state: &mut CompactorState) -> Vec<Answer> {
    let effects = state.take_effects().into_iter();
    let answers = effects.filter_map(|effect| match effect {
        Effect::Answer(waiter, answer) => Some((waiter.0, answer)),
        Effect::WakeWorkers => None,
    });
    answers.collect()
}

fn complete() -> RunEnd {
    RunEnd::Complete(Compacted::default())
}

fn broken() -> RunEnd {
    RunEnd::Failed {
        stage: CompactionStage::Merge,
        cause: StorageError::Closed.into(),
        published: None,
    }
}

fn ok(waiter: u64) -> Answer {
    (waiter, Ok(Compacted::default()))
}

fn aborted(waiter: u64, reason: AbortReason) -> Answer {
    (waiter, Err(CompactError::Aborted(reason)))
}

#[test]
fn requests_that_wait_are_one_run_and_every_waiter_is_answered() {
    let mut state = machine(1);
    state.request(WaiterId(1), id(7), purge(false, 50));
    state.request(WaiterId(2), id(7), purge(true, 20));
    state.want(id(7), purge(false, 30));
    let run = taken(&mut state, NOW);
    // Nothing was read yet.
    state.request(WaiterId(3), id(7), purge(false, 40));
    assert_eq!(state.begun(run), Some(purge(true, 50).into()));
    assert_eq!(state.take(NOW), Taken::Nothing);
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), [ok(1), ok(2), ok(3)]);
    assert_eq!(state.take(NOW), Taken::Nothing);
    assert!(state.statuses().is_empty());
}

#[test]
fn only_the_newest_are_merged_when_nobody_wants_more() {
    let mut state = machine(4);
    state.want(id(7), Work::MergeNewest);
    state.want(id(7), Work::MergeNewest);
    let run = taken(&mut state, NOW);
    assert_eq!(state.begun(run), Some(Work::MergeNewest));
    // It has begun: whoever asks now wants another.
    state.request(WaiterId(1), id(7), Purge::default());
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), []);
    let run = taken(&mut state, NOW);
    assert_eq!(state.begun(run), Some(Purge::default().into()));
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), [ok(1)]);
    // In whatever order they come.
    for newest_comes_first in [true, false] {
        let wants = |state: &mut CompactorState| state.want(id(7), Work::MergeNewest);
        if newest_comes_first {
            wants(&mut state);
        }
        state.want(id(7), purge(false, 30));
        if !newest_comes_first {
            wants(&mut state);
        }
        let run = taken(&mut state, NOW);
        assert_eq!(state.begun(run), Some(purge(false, 30).into()));
        state.settle(run, complete(), NOW);
    }
    // One that failed is tried again as the engine wanted it.
    state.want(id(7), Work::MergeNewest);
    state.request(WaiterId(2), id(7), purge(true, 9));
    let run = taken(&mut state, NOW);
    assert_eq!(state.begun(run), Some(purge(true, 9).into()));
    let at = state.note_failure(run, NOW, 0).expect("a retry");
    state.settle(run, broken(), NOW);
    let run = taken(&mut state, at);
    assert_eq!(state.begun(run), Some(Work::MergeNewest));
}

#[test]
fn a_request_while_one_runs_gets_one_more_run() {
    let mut state = machine(4);
    state.request(WaiterId(1), id(7), purge(false, 0));
    let run = taken(&mut state, NOW);
    assert!(state.begun(run).is_some());
    for waiter in 2..5 {
        state.request(WaiterId(waiter), id(7), purge(waiter == 3, 0));
    }
    // The engine looks again when that is over.
    state.want(id(7), purge(false, 0));
    assert_eq!(
        state.take(NOW),
        Taken::Nothing,
        "one run of a vbucket at a time"
    );
    assert_eq!(state.figures().pending, 2);
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), [ok(1)]);
    let run = taken(&mut state, NOW);
    assert_eq!(state.begun(run), Some(purge(true, 0).into()));
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), [ok(2), ok(3), ok(4)]);
    assert_eq!(state.take(NOW), Taken::Nothing);
}

#[test]
fn mb_50941_all_complete_and_never_more_run_than_the_limit() {
    for limit in 1..5usize {
        let mut state = machine(limit);
        for number in 0..20 {
            state.request(WaiterId(u64::from(number)), id(number), Purge::default());
        }
        let (mut running, mut answered) = (Vec::new(), BTreeSet::new());
        while answered.len() < 20 {
            while let Taken::Run(run) = state.take(NOW) {
                running.push(run);
                assert!(running.len() <= limit);
            }
            assert_eq!(running.len(), limit.min(20 - answered.len()), "none sleeps");
            let run = running.remove(running.len() / 2);
            state.settle(run, complete(), NOW);
            answered.extend(answers(&mut state).into_iter().map(|(waiter, _)| waiter));
        }
        assert_eq!(answered.len(), 20);
    }
}

#[test]
fn the_limit_can_change_while_compactions_run() {
    let mut state = machine(3);
    for number in 0..6 {
        state.want(id(number), Purge::default());
    }
    let runs: Vec<_> = (0..3).map(|_| taken(&mut state, NOW)).collect();
    assert_eq!(state.set_limit(0), 1);
    state.settle(runs[0], complete(), NOW);
    state.settle(runs[1], complete(), NOW);
    assert_eq!(state.take(NOW), Taken::Nothing);
    state.settle(runs[2], complete(), NOW);
    taken(&mut state, NOW);
    assert_eq!(state.take(NOW), Taken::Nothing);
    state.set_limit(2);
    taken(&mut state, NOW);
}

#[test]
fn what_somebody_waits_for_comes_first_in_order() {
    let mut state = machine(9);
    state.want(id(1), Purge::default());
    state.request(WaiterId(1), id(5), Purge::default());
    state.request(WaiterId(2), id(3), Purge::default());
    let order: Vec<u16> = (0..3)
        .map(|_| taken(&mut state, NOW).vbucket.get())
        .collect();
    assert_eq!(order, [5, 3, 1]);
}

#[test]
fn the_engine_tries_again_later_each_time_and_whoever_asked_is_told() {
    let mut state = machine(1);
    state.want(id(2), Purge::default());
    state.request(WaiterId(1), id(2), Purge::default());
    let mut now = NOW;
    let mut waits = Vec::new();
    for _ in 0..12 {
        let run = taken(&mut state, now);
        let at = state.note_failure(run, now, 0).expect("a retry");
        state.settle(run, broken(), now);
        assert_eq!(state.take(now), Taken::Later(at));
        waits.push(at.saturating_sub(now));
        now = at;
    }
    assert_eq!(
        answers(&mut state).len(),
        1,
        "told once, at the first failure"
    );
    assert!(
        waits.is_sorted() && waits[11] >= Duration::from_secs(5),
        "{waits:?}"
    );
    // An operator need not wait for that, and what he asked for is not repeated.
    state.request(WaiterId(2), id(2), Purge::default());
    let run = taken(&mut state, now);
    state.settle(run, complete(), now);
    assert_eq!(answers(&mut state), [ok(2)]);
    assert_eq!(state.take(now), Taken::Nothing, "it is well again");
    state.request(WaiterId(3), id(2), Purge::default());
    let run = taken(&mut state, now);
    assert_eq!(state.note_failure(run, now, 0), None);
    state.settle(run, broken(), now);
    let [(3, Err(CompactError::Failed { .. }))] = answers(&mut state)[..] else {
        panic!("not told");
    };
    assert_eq!(state.take(now), Taken::Nothing);
    assert_eq!(state.figures().failed, 13);
    assert_eq!(state.figures().aborted, 0);
}

#[test]
fn what_a_user_let_go_is_not_let_go_by_the_engine_that_tries_again() {
    let mut state = machine(1);
    state.request(WaiterId(1), id(2), purge(true, 90));
    state.want(id(2), purge(false, 30));
    let run = taken(&mut state, NOW);
    assert_eq!(state.begun(run), Some(purge(true, 90).into()));
    let at = state.note_failure(run, NOW, 0).expect("a retry");
    state.settle(run, broken(), NOW);
    let run = taken(&mut state, at);
    assert_eq!(state.begun(run), Some(purge(false, 30).into()));
}

#[test]
fn aborted_is_not_failed_and_is_not_repeated() {
    let mut state = machine(1);
    state.want(id(2), Purge::default());
    state.request(WaiterId(1), id(2), Purge::default());
    let run = taken(&mut state, NOW);
    state.settle(run, RunEnd::Aborted(AbortReason::RolledBack), NOW);
    assert_eq!(answers(&mut state), [aborted(1, AbortReason::RolledBack)]);
    assert_eq!(state.take(NOW), Taken::Nothing);
    let figures = state.figures();
    assert_eq!((figures.aborted, figures.failed), (1, 0));
}

#[test]
fn a_run_that_finds_another_at_work_waits_for_it() {
    let mut state = machine(1);
    state.request(WaiterId(1), id(2), Purge::default());
    let run = taken(&mut state, NOW);
    state.settle(run, RunEnd::Aborted(AbortReason::Superseded), NOW);
    assert!(answers(&mut state).is_empty());
    let at = NOW + BUSY_REST;
    assert_eq!(state.take(NOW), Taken::Later(at));
    let run = taken(&mut state, at);
    state.settle(run, complete(), at);
    assert_eq!(answers(&mut state), [ok(1)]);
    assert_eq!(state.figures().aborted, 0);
}

#[test]
fn a_cancel_answers_who_waits_at_once_and_who_runs_at_its_next_step() {
    let mut state = machine(1);
    for (waiter, vbucket) in [(1, 1), (2, 2), (3, 3)] {
        state.request(WaiterId(waiter), id(vbucket), Purge::default());
    }
    let run = taken(&mut state, NOW);
    assert_eq!(state.cancel(Some(id(2)), NOW), 1);
    assert_eq!(answers(&mut state), [aborted(2, AbortReason::Cancelled)]);
    assert_eq!(state.must_abort(run), None);
    assert_eq!(state.cancel(None, NOW), 2);
    assert_eq!(answers(&mut state), [aborted(3, AbortReason::Cancelled)]);
    assert_eq!(state.cancel(None, NOW), 0, "that is told already");
    // Whoever asks now does not join what is given up.
    state.request(WaiterId(4), id(1), Purge::default());
    assert_eq!(state.must_abort(run), Some(AbortReason::Cancelled));
    assert_eq!(state.begun(run), None);
    state.settle(run, RunEnd::Aborted(AbortReason::Cancelled), NOW);
    assert_eq!(answers(&mut state), [aborted(1, AbortReason::Cancelled)]);
    let run = taken(&mut state, NOW);
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), [ok(4)]);
    // The engine does not begin at once what somebody gave up.
    state.want(id(2), Purge::default());
    assert_eq!(state.take(NOW), Taken::Later(NOW + CANCEL_REST));
}

#[test]
fn mb_49512_a_stop_answers_who_waits_and_ends_what_runs() {
    let mut state = machine(1);
    state.request(WaiterId(1), id(1), Purge::default());
    state.request(WaiterId(2), id(2), Purge::default());
    state.want(id(3), Purge::default());
    let run = taken(&mut state, NOW);
    state.stop();
    assert_eq!(answers(&mut state), [aborted(2, AbortReason::ShuttingDown)]);
    assert_eq!(state.must_abort(run), Some(AbortReason::ShuttingDown));
    assert_eq!(state.take(NOW), Taken::Nothing);
    state.request(WaiterId(3), id(1), Purge::default());
    assert_eq!(answers(&mut state), [(3, Err(CompactError::Closed))]);
    // Its worker was dropped in order.
    state.settle(run, RunEnd::Interrupted, NOW);
    assert_eq!(answers(&mut state), [aborted(1, AbortReason::ShuttingDown)]);
    assert_eq!(state.figures().failed, 0);
    assert_eq!(state.figures().aborted, 1);
    state.close();
    assert!(answers(&mut state).is_empty());
}

#[test]
fn a_close_answers_whom_a_lost_worker_left() {
    let mut state = machine(1);
    state.request(WaiterId(1), id(1), Purge::default());
    let run = taken(&mut state, NOW);
    state.close();
    assert_eq!(answers(&mut state), [(1, Err(CompactError::Closed))]);
    state.settle(run, complete(), NOW);
    assert!(answers(&mut state).is_empty());
}

#[test]
fn a_worker_made_anew_begins_again_and_one_that_crashed_says_so() {
    let mut state = machine(1);
    state.request(WaiterId(1), id(1), Purge::default());
    let run = taken(&mut state, NOW);
    assert!(state.begun(run).is_some());
    state.request(WaiterId(2), id(1), purge(true, 3));
    state.settle(run, RunEnd::Interrupted, NOW);
    assert!(answers(&mut state).is_empty());
    let run = taken(&mut state, NOW);
    assert_eq!(state.begun(run), Some(purge(true, 3).into()));
    let child = ChildName::new("compaction-0");
    state.settle(run, RunEnd::Crashed(child.clone()), NOW);
    let told = || {
        Err(CompactError::Crashed {
            child: child.clone(),
        })
    };
    assert_eq!(answers(&mut state), [(1, told()), (2, told())]);
}

#[test]
fn a_vbucket_whose_compaction_always_panics_is_left_alone_until_asked_for() {
    let mut state = machine(1);
    let crashed = || RunEnd::Crashed(ChildName::new("it"));
    let mut now = NOW;
    for crash in 1..=3 {
        state.want(id(2), Purge::default());
        let run = taken(&mut state, now);
        let is_last = state.note_crash(run, now, 0);
        assert_eq!(is_last, crash == 3, "told once");
        state.settle(run, crashed(), now);
        assert_eq!(state.take(now), Taken::Nothing);
        state.want(id(2), Purge::default());
        let next = state.take(now);
        if let Taken::Later(at) = next {
            now = at;
        }
        let is_put_off = matches!(next, Taken::Later(_));
        assert_eq!(is_put_off, crash < 3, "{next:?}");
        assert!(!matches!(next, Taken::Run(_)), "{next:?}");
    }
    assert_eq!(state.figures().failed, 3);
    state.request(WaiterId(1), id(2), Purge::default());
    let run = taken(&mut state, now);
    assert!(!state.note_crash(run, now, 0));
    state.settle(run, crashed(), now);
    state.want(id(2), Purge::default());
    assert_eq!(state.take(now), Taken::Nothing);
    state.request(WaiterId(2), id(2), Purge::default());
    let run = taken(&mut state, now);
    state.settle(run, complete(), now);
    state.want(id(2), Purge::default());
    taken(&mut state, now);
}

#[test]
fn out_of_service_answers_who_waits_and_who_asks_until_it_is_back() {
    let mut state = machine(1);
    state.request(WaiterId(1), id(1), Purge::default());
    state.request(WaiterId(2), id(2), Purge::default());
    let run = taken(&mut state, NOW);
    assert!(state.begun(run).is_some());
    state.request(WaiterId(3), id(1), Purge::default());
    let down = CompactError::Down {
        child: ChildName::new("bucket"),
        cause: "too much".into(),
    };
    state.take_down(&down);
    let told = |waiter| (waiter, Err(down.clone()));
    assert_eq!(answers(&mut state), [told(1), told(3), told(2)]);
    state.settle(run, RunEnd::Interrupted, NOW);
    state.request(WaiterId(4), id(1), Purge::default());
    assert_eq!(answers(&mut state), [told(4)]);
    state.bring_back();
    state.request(WaiterId(5), id(2), Purge::default());
    let run = taken(&mut state, NOW);
    state.settle(run, complete(), NOW);
    assert_eq!(answers(&mut state), [ok(5)]);
}

#[test]
fn more_waiters_than_allowed_are_refused() {
    let mut state = machine(1);
    for waiter in 0..100 {
        state.request(WaiterId(waiter), id(1), Purge::default());
    }
    assert!(answers(&mut state).is_empty());
    state.request(WaiterId(100), id(2), Purge::default());
    let full = CompactError::TemporaryFailure(Busy::Queue);
    assert_eq!(answers(&mut state), [(100, Err(full))]);
    assert_eq!(state.figures().pending, 1);
}

#[derive(Clone, Debug)]
enum Act {
    Request(u16),
    Want(u16),
    Take,
    Begin(usize),
    End(usize, u8),
    Cancel(Option<u16>),
    Limit(usize),
    Sleep(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0u16..6).prop_map(Act::Request),
        2 => (0u16..6).prop_map(Act::Want),
        4 => Just(Act::Take),
        2 => any::<usize>().prop_map(Act::Begin),
        4 => (any::<usize>(), any::<u8>()).prop_map(|(which, how)| Act::End(which, how)),
        1 => proptest::option::of(0u16..6).prop_map(Act::Cancel),
        1 => (0usize..4).prop_map(Act::Limit),
        2 => (0u64..20_000).prop_map(Act::Sleep),
    ]
}

fn end_of(how: u8) -> RunEnd {
    match how % 7 {
        0 | 1 => complete(),
        2 => broken(),
        3 => RunEnd::Aborted(AbortReason::Deleted),
        4 => RunEnd::Aborted(AbortReason::Superseded),
        5 => RunEnd::Interrupted,
        _ => RunEnd::Crashed(ChildName::new("it")),
    }
}

proptest! {
    /// Whatever happens, in whatever order: no waiter is answered twice, none is forgotten, no vbucket has two runs.
    #[test]
    fn every_waiter_is_answered_exactly_once(acts in proptest::collection::vec(act(), 0..120)) {
        let mut state = machine(2);
        let (mut now, mut asked, mut limit) = (NOW, 0u64, 2usize);
        let mut running: Vec<Assignment> = Vec::new();
        let mut answered: BTreeMap<u64, u32> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Request(vbucket) => {
                    state.request(WaiterId(asked), id(vbucket), Purge::default());
                    asked += 1;
                }
                Act::Want(vbucket) => state.want(id(vbucket), Purge::default()),
                Act::Take => {
                    if let Taken::Run(run) = state.take(now) {
                        prop_assert!(running.iter().all(|one| one.vbucket != run.vbucket));
                        running.push(run);
                        prop_assert!(running.len() <= limit);
                    }
                }
                Act::Begin(which) if !running.is_empty() => {
                    let _ = state.begun(running[which % running.len()]);
                }
                Act::End(which, how) if !running.is_empty() => {
                    let run = running.swap_remove(which % running.len());
                    let end = end_of(how);
                    if matches!(end, RunEnd::Failed { .. }) {
                        let _ = state.note_failure(run, now, 77);
                    }
                    state.settle(run, end, now);
                }
                Act::Begin(_) | Act::End(..) => {}
                Act::Cancel(only) => drop(state.cancel(only.map(id), now)),
                Act::Limit(wanted) => {
                    state.set_limit(wanted);
                    limit = wanted.max(1).max(running.len());
                }
                Act::Sleep(milliseconds) => now += Duration::from_millis(milliseconds),
            }
            for (waiter, _) in answers(&mut state) {
                *answered.entry(waiter).or_default() += 1;
            }
        }
        // Then all is well, and everything comes to its end.
        state.set_limit(2);
        for run in running {
            state.settle(run, complete(), now);
        }
        loop {
            match state.take(now) {
                Taken::Run(run) => state.settle(run, complete(), now),
                Taken::Later(at) => now = at,
                Taken::Nothing => break,
            }
        }
        for (waiter, _) in answers(&mut state) {
            *answered.entry(waiter).or_default() += 1;
        }
        prop_assert_eq!(answered.len() as u64, asked);
        prop_assert!(answered.values().all(|times| *times == 1));
        prop_assert_eq!(state.figures().pending, 0);
    }
}
