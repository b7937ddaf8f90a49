//! The world: everything a bucket needs from outside, simulated on one thread, so that one seed is one run.
//!
//! Invariant: within [`World::run`] nothing may depend on real time, on another thread or on random order; what can be
//! noticed of that fails the run ([`RunError::NotDeterministic`]). A run that does not end is stopped by virtual time or
//! by the number of its events.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use actix::System;
use parking_lot::Mutex;

use actors::environment::{Clock, Environment, Random};
use actors::executor::StopWorkers;
use actors::executor::blocking::Forbid;
use actors::hooks::{HoldPoint, Hooks};
use actors::simulation::{SimulatedClock, SimulatedExecutor, SimulatedRandom, Trace};
use storage::disk::{Disk, SimulatedDisk};

use crate::testing::disk::TracedDisk;
use crate::testing::failures::FailureLog;
use crate::testing::fault::Fault;
use crate::testing::harness::{Harness, InWorld};
use crate::testing::hold::Hold;
use crate::testing::process::Process;
use crate::testing::settings::{LastEvents, RunError, WorldSettings};
use crate::testing::tap::Tap;

/// So many events are shown of a run that was stopped.
const LAST_EVENTS: usize = 20;

/// A simulated world. A clone is the same world.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

struct Inner {
    seed: u64,
    clock: SimulatedClock,
    trace: Trace,
    root: SimulatedRandom,
    streams: Mutex<BTreeMap<String, Arc<SimulatedRandom>>>,
    executor: Arc<SimulatedExecutor>,
    settings: WorldSettings,
    harness: Harness,
    processes: Mutex<BTreeMap<u64, Process>>,
    /// Processes there ever were.
    openings: AtomicU64,
    failures: FailureLog,
    disk: Mutex<SimulatedDisk>,
}

impl World {
    /// Runs `scenario` in a world of this seed, on a thread and an actix system of its own. What panics in it panics
    /// here.
    pub fn run<T: Send, F: Future<Output = T>>(
        seed: u64,
        scenario: impl FnOnce(World) -> F + Send,
    ) -> Result<T, RunError> {
        World::run_with(seed, &WorldSettings::default(), scenario)
    }

