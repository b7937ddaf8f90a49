//! Decides what becomes of children: a pure state machine over the [`Tree`]. Event and time in, effects out.
//!
//! A child lives so: not started -> starting -> up -> (failed) backing off -> restarting -> up. A coupled sibling is
//! *held* until all that start before it, and restart with it, are up. Too many restarts in a group's window: the
//! group fails its parent, or goes out of service ([`Excess`](crate::tree::Excess)). Invariant: it reads no clock,
//! draws no number, and does nothing; every failure that is told yields one report for the child, and one more for
//! each group that has had too much.

mod words;
mod causes;
mod reports;
mod together;
mod climbing;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use actors::guardian::{ExitCause, Verdict};
use messages::{ChildName, FailureCause, FailureKind, Generation, NextStep};

use crate::tree::{Child, Kind, Tree, TreeError};

use causes::{failure_of, poison_of};
use climbing::Climb;

pub use words::{ChildState, ChildStatus, Decision, Effect, Event, OutOfService};

#[derive(Debug)]
struct Life {
    state: ChildState,
    generation: Generation,
    restarts: u64,
    last_failure: Option<FailureCause>,
    failures: VecDeque<Duration>,
    /// Which coupled restart it is part of.
    together: u64,
}

/// The tree, and how each child of it stands.
#[derive(Debug)]
pub struct Lives {
    tree: Tree,
    each: Vec<Life>,
    group_restarts: BTreeMap<ChildName, VecDeque<Duration>>,
    last_together: u64,
    is_shutting_down: bool,
}

/// Whose fault a restart is, by place in the start order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Nobody's: it was asked for.
    Nobody,
    /// This one's, whose life has ended.
    Ended(usize),
    /// This one's, which cannot hear of it yet; whoever builds on it waits.
    Stuck(usize),
}

impl Lives {
    /// A tree nobody has started yet.
    pub fn new(tree: Tree) -> Result<Lives, TreeError> {
        tree.check()?;
        let mut lives = Lives {
            tree: Tree::new(tree.root().clone()),
            each: Vec::new(),
            group_restarts: BTreeMap::new(),
            last_together: 0,
            is_shutting_down: false,
        };
        lives.grow(tree);
        Ok(lives)
    }

    fn grow(&mut self, tree: Tree) {
        self.tree = tree;
        let not_started = || Life {
            state: ChildState::NotStarted,
            generation: Generation::default(),
            restarts: 0,
            last_failure: None,
            failures: VecDeque::new(),
            together: 0,
        };
        self.each
            .resize_with(self.tree.children().len(), not_started);
    }

    /// Adds a child that starts after all others.
    pub fn add(&mut self, child: Child) -> Result<(), TreeError> {
        if self.is_shutting_down {
            return Err(TreeError::ShuttingDown);
        }
        let tree = self.tree.clone().child(child);
        tree.check()?;
        self.grow(tree);
        Ok(())
    }

    /// The tree.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// From now on nobody is restarted.
    pub fn begin_shutdown(&mut self) {
        self.is_shutting_down = true;
    }

