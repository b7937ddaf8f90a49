//! Workers that crash, again and again, or are out of service: whoever waits is told, and what is left is done by the next.

use super::*;

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