    /// As [`World::run`], with other settings.
    pub fn run_with<T: Send, F: Future<Output = T>>(
        seed: u64,
        settings: &WorldSettings,
        scenario: impl FnOnce(World) -> F + Send,
    ) -> Result<T, RunError> {
        let not_started = |error: std::io::Error| RunError::NotStarted {
            what: error.to_string(),
        };
        std::thread::scope(|scope| {
            // The name is what a panic inside is reported with.
            let thread = std::thread::Builder::new().name(format!("seed {seed}"));
            let thread = thread
                .spawn_scoped(scope, || run_here(seed, settings, scenario))
                .map_err(not_started)?;
            match thread.join() {
                Ok(result) => result.map_err(not_started)?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn new(seed: u64, settings: &WorldSettings) -> World {
        let clock = SimulatedClock::start();
        let trace = Trace::new(clock.clone(), settings.events_kept, settings.events_max);
        let root = SimulatedRandom::new(seed);
        trace.event("seed", "", &[seed]);
        let in_world = InWorld {
            trace: trace.clone(),
            delays: root.stream("late messages"),
            late_permille: settings.late_permille,
        };
        let harness = Harness::in_world(Arc::new(clock.clone()), in_world);
        World::of_parts(seed, settings, &clock, &trace, root, harness)
    }

    fn of_parts(
        seed: u64,
        settings: &WorldSettings,
        clock: &SimulatedClock,
        trace: &Trace,
        root: SimulatedRandom,
        harness: Harness,
    ) -> World {
        let (clock, trace) = (clock.clone(), trace.clone());
        let executor = SimulatedExecutor::new(
            root.stream("executor"),
            settings.latencies.clone(),
            trace.clone(),
            harness.hooks(),
        );
        let failures = FailureLog::new(clock.clone(), trace.clone());
        World {
            inner: Arc::new(Inner {
                seed,
                clock,
                trace,
                root,
                streams: Mutex::default(),
                executor: Arc::new(executor),
                settings: settings.clone(),
                harness,
                processes: Mutex::default(),
                openings: AtomicU64::new(0),
                failures,
                disk: Mutex::new(SimulatedDisk::new()),
            }),
        }
    }

    /// Another machine of this world, with a disk, buckets and faults of its own; time and the trace are the same, and its
    /// numbers come from the same seed. Asked twice for a name, it gives two machines with the same numbers.
    #[must_use]
    pub fn beside(&self, name: &str) -> World {
        let Inner { clock, trace, .. } = &*self.inner;
        let root = self.inner.root.stream(&format!("beside {name}"));
        let in_world = InWorld {
            trace: trace.clone(),
            delays: root.stream("late messages"),
            late_permille: self.inner.settings.late_permille,
        };
        let harness = Harness::in_world(Arc::new(clock.clone()), in_world);
        World::of_parts(
            self.inner.seed,
            &self.inner.settings,
            clock,
            trace,
            root,
            harness,
        )
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.inner.seed
    }

    /// Whether all leaves memory that can.
    pub(super) fn evicts(&self) -> bool {
        self.inner.settings.evicts
    }

    /// Virtual time, and a wall clock that can jump.
    #[must_use]
    pub fn clock(&self) -> SimulatedClock {
        self.inner.clock.clone()
    }

    /// The stream of numbers of that name; asked again, it goes on where it was. What one consumer draws shifts no
    /// other's numbers.
    #[must_use]
    pub fn random(&self, name: &str) -> Arc<SimulatedRandom> {
        let mut streams = self.inner.streams.lock();
        let stream = streams
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(self.inner.root.stream(name)));
        Arc::clone(stream)
    }

    /// Runs workers in virtual time. A bucket in this world has an executor of its own.
    #[must_use]
    pub fn executor(&self) -> Arc<SimulatedExecutor> {
        Arc::clone(&self.inner.executor)
    }

    /// The disk, watched; for whatever is tested.
    #[must_use]
    pub fn disk(&self) -> Arc<dyn Disk> {
        let disk = self.inner.disk.lock().clone();
        if self.evicts() {
            // None of what left memory is in the system's, or all of it, or the half.
            disk.set_in_memory(self.inner.seed / 3 % 3);
        }
        let traced = TracedDisk::new(Arc::new(disk), self.inner.trace.clone());
        self.inner.settings.disk.before(Arc::new(traced))
    }

    /// The disk itself, not watched; to look at it and to make it fail.
    #[must_use]
    pub fn simulated_disk(&self) -> SimulatedDisk {
        self.inner.disk.lock().clone()
    }

    /// Everything an actor or worker is handed. Its numbers are the stream `environment`.
    #[must_use]
    pub fn environment(&self) -> Environment {
        Environment {
            clock: Arc::new(self.clock()),
            random: self.random("environment"),
            failures: Arc::new(self.failures()),
            executor: self.executor(),
            hooks: self.hooks(),
        }
    }

    /// What the engine asks for faults and tells of messages.
    #[must_use]
    pub fn hooks(&self) -> Hooks {
        self.inner.harness.hooks()
    }

    /// What was reported to the environment's failure reporter.
    #[must_use]
    pub fn failures(&self) -> FailureLog {
        self.inner.failures.clone()
    }

    /// Asks for a fault: those of the disk strike the disk that is there now.
    pub fn inject(&self, fault: Fault) {
        self.inner.trace.event("inject", &format!("{fault:?}"), &[]);
        if let Err(fault) = self.inner.harness.inject(fault) {
            self.inner.disk.lock().inject(fault.to_simulated());
        }
    }

    /// How many faults have not struck.
    #[must_use]
    pub fn faults_waiting(&self) -> usize {
        let on_disk = self.inner.disk.lock().faults_waiting();
        on_disk.saturating_add(self.inner.harness.faults_waiting())
    }

    /// Those that have struck, oldest first, the disk's aside.
    #[must_use]
    pub fn faults_struck(&self) -> Vec<Fault> {
        self.inner.harness.faults_struck()
    }

    /// How often each invariant of durable writes was looked at in the buckets of this machine and found to hold, by its
    /// number. One that does not fails the run ([`RunError::Broken`]).
    #[must_use]
    pub fn judged(&self) -> BTreeMap<u8, u64> {
        self.inner.harness.judged()
    }

    /// Takes all faults away, those that have not struck and the memory of those that have.
    pub fn clear_faults(&self) {
        self.inner.disk.lock().clear_faults();
        self.inner.harness.clear_faults();
    }

    /// Has the next compaction that comes to that place stand still there, until what is returned is released or
    /// dropped.
    #[must_use = "dropped, it holds nobody"]
    pub fn hold(&self, place: HoldPoint) -> Hold {
        self.inner.harness.hold(place)
    }

    /// As [`World::hold`], once so many steps of compactions passed that place.
    #[must_use = "dropped, it holds nobody"]
    pub fn hold_behind(&self, place: HoldPoint, steps: usize) -> Hold {
        self.inner.harness.hold_behind(place, steps)
    }

    /// Has all messages of what runs in this world seen by `tap`.
    pub fn tap(&self, tap: impl Tap) {
        self.inner.harness.tap(tap);
    }

    /// The machine loses power: every bucket and worker ends where it stands, and what the disk holds afterwards is
    /// drawn from the seed. Whoever has the old disk open finds it dead; whoever holds a bucket is told that it ended.
    /// Everything can be opened and started again at once.
    pub fn cut_power(&self) {
        let seed = self.random("power cuts").next_u64();
        self.inner.trace.event("power cut", "", &[seed]);
        self.end_all(|disk| disk.crash(seed));
    }

    /// Cuts the power when so much virtual time went by.
    pub fn cut_power_after(&self, time: Duration) {
        let world = self.clone();
        tokio::task::spawn_local(async move {
            world.sleep(time).await;
            world.cut_power();
        });
    }

    /// The process dies: as [`World::cut_power`], but the operating system lives on, and with it all that was written,
    /// synced or not.
    pub fn kill(&self) {
        self.inner.trace.event("kill", "", &[]);
        self.end_all(SimulatedDisk::crash_keeping_everything);
    }

    fn end_all(&self, remains: impl FnOnce(&SimulatedDisk) -> SimulatedDisk) {
        let mut disk = self.inner.disk.lock();
        // First the image: what the workers' drops do must not reach the new disk.
        let after = remains(&disk);
        disk.cut_power_at_call(1);
        // The call that is struck; from now on every call is.
        drop(disk.sync_directory());
        *disk = after;
        drop(disk);
        self.inner.executor.kill_all();
        let processes = std::mem::take(&mut *self.inner.processes.lock());
        processes.into_values().for_each(Process::end);
    }

    /// An executor for one process: what an earlier one drew shifts none of its numbers.
    pub(crate) fn executor_of_process(&self) -> Arc<SimulatedExecutor> {
        let number = self.inner.openings.load(Ordering::Relaxed);
        Arc::new(SimulatedExecutor::new(
            self.inner.root.stream(&format!("executor {number}")),
            self.inner.settings.latencies.clone(),
            self.inner.trace.clone(),
            self.hooks(),
        ))
    }

    /// The same, as a bucket sees it.
    pub(crate) fn before_executor(
        &self,
        executor: &Arc<SimulatedExecutor>,
    ) -> Arc<dyn StopWorkers> {
        let executor: Arc<SimulatedExecutor> = Arc::clone(executor);
        self.inner.settings.executor.before(executor)
    }

    /// A process begins; its number.
    pub(crate) fn enter(&self, process: Process) -> u64 {
        let number = self.inner.openings.fetch_add(1, Ordering::Relaxed);
        let mut processes = self.inner.processes.lock();
        processes.retain(|_, process| process.is_alive());
        processes.insert(number, process);
        number
    }

    /// More is known of a process.
    pub(crate) fn change(&self, number: u64, change: impl FnOnce(&mut Process)) {
        if let Some(process) = self.inner.processes.lock().get_mut(&number) {
            change(process);
        }
    }

    /// There is no such process any more.
    pub(crate) fn leave(&self, number: u64) {
        drop(self.inner.processes.lock().remove(&number));
    }

    /// Lets so much virtual time go by.
    pub async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Everything that happened, in order.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.inner.trace.clone()
    }

    /// Everything that happened so far, as one number.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.inner.trace.hash()
    }

    fn last_events(&self) -> LastEvents {
        let mut newest = self.inner.trace.newest();
        let old = newest.len().saturating_sub(LAST_EVENTS);
        LastEvents(newest.split_off(old))
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.inner.seed)
            .field("trace", &self.inner.trace)
            .finish_non_exhaustive()
    }
}

