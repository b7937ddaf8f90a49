//! The supervisor: does what [`restart`](crate::restart) decides, for shells and workers on any thread.
//!
//! Invariant: decisions and the orders that follow from them are made under one short lock; failures are reported and
//! the embedder is called after it. No child ever waits for an actor to learn its verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::{Addr, ArbiterHandle};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use actors::environment::{Clock, Random, ReportFailure};
use actors::executor::WakeWorker;
use actors::guardian::{ExitCause, Guardian, Verdict};
use actors::hooks::Hooks;
use actors::shell::{Core, Shell, ShellConfig, start};
use actors::tether::{Orders, Tether};
use messages::{ChildName, Generation};

use crate::restart::{ChildState, ChildStatus, Decision, Effect, Event, Lives, OutOfService};
use crate::tree::{Child, Tree, TreeError};
use crate::watch::{Reading, StallWatch};

/// Called when something went out of service; on any thread, so it must not block: it sets a flag or sends a message.
pub type OnOutOfService = Box<dyn Fn(&OutOfService) + Send + Sync>;

/// What a supervisor needs from outside.
pub struct SupervisorParts {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Spreads the waits before restarts.
    pub random: Arc<dyn Random>,
    /// Where failures are told.
    pub failures: Arc<dyn ReportFailure>,
    /// A test harness that sees the messages of the actors started here.
    pub hooks: Hooks,
    /// The embedder.
    pub on_out_of_service: OnOutOfService,
}

impl fmt::Debug for SupervisorParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorParts").finish_non_exhaustive()
    }
}

/// Supervises the children of a [`Tree`].
pub struct Supervisor {
    parts: SupervisorParts,
    inner: Mutex<Inner>,
    changed: Arc<Notify>,
    look_soon: Arc<Notify>,
    is_over: AtomicBool,
}

struct Inner {
    lives: Lives,
    tethers: BTreeMap<ChildName, Arc<Tether>>,
    watch: StallWatch,
}

/// How a child ended when the tree was shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOutcome {
    /// In order, in time.
    Stopped,
    /// It was never started.
    NotStarted,
    /// Its deadline passed; what it was doing is not known.
    DeadlineMissed(Duration),
    /// Its thread or `System` had ended under it.
    Lost,
}

/// What came of a shutdown, in the order the children were stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct ShutdownReport {
    /// Each child and how it ended.
    pub children: Vec<(ChildName, StopOutcome)>,
}

impl ShutdownReport {
    /// Whether everybody ended in order.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.children
            .iter()
            .all(|(_, how)| matches!(how, StopOutcome::Stopped | StopOutcome::NotStarted))
    }
}

impl Supervisor {
    /// A supervisor of this tree. Nobody is started yet; [`Supervisor::watch`] must be run.
    pub fn new(tree: Tree, parts: SupervisorParts) -> Result<Arc<Supervisor>, TreeError> {
        let limits = tree.children().iter().filter_map(|one| one.stall_limit);
        let shortest = limits.min().unwrap_or(Child::STALL_LIMIT);
        let children = tree.children().to_vec();
        let supervisor = Supervisor {
            parts,
            inner: Mutex::new(Inner {
                lives: Lives::new(tree)?,
                tethers: BTreeMap::new(),
                watch: StallWatch::new(shortest),
            }),
            changed: Arc::new(Notify::new()),
            look_soon: Arc::new(Notify::new()),
            is_over: AtomicBool::new(false),
        };
        for child in &children {
            let tether = supervisor.tether_for(child);
            let mut inner = supervisor.inner.lock();
            inner.tethers.insert(child.name.clone(), tether);
        }
        Ok(Arc::new(supervisor))
    }

    fn tether_for(&self, child: &Child) -> Arc<Tether> {
        let (changed, look_soon) = (Arc::clone(&self.changed), Arc::clone(&self.look_soon));
        let wake = WakeWorker::new(move || {
            changed.notify_waiters();
            look_soon.notify_one();
        });
        let tether = Tether::new(child.name.clone()).for_vbucket(child.vbucket);
        Arc::new(tether.waking_guardian(wake))
    }

    /// Adds a child to the tree while it runs; it starts after, and stops before, all others.
    pub fn add(&self, child: Child) -> Result<(), TreeError> {
        let (name, tether) = (child.name.clone(), self.tether_for(&child));
        let mut inner = self.inner.lock();
        inner.lives.add(child)?;
        inner.tethers.insert(name, tether);
        Ok(())
    }

