//! Any order of requests, ends, crashes and cancels: every waiter is answered once, and never do more run than may.

use super::*;

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