/// The run itself, on the current thread.
fn run_here<T, F: Future<Output = T>>(
    seed: u64,
    settings: &WorldSettings,
    scenario: impl FnOnce(World) -> F,
) -> std::io::Result<Result<T, RunError>> {
    let _forbid = Forbid::new();
    let threads = Arc::new(AtomicU64::new(0));
    let started = Arc::clone(&threads);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        // The one thread of the runtime is this one; any it starts are of `spawn_blocking`.
        .on_thread_start(move || {
            started.fetch_add(1, Ordering::SeqCst);
        })
        .build()?;
    let system = System::with_tokio_rt(move || runtime);
    let result = system.block_on(async move {
        let world = World::new(seed, settings);
        let ended = ends_within(&world, settings, scenario(world.clone())).await?;
        let mut violations = world.inner.trace.violations();
        if threads.load(Ordering::SeqCst) > 0 {
            violations.push("a blocking task was started on another thread".to_owned());
        }
        let findings = world.inner.trace.findings();
        match (violations.into_iter().next(), findings.into_iter().next()) {
            (Some(what), _) => Err(RunError::NotDeterministic { seed, what }),
            (None, Some(what)) => Err(RunError::Broken { seed, what }),
            (None, None) => Ok(ended),
        }
    });
    Ok(result)
}

/// The scenario, or one of the limits, whichever comes first.
async fn ends_within<T>(
    world: &World,
    settings: &WorldSettings,
    scenario: impl Future<Output = T>,
) -> Result<T, RunError> {
    let (seed, trace) = (world.seed(), world.trace());
    let mut scenario = pin!(scenario);
    let mut overrun = pin!(trace.overrun());
    let mut time_is_up = pin!(tokio::time::sleep(settings.virtual_time_max));
    poll_fn(move |context| {
        if let Poll::Ready(value) = scenario.as_mut().poll(context) {
            return Poll::Ready(Ok(value));
        }
        if overrun.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(RunError::TooManyEvents {
                seed,
                at: world.inner.clock.monotonic(),
                events: trace.events(),
                last: world.last_events(),
            }));
        }
        if time_is_up.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(RunError::TooLong {
                seed,
                after: settings.virtual_time_max,
                events: trace.events(),
                last: world.last_events(),
            }));
        }
        Poll::Pending
    })
    .await
}