    /// Starts an actor of the tree on that arbiter. `make` is called there for each generation.
    pub fn start<C: Core>(
        self: &Arc<Self>,
        arbiter: &ArbiterHandle,
        child: &ChildName,
        make: impl FnMut(Generation) -> C + Send + 'static,
    ) -> Result<Addr<Shell<C>>, TreeError> {
        if self.inner.lock().lives.state(child).is_none() {
            return Err(TreeError::NoSuchChild(child.clone()));
        }
        let guardian = Arc::clone(self) as Arc<dyn Guardian>;
        let config = ShellConfig::new(child.clone(), guardian).hooks(&self.parts.hooks);
        Ok(start(arbiter, config, make))
    }

    /// How every child stands, in the order they start.
    #[must_use]
    pub fn children(&self) -> Vec<ChildStatus> {
        self.inner.lock().lives.statuses()
    }

    /// Restarts a child, and those coupled with it; also one that is out of service. No failure is told. A child whose
    /// work is done is left alone.
    pub fn restart(&self, child: &ChildName) -> Result<(), TreeError> {
        self.decide(child, Event::RestartAsked).map(drop)
    }

    /// Looks for stalled and lost children now and then, until the tree is shut down. Runs where nothing of the tree
    /// can hold it up: on the control arbiter.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let period = self.inner.lock().watch.period();
            // Whether it was woken or the time passed, the next thing is to look.
            drop(timeout(period, self.look_soon.notified()).await);
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            self.look();
        }
    }

    /// Looks once for stalled and lost children. [`Supervisor::watch`] does this now and then.
    pub fn look(&self) {
        let now = self.parts.clock.monotonic();
        let (lost, stalled) = {
            let mut inner = self.inner.lock();
            let lost = inner.newly_lost();
            let readings = inner.readings();
            (lost, inner.watch.look(now, readings))
        };
        for child in lost {
            self.perform(&child, Event::Lost);
        }
        for (child, stuck_for) in stalled {
            let generation = self.generation(&child);
            let cause = ExitCause::Stalled(stuck_for);
            self.perform(&child, Event::Down(generation, cause));
        }
        self.parts.failures.catch_up();
    }

    /// Stops every child in order, the last started first, each with its deadline.
    pub async fn shutdown(&self) -> ShutdownReport {
        let children: Vec<Child> = {
            let mut inner = self.inner.lock();
            inner.lives.begin_shutdown();
            inner.lives.tree().children().to_vec()
        };
        let mut report = ShutdownReport::default();
        for child in children.iter().rev() {
            let was = self.inner.lock().lives.state(&child.name);
            self.perform(&child.name, Event::StopAsked);
            let ended = timeout(child.stop_deadline, self.ended(&child.name)).await;
            let outcome = match ended {
                Ok(()) if was == Some(ChildState::NotStarted) => StopOutcome::NotStarted,
                Ok(()) if self.is_lost(&child.name) => StopOutcome::Lost,
                Ok(()) => StopOutcome::Stopped,
                Err(_) => StopOutcome::DeadlineMissed(child.stop_deadline),
            };
            report.children.push((child.name.clone(), outcome));
        }
        self.is_over.store(true, Ordering::Release);
        self.look_soon.notify_one();
        report
    }

    /// Everybody is dropped as he is: the process these children would be was ended.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn forsake(&self, why: &str) {
        self.is_over.store(true, Ordering::Release);
        self.look_soon.notify_one();
        let tethers: Vec<Arc<Tether>> = {
            let mut inner = self.inner.lock();
            inner.lives.begin_shutdown();
            inner.tethers.values().cloned().collect()
        };
        for tether in tethers {
            tether.give(|orders| {
                orders.stands_down = Some(why.into());
                orders.must_stop = true;
            });
        }
    }

    /// Comes to an end once every child has begun its first life, or failed to.
    pub(crate) async fn all_begun(&self) {
        loop {
            let changed = self.changed.notified();
            let waits = |one: &ChildStatus| {
                matches!(one.state, ChildState::NotStarted | ChildState::Starting)
            };
            if !self.children().iter().any(waits) {
                return;
            }
            changed.await;
        }
    }

    async fn ended(&self, child: &ChildName) {
        loop {
            let changed = self.changed.notified();
            let state = self.inner.lock().lives.state(child);
            if self.is_lost(child) || state.is_none_or(ChildState::has_ended) {
                return;
            }
            changed.await;
        }
    }

    fn generation(&self, child: &ChildName) -> Generation {
        let inner = self.inner.lock();
        let tether = inner.tethers.get(child);
        tether.map_or_else(Generation::default, |one| one.generation())
    }

    fn is_lost(&self, child: &ChildName) -> bool {
        let inner = self.inner.lock();
        inner.tethers.get(child).is_some_and(|one| one.is_lost())
    }

    /// Decides, gives the orders, then tells the outside.
    fn decide(&self, child: &ChildName, event: Event) -> Result<Verdict, TreeError> {
        let now = self.parts.clock.monotonic();
        let jitter = match event {
            Event::Down(..) => self.parts.random.next_u64(),
            Event::Started
            | Event::Up(_)
            | Event::Stopped
            | Event::Lost
            | Event::RestartAsked
            | Event::StopAsked => 0,
        };
        let Decision { verdict, effects } = {
            let mut inner = self.inner.lock();
            let decision = inner.lives.decide(child, event, now, jitter)?;
            for effect in &decision.effects {
                inner.order(effect);
            }
            decision
        };
        self.changed.notify_waiters();
        for effect in effects {
            match effect {
                Effect::Report(report) => drop(self.parts.failures.report(report)),
                Effect::OutOfService(what) => (self.parts.on_out_of_service)(&what),
                Effect::Hold(_)
                | Effect::HoldSelf(_)
                | Effect::Reset(_)
                | Effect::Release(_)
                | Effect::StandDown(..)
                | Effect::BringBack(_)
                | Effect::Stop(_) => {}
            }
        }
        Ok(verdict.unwrap_or(Verdict::StayDown))
    }

    /// Decides about a child that may have no place in the tree; it stays down then.
    fn perform(&self, child: &ChildName, event: Event) -> Verdict {
        self.decide(child, event).unwrap_or(Verdict::StayDown)
    }
}