    /// Whether nobody is restarted any more.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.is_shutting_down
    }

    /// How a child stands.
    #[must_use]
    pub fn state(&self, child: &ChildName) -> Option<ChildState> {
        Some(self.each.get(self.place(child)?)?.state)
    }

    /// How everybody stands, in start order.
    #[must_use]
    pub fn statuses(&self) -> Vec<ChildStatus> {
        let children = self.tree.children().iter().zip(&self.each);
        let status = |(child, life): (&Child, &Life)| ChildStatus {
            name: child.name.clone(),
            state: life.state,
            generation: life.generation,
            restarts: life.restarts,
            last_failure: life.last_failure.clone(),
        };
        children.map(status).collect()
    }

    /// Decides. `jitter` is any number; it spreads the time a child waits.
    pub fn decide(
        &mut self,
        child: &ChildName,
        event: Event,
        now: Duration,
        jitter: u64,
    ) -> Result<Decision, TreeError> {
        let no_such = || TreeError::NoSuchChild(child.clone());
        let place = self.place(child).ok_or_else(no_such)?;
        let mut decision = Decision::default();
        match event {
            Event::Started => self.started(place),
            Event::Up(generation) => self.up(place, generation),
            Event::Stopped => self.set(place, ChildState::Stopped),
            Event::StopAsked => self.stop_asked(place, &mut decision),
            Event::Lost => self.lost(place, &mut decision),
            Event::RestartAsked => self.restart_asked(place, &mut decision)?,
            Event::Down(generation, cause) => {
                let verdict = self.down(place, generation, cause, now, jitter, &mut decision);
                decision.verdict = Some(verdict);
            }
        }
        self.release(&mut decision);
        Ok(decision)
    }

    fn started(&mut self, place: usize) {
        if let Some(life) = self.each.get_mut(place)
            && life.state == ChildState::NotStarted
        {
            life.state = ChildState::Starting;
        }
    }

    fn up(&mut self, place: usize, generation: Generation) {
        // A child that never took its tether is known from its first word on.
        self.started(place);
        if let Some(life) = self.each.get_mut(place) {
            life.generation = generation;
            if life.state.is_live() {
                life.state = ChildState::Up;
            }
        }
    }

    fn stop_asked(&mut self, place: usize, decision: &mut Decision) {
        let Some((child, life)) = self.at(place) else {
            return;
        };
        match life.state {
            ChildState::Stopped | ChildState::Lost => {}
            // Of what has not begun, or is done, there is nothing to wait for.
            ChildState::NotStarted | ChildState::Finished => {
                decision.effects.push(Effect::Stop(child.name.clone()));
                self.set(place, ChildState::Stopped);
            }
            ChildState::Starting
            | ChildState::Up
            | ChildState::BackingOff
            | ChildState::Held
            | ChildState::Restarting
            | ChildState::Stalled
            | ChildState::OutOfService
            | ChildState::Stopping => {
                decision.effects.push(Effect::Stop(child.name.clone()));
                self.set(place, ChildState::Stopping);
            }
        }
    }

    fn lost(&mut self, place: usize, decision: &mut Decision) {
        let Some((_, life)) = self.at(place) else {
            return;
        };
        let was = life.state;
        if was.has_ended() {
            return;
        }
        self.set(place, ChildState::Lost);
        if self.is_shutting_down {
            return;
        }
        let cause = FailureCause::Lost;
        self.report(
            place,
            FailureKind::Escalated,
            cause.clone(),
            NextStep::OutOfService,
            decision,
        );
        self.give_up_around(place, &cause.to_string(), decision);
    }

    fn restart_asked(&mut self, place: usize, decision: &mut Decision) -> Result<(), TreeError> {
        if self.is_shutting_down {
            return Err(TreeError::ShuttingDown);
        }
        let Some((child, life)) = self.at(place) else {
            return Ok(());
        };
        // Work that is done is not done again.
        if !(life.state.is_live() || life.state == ChildState::OutOfService) {
            return Ok(());
        }
        let groups: Vec<ChildName> = self.names_of_groups(child);
        self.group_restarts.retain(|name, _| !groups.contains(name));
        let mut places = self.coupled(place);
        places.push(place);
        places.sort_unstable();
        for &one in &places {
            if let Some((child, life)) = self.at(one)
                && life.state == ChildState::OutOfService
            {
                decision.effects.push(Effect::BringBack(child.name.clone()));
                self.set(one, ChildState::BackingOff);
            }
        }
        self.restart_together(&places, Role::Nobody, decision);
        Ok(())
    }

    fn down(
        &mut self,
        place: usize,
        generation: Generation,
        exit: ExitCause,
        now: Duration,
        jitter: u64,
        decision: &mut Decision,
    ) -> Verdict {
        self.started(place);
        let Some((child, _)) = self.at(place) else {
            return Verdict::StayDown;
        };
        let child = child.clone();
        if let Some(life) = self.each.get_mut(place) {
            life.generation = life.generation.max(generation);
        }
        let is_stall = matches!(exit, ExitCause::Stalled(_));
        let poison = poison_of(&exit, &child);
        let failure = failure_of(exit);
        let is_live = self.each.get(place).is_some_and(|l| l.state.is_live());
        if self.is_shutting_down || !is_live {
            if let Some((kind, cause)) = failure {
                self.report(place, kind, cause, NextStep::Nothing, decision);
            }
            if is_live && !is_stall {
                // It gets no other life, so it stops now: later there may be nobody left to tell.
                decision.effects.push(Effect::Stop(child.name));
                self.set(place, ChildState::Stopping);
            }
            return Verdict::StayDown;
        }
        let Some((kind, cause)) = failure else {
            return self.finished(place, &child, now, jitter, decision);
        };
        if child.kind == Kind::Temporary {
            self.report(place, kind, cause.clone(), NextStep::OutOfService, decision);
            self.stand_down(&[place], &cause.to_string(), decision);
            return Verdict::StayDown;
        }
        if let Some(poison) = poison {
            self.report(place, kind, cause, NextStep::OutOfService, decision);
            self.escalate(place, poison.clone(), NextStep::OutOfService, decision);
            self.give_up_around(place, &poison.to_string(), decision);
            return Verdict::StayDown;
        }
        // The report of the child comes before those of the groups, and says what came of all.
        let mut escalations = Decision::default();
        let climb = self.climb(place, &cause, now, &mut escalations);
        let next = match &climb {
            Climb::Restart(_) => NextStep::Restarted,
            Climb::GiveUp(..) => NextStep::OutOfService,
        };
        self.report(place, kind, cause, next, decision);
        decision.effects.append(&mut escalations.effects);
        match climb {
            Climb::Restart(places) => {
                let role = if is_stall {
                    Role::Stuck(place)
                } else {
                    Role::Ended(place)
                };
                self.restart_together(&places, role, decision);
                Verdict::RestartAfter(self.delay(place, &child, now, jitter))
            }
            Climb::GiveUp(scope, places) => {
                let why = self.why(place);
                self.give_up(scope, &places, &why, decision);
                Verdict::StayDown
            }
        }
    }

    fn finished(
        &mut self,
        place: usize,
        child: &Child,
        now: Duration,
        jitter: u64,
        decision: &mut Decision,
    ) -> Verdict {
        if child.kind != Kind::Permanent {
            self.set(place, ChildState::Finished);
            return Verdict::StayDown;
        }
        // A permanent child that ends is no failure, but if it does so over and over its group has had too much.
        let cause = FailureCause::GaveUp("its work was done".to_owned());
        match self.climb(place, &cause, now, decision) {
            Climb::Restart(places) => {
                self.restart_together(&places, Role::Ended(place), decision);
                Verdict::RestartAfter(self.delay(place, child, now, jitter))
            }
            Climb::GiveUp(scope, places) => {
                self.give_up(scope, &places, &cause.to_string(), decision);
                Verdict::StayDown
            }
        }
    }

    fn delay(&mut self, place: usize, child: &Child, now: Duration, jitter: u64) -> Duration {
        let window = self
            .tree
            .groups_of(child)
            .first()
            .map(|g| g.intensity.window);
        let Some(life) = self.each.get_mut(place) else {
            return Duration::ZERO;
        };
        forget_old(&mut life.failures, now, window.unwrap_or_default());
        life.failures.push_back(now);
        let failures = u32::try_from(life.failures.len()).unwrap_or(u32::MAX);
        child.backoff.delay(failures, jitter)
    }

    fn at(&self, place: usize) -> Option<(&Child, &Life)> {
        self.tree.children().get(place).zip(self.each.get(place))
    }

    fn set(&mut self, place: usize, state: ChildState) {
        if let Some(life) = self.each.get_mut(place) {
            life.state = state;
        }
    }

    fn place(&self, name: &ChildName) -> Option<usize> {
        let mut children = self.tree.children().iter();
        children.position(|child| child.name == *name)
    }
}

fn forget_old(times: &mut VecDeque<Duration>, now: Duration, window: Duration) {
    while times
        .front()
        .is_some_and(|time| now.saturating_sub(*time) > window)
    {
        times.pop_front();
    }
}

#[cfg(test)]
mod tests;
