//! Any tree, any events: what must hold of every decision.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::Strategy as Generate;

use actors::guardian::{Entry, ExitCause, Verdict};
use messages::{ChildName, FailureKind, Generation};

use super::{ChildState, Decision, Effect, Event, Lives};
use crate::tree::{Backoff, Child, Excess, Group, Intensity, Kind, Strategy, Tree};

const WINDOW: Duration = Duration::from_secs(10);

fn strategies() -> impl Generate<Value = Strategy> {
    prop_oneof![
        Just(Strategy::OneForOne),
        Just(Strategy::RestForOne),
        Just(Strategy::OneForAll)
    ]
}

prop_compose! {
    fn group(name: String, parents: Vec<String>)(
        strategy in strategies(),
        restarts in 0..4_u32,
        escalates in any::<bool>(),
        parent in proptest::sample::select(parents),
    ) -> Group {
        let excess = if escalates { Excess::Parent } else { Excess::OutOfService };
        let intensity = Intensity { restarts, window: WINDOW };
        Group::new(&name).under(&parent).strategy(strategy).intensity(intensity).excess(excess)
    }
}

/// Root, two groups under it, one in the first, six children anywhere.
fn trees() -> impl Generate<Value = Tree> {
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|one| (*one).to_owned())
            .collect::<Vec<_>>()
    };
    let groups = (
        group("one".into(), names(&["root"])),
        group("two".into(), names(&["root"])),
        group("inner".into(), names(&["one", "two"])),
    );
    let places = proptest::sample::select(vec!["root", "one", "two", "inner"]);
    let kinds = prop_oneof![
        4 => Just(Kind::Permanent),
        1 => Just(Kind::Transient),
        1 => Just(Kind::Temporary)
    ];
    let children = proptest::collection::vec((places, kinds), 6);
    (groups, children, strategies()).prop_map(|((one, two, inner), children, strategy)| {
        let intensity = Intensity {
            restarts: 6,
            window: WINDOW,
        };
        let root = Group::new("root").strategy(strategy).intensity(intensity);
        let mut tree = Tree::new(root).group(one).group(two).group(inner);
        for (number, (group, kind)) in children.into_iter().enumerate() {
            tree = tree.child(Child::new(&number.to_string()).under(group).kind(kind));
        }
        tree
    })
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Panic,
    Poison,
    Stall,
    Finish,
    Up,
    Restart,
    Lose,
}

fn steps() -> impl Generate<Value = Vec<(Step, usize, u64)>> {
    let step = prop_oneof![
        6 => Just(Step::Panic),
        1 => Just(Step::Poison),
        2 => Just(Step::Stall),
        1 => Just(Step::Finish),
        8 => Just(Step::Up),
        1 => Just(Step::Restart),
        1 => Just(Step::Lose),
    ];
    proptest::collection::vec((step, 0..6_usize, 0..3_000_u64), 1..60)
}

/// The tree under test, with the orders its children were given.
struct Model {
    lives: Lives,
    now: Duration,
    held: BTreeMap<ChildName, bool>,
    standing_down: BTreeMap<ChildName, bool>,
}

impl Model {
    fn new(tree: Tree) -> Model {
        let mut lives = Lives::new(tree).expect("a tree that holds together");
        for number in 0..6 {
            let name = ChildName::new(number.to_string());
            for event in [Event::Started, Event::Up(Generation(1))] {
                lives
                    .decide(&name, event, Duration::ZERO, 0)
                    .expect("a child");
            }
        }
        Model {
            lives,
            now: Duration::ZERO,
            held: BTreeMap::new(),
            standing_down: BTreeMap::new(),
        }
    }

    fn state(&self, child: &ChildName) -> ChildState {
        self.lives.state(child).expect("a child")
    }

    fn decide(&mut self, child: &ChildName, event: Event) -> Decision {
        let decision = self
            .lives
            .decide(child, event, self.now, 7)
            .expect("a child");
        for effect in &decision.effects {
            match effect {
                Effect::Hold(child) | Effect::HoldSelf(child) => {
                    self.held.insert(child.clone(), true);
                }
                Effect::Release(child) => {
                    assert_eq!(self.held.insert(child.clone(), false), Some(true));
                }
                Effect::StandDown(child, _) => {
                    self.held.insert(child.clone(), false);
                    self.standing_down.insert(child.clone(), true);
                }
                Effect::BringBack(child) => {
                    let was = self.standing_down.insert(child.clone(), false);
                    assert!(was.unwrap_or(false) || self.state(child) != ChildState::OutOfService);
                }
                Effect::Reset(_)
                | Effect::Stop(_)
                | Effect::Report(_)
                | Effect::OutOfService(_) => {}
            }
        }
        self.check_orders();
        decision
    }