impl Inner {
    fn order(&self, effect: &Effect) {
        match effect {
            Effect::Hold(child) => self.give(child, |orders| {
                orders.resets = orders.resets.wrapping_add(1);
                orders.is_held = true;
            }),
            Effect::HoldSelf(child) => self.give(child, |orders| orders.is_held = true),
            Effect::Reset(child) => self.give(child, |orders| {
                orders.resets = orders.resets.wrapping_add(1);
            }),
            Effect::Release(child) => self.give(child, |orders| orders.is_held = false),
            Effect::StandDown(child, why) => self.give(child, |orders| {
                orders.is_held = false;
                orders.stands_down = Some(why.as_str().into());
            }),
            Effect::BringBack(child) => self.give(child, |orders| orders.stands_down = None),
            Effect::Stop(child) => self.give(child, |orders| orders.must_stop = true),
            Effect::Report(_) | Effect::OutOfService(_) => {}
        }
    }

    fn give(&self, child: &ChildName, change: impl FnOnce(&mut Orders)) {
        if let Some(tether) = self.tethers.get(child) {
            tether.give(change);
        }
    }

    fn newly_lost(&self) -> Vec<ChildName> {
        let lost = self.tethers.iter().filter(|(_, tether)| tether.is_lost());
        let newly = lost.filter(|(child, _)| {
            let state = self.lives.state(child);
            !state.is_none_or(ChildState::has_ended)
        });
        newly.map(|(child, _)| child.clone()).collect()
    }

    fn readings(&self) -> Vec<Reading> {
        let children = self.lives.tree().children().iter();
        let reading = |child: &Child| {
            Some(Reading {
                child: child.name.clone(),
                pulse: self.tethers.get(&child.name)?.pulse(),
                limit: child.stall_limit?,
            })
        };
        children.filter_map(reading).collect()
    }
}

impl Guardian for Supervisor {
    fn child_down(&self, child: &ChildName, generation: Generation, cause: ExitCause) -> Verdict {
        self.perform(child, Event::Down(generation, cause))
    }

    fn child_up(&self, child: &ChildName, generation: Generation) {
        self.perform(child, Event::Up(generation));
    }

    fn child_stopped(&self, child: &ChildName, _generation: Generation) {
        self.perform(child, Event::Stopped);
    }

    fn tether(&self, child: &ChildName) -> Arc<Tether> {
        let found = self.inner.lock().tethers.get(child).cloned();
        if let Some(tether) = found {
            self.perform(child, Event::Started);
            return tether;
        }
        let stranger = Tether::new(child.clone());
        stranger.give(|orders| {
            orders.stands_down = Some("it has no place in the supervision tree".into());
        });
        Arc::new(stranger)
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("children", &self.children())
            .finish_non_exhaustive()
    }
}