    fn check_orders(&self) {
        for status in self.lives.statuses() {
            let is_held = self.held.get(&status.name).copied().unwrap_or(false);
            if status.state.is_live() {
                assert_eq!(is_held, status.state == ChildState::Held, "{status:?}");
            }
            let is_down = self.standing_down.get(&status.name).copied();
            if status.state == ChildState::OutOfService {
                assert_eq!(is_down, Some(true), "{status:?}");
            }
            if status.state.is_live() {
                assert!(!is_down.unwrap_or(false), "{status:?}");
            }
        }
    }

    fn step(&mut self, step: Step, child: &ChildName) {
        let state = self.state(child);
        let is_at_work = matches!(
            state,
            ChildState::Up | ChildState::BackingOff | ChildState::Restarting | ChildState::Stalled
        );
        let exit = match step {
            Step::Up if is_at_work => {
                self.decide(child, Event::Up(Generation(1)));
                return;
            }
            Step::Restart => {
                self.decide(child, Event::RestartAsked);
                return;
            }
            Step::Lose => {
                let decision = self.decide(child, Event::Lost);
                let reports = kinds(&decision);
                assert_eq!(reports.len(), usize::from(state != ChildState::Lost));
                return;
            }
            Step::Panic => ExitCause::Panicked("planted".to_owned()),
            Step::Poison => ExitCause::PanickedIn {
                entry: Entry::Message("M"),
                in_a_row: 3,
                text: "planted".to_owned(),
            },
            Step::Stall => ExitCause::Stalled(Duration::from_secs(5)),
            Step::Finish => ExitCause::Finished,
            Step::Up => return,
        };
        // One that is held may still be stuck in its last life.
        let may_stall = state == ChildState::Held && matches!(step, Step::Stall);
        if !is_at_work && !may_stall {
            return;
        }
        let decision = self.decide(child, Event::Down(Generation(1), exit.clone()));
        self.check_down(child, &exit, &decision);
    }

    fn check_down(&self, child: &ChildName, exit: &ExitCause, decision: &Decision) {
        let state = self.state(child);
        match decision.verdict.expect("a verdict") {
            Verdict::RestartAfter(delay) => {
                assert!(state.is_live(), "{state:?}");
                assert!(delay <= Backoff::default().most);
            }
            Verdict::StayDown => assert!(!state.is_live(), "{state:?}"),
        }
        let reports = kinds(decision);
        let own: Vec<_> = reports
            .iter()
            .filter(|kind| **kind != FailureKind::Escalated)
            .collect();
        let is_failure = *exit != ExitCause::Finished;
        assert_eq!(own.len(), usize::from(is_failure), "{reports:?}");
        assert!(reports.len() <= 4, "one a level: {reports:?}");
        let went_out = decision
            .effects
            .iter()
            .filter(|effect| matches!(effect, Effect::OutOfService(_)))
            .count();
        assert!(went_out <= 1);
        if went_out == 1 {
            assert!(reports.contains(&FailureKind::Escalated), "{reports:?}");
        }
    }
}

fn kinds(decision: &Decision) -> Vec<FailureKind> {
    let reports = decision.effects.iter().filter_map(|effect| match effect {
        Effect::Report(report) => Some(report.kind),
        Effect::Hold(_)
        | Effect::HoldSelf(_)
        | Effect::Reset(_)
        | Effect::Release(_)
        | Effect::StandDown(..)
        | Effect::BringBack(_)
        | Effect::Stop(_)
        | Effect::OutOfService(_) => None,
    });
    reports.collect()
}

fn child(number: usize) -> ChildName {
    ChildName::new(number.to_string())
}

#[test]
fn a_second_restart_waits_for_those_the_first_one_waits_for() {
    let mut tree = Tree::new(Group::new("root").strategy(Strategy::RestForOne));
    for number in 0..6 {
        tree = tree.child(Child::new(&number.to_string()));
    }
    let mut model = Model::new(tree);
    model.step(Step::Restart, &child(0));
    model.step(Step::Restart, &child(2));
    for number in 1..6 {
        assert_eq!(model.state(&child(number)), ChildState::Held, "{number}");
    }
    for number in 0..6 {
        model.step(Step::Up, &child(number));
        assert_eq!(model.state(&child(number)), ChildState::Up, "{number}");
    }
}

#[test]
fn a_child_that_took_no_tether_is_known_from_its_first_word() {
    let tree = Tree::new(Group::new("root")).child(Child::new("0"));
    let mut lives = Lives::new(tree).expect("a tree");
    let exit = ExitCause::Panicked("planted".to_owned());
    let event = Event::Down(Generation(1), exit);
    let decision = lives.decide(&child(0), event, Duration::ZERO, 0);
    let verdict = decision.expect("a child").verdict;
    assert!(
        matches!(verdict, Some(Verdict::RestartAfter(_))),
        "{verdict:?}"
    );
}

/// A tree whose only child is up and has a kind that may be done.
fn with_a_worker() -> Lives {
    let tree = Tree::new(Group::new("root")).child(Child::new("0").kind(Kind::Transient));
    let mut lives = Lives::new(tree).expect("a tree");
    decided(&mut lives, Event::Up(Generation(1)));
    lives
}

fn decided(lives: &mut Lives, event: Event) -> Decision {
    let decision = lives.decide(&child(0), event, Duration::ZERO, 0);
    decision.expect("a child")
}

#[test]
fn work_that_is_done_stays_done_and_needs_no_stop() {
    let mut lives = with_a_worker();
    let done = decided(&mut lives, Event::Down(Generation(1), ExitCause::Finished));
    assert_eq!(done.verdict, Some(Verdict::StayDown));
    assert_eq!(done.effects, []);
    assert_eq!(decided(&mut lives, Event::RestartAsked).effects, []);
    assert_eq!(lives.state(&child(0)), Some(ChildState::Finished));
    lives.begin_shutdown();
    // Its thread may be gone: nobody waits for a word of it.
    decided(&mut lives, Event::StopAsked);
    assert_eq!(lives.state(&child(0)), Some(ChildState::Stopped));
}

#[test]
fn whoever_ends_during_a_shutdown_is_told_to_stop_at_once() {
    let panicked = ExitCause::Panicked("planted".to_owned());
    for exit in [ExitCause::Finished, panicked] {
        let mut lives = with_a_worker();
        lives.begin_shutdown();
        let ended = decided(&mut lives, Event::Down(Generation(1), exit));
        assert_eq!(ended.verdict, Some(Verdict::StayDown));
        assert!(ended.effects.contains(&Effect::Stop(child(0))), "{ended:?}");
        decided(&mut lives, Event::Stopped);
        assert_eq!(lives.state(&child(0)), Some(ChildState::Stopped));
    }
    // One that only hangs goes on when it can, and has its turn.
    let mut lives = with_a_worker();
    lives.begin_shutdown();
    let stalled = ExitCause::Stalled(Duration::from_secs(5));
    let ended = decided(&mut lives, Event::Down(Generation(1), stalled));
    assert!(!ended.effects.contains(&Effect::Stop(child(0))));
    assert_eq!(lives.state(&child(0)), Some(ChildState::Up));
}

proptest! {
    #[test]
    fn every_decision_holds_together(tree in trees(), steps in steps()) {
        let mut model = Model::new(tree);
        for (step, child, after_ms) in steps {
            model.now += Duration::from_millis(after_ms);
            model.step(step, &ChildName::new(child.to_string()));
        }
        // Whoever waits, waits for somebody who comes up: nobody is held for ever.
        for _ in 0..12 {
            for number in 0..6 {
                model.step(Step::Up, &ChildName::new(number.to_string()));
            }
        }
        for status in model.lives.statuses() {
            prop_assert!(status.state == ChildState::Up || !status.state.is_live(), "{status:?}");
        }
    }

    #[test]
    fn no_group_restarts_more_often_than_it_may(
        strategy in strategies(),
        allowed in 0..5_u32,
        failures in proptest::collection::vec((0..3_usize, 0..4_000_u64), 1..40),
    ) {
        let intensity = Intensity { restarts: allowed, window: WINDOW };
        let mut tree = Tree::new(Group::new("root").strategy(strategy).intensity(intensity));
        for number in 0..3 {
            tree = tree.child(Child::new(&number.to_string()));
        }
        let mut lives = Lives::new(tree).expect("a tree");
        let names: Vec<_> = (0..3).map(|number| ChildName::new(number.to_string())).collect();
        for name in &names {
            lives.decide(name, Event::Started, Duration::ZERO, 0).expect("a child");
        }
        let mut now = Duration::ZERO;
        let mut granted: Vec<Duration> = Vec::new();
        for (child, after_ms) in failures {
            now += Duration::from_millis(after_ms);
            let exit = ExitCause::Panicked("planted".to_owned());
            let event = Event::Down(Generation(1), exit);
            let decision = lives.decide(&names[child], event, now, 3).expect("a child");
            if decision.verdict == Some(Verdict::StayDown) {
                let within = granted.iter().filter(|at| now.saturating_sub(**at) <= WINDOW).count();
                prop_assert_eq!(within, usize::try_from(allowed).expect("small"));
                for name in &names {
                    prop_assert_eq!(lives.state(name), Some(ChildState::OutOfService));
                }
                break;
            }
            granted.push(now);
            let within = granted.iter().filter(|at| now.saturating_sub(**at) <= WINDOW).count();
            prop_assert!(within <= usize::try_from(allowed).expect("small"));
            for name in &names {
                lives.decide(name, Event::Up(Generation(1)), now, 0).expect("a child");
            }
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_most(failures in 1..50_u32, jitter in any::<u64>()) {
        let backoff = Backoff { first: Duration::from_millis(20), most: Duration::from_secs(5) };
        let full = backoff.first.saturating_mul(1 << (failures - 1).min(20)).min(backoff.most);
        let delay = backoff.delay(failures, jitter);
        prop_assert!(full / 2 <= delay && delay <= full, "{delay:?} of {full:?}");
    }
}
