//! What the tests of the supervisor share: one thread, paused time, a log that is counted, a worker's executor.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, Context, Handler, System};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::field::{Field, Visit};
use tracing::span;

use actors::environment::{Clock, Random, ReportFailure};
use actors::executor::{Executor, StartError, Step, WakeWorker, Worker, WorkerSpec};
use actors::guardian::{ExitCause, Verdict};
use actors::hooks::Hooks;
use messages::{Failure, FailureId, FailureNotice};
use piggin_supervisor::failure_bus::FailureBus;
use piggin_supervisor::guardian::{Supervisor, SupervisorParts};
use piggin_supervisor::restart::OutOfService;
use piggin_supervisor::tree::Tree;

/// Tokio's paused time.
#[derive(Debug)]
pub(crate) struct PausedClock(Instant);

impl Clock for PausedClock {
    fn since_epoch(&self) -> Duration {
        Duration::from_secs(1_700_000_000) + self.0.elapsed()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Numbers that are the same in every run.
#[derive(Debug, Default)]
pub(crate) struct Counting(AtomicU64);

impl Random for Counting {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9, Ordering::Relaxed)
    }
}

/// A subscriber of the failure bus that notes everything.
#[derive(Clone, Default)]
pub(crate) struct Probe(pub(crate) Arc<Mutex<Vec<FailureNotice>>>);

impl Actor for Probe {
    type Context = Context<Probe>;
}

impl Handler<FailureNotice> for Probe {
    type Result = ();

    fn handle(&mut self, notice: FailureNotice, _: &mut Context<Probe>) {
        self.0.lock().push(notice);
    }
}

/// Notes the counter named by each event of the log.
#[derive(Clone, Default)]
pub(crate) struct LogProbe(pub(crate) Arc<Mutex<Vec<String>>>);

struct CounterField(Option<String>);

impl Visit for CounterField {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "counter" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

impl tracing::Subscriber for LogProbe {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut counter = CounterField(None);
        event.record(&mut counter);
        self.0.lock().push(counter.0.unwrap_or_default());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A supervisor with its surroundings.
pub(crate) struct World {
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) bus: Arc<FailureBus>,
    pub(crate) told: Probe,
    pub(crate) logged: LogProbe,
    pub(crate) out_of_service: Arc<Mutex<Vec<OutOfService>>>,
    _log: tracing::subscriber::DefaultGuard,
}

impl World {
    pub(crate) fn new(tree: Tree) -> World {
        let clock: Arc<dyn Clock> = Arc::new(PausedClock(Instant::now()));
        let bus = Arc::new(FailureBus::new(Arc::clone(&clock), 16));
        let told = Probe::default();
        bus.subscribe(told.clone().start().recipient());
        let out_of_service = Arc::<Mutex<Vec<OutOfService>>>::default();
        let noted = Arc::clone(&out_of_service);
        let parts = SupervisorParts {
            clock,
            random: Arc::new(Counting::default()),
            failures: Arc::clone(&bus) as Arc<dyn ReportFailure>,
            hooks: Hooks::none(),
            on_out_of_service: Box::new(move |what| noted.lock().push(what.clone())),
        };
        let supervisor = Supervisor::new(tree, parts).expect("a tree that holds together");
        actix::spawn(Arc::clone(&supervisor).watch());
        let logged = LogProbe::default();
        let log = tracing::subscriber::set_default(logged.clone());
        World {
            supervisor,
            bus,
            told,
            logged,
            out_of_service,
            _log: log,
        }
    }

    pub(crate) fn failures(&self) -> Vec<Failure> {
        self.bus.since(FailureId(0)).failures
    }

    /// Counters that are not zero.
    pub(crate) fn counters(&self) -> Vec<(&'static str, u64)> {
        let all = self.bus.counters().into_iter();
        all.filter(|(_, count)| *count > 0).collect()
    }
}

/// Runs a test on one thread under paused time.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let system = System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
    });
    system.block_on(test);
}

pub(crate) async fn millis(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

/// Runs workers as tasks of the one thread. A step that asks for it takes simulated time.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskExecutor {
    /// How long the next step takes.
    pub(crate) next_step_takes: Arc<Mutex<Duration>>,
}

impl Executor for TaskExecutor {
    fn start(&self, spec: WorkerSpec) -> Result<WakeWorker, StartError> {
        let wake = Arc::new(Notify::new());
        let notify = Arc::clone(&wake);
        let waker = WakeWorker::new(move || notify.notify_one());
        actix::spawn(live(spec, wake, waker.clone(), self.clone()));
        Ok(waker)
    }
}

/// Life after life, with the orders of the tether obeyed between steps.
async fn live(mut spec: WorkerSpec, woken: Arc<Notify>, wake: WakeWorker, executor: TaskExecutor) {
    let tether = spec.guardian.tether(&spec.name);
    tether.set_wake(wake);
    loop {
        let orders = tether.orders();
        if orders.must_stop {
            spec.guardian.child_stopped(&spec.name, tether.generation());
            return;
        }
        if orders.is_held || orders.stands_down.is_some() {
            woken.notified().await;
            continue;
        }
        let generation = tether.next_generation();
        tether.enter();
        let made = catch(|| (spec.make)(generation));
        tether.leave();
        let end = match made {
            Err(text) => Some(ExitCause::Panicked(text)),
            Ok(mut worker) => {
                spec.guardian.child_up(&spec.name, generation);
                let begun_at = orders.resets;
                loop {
                    let orders = tether.orders();
                    if orders.resets != begun_at || orders.must_stop || orders.stands_down.is_some()
                    {
                        break None;
                    }
                    tether.enter();
                    let step = catch(|| worker.step());
                    let takes = std::mem::take(&mut *executor.next_step_takes.lock());
                    sleep(takes).await;
                    tether.leave();
                    match step {
                        Err(text) => break Some(ExitCause::Panicked(text)),
                        Ok(Step::Again) => tokio::task::yield_now().await,
                        Ok(Step::Idle | Step::IdleFor(_)) => woken.notified().await,
                        Ok(Step::Ended) => break Some(ExitCause::Finished),
                    }
                }
            }
        };
        if let Some(cause) = end {
            match spec.guardian.child_down(&spec.name, generation, cause) {
                Verdict::RestartAfter(delay) => sleep(delay).await,
                Verdict::StayDown => woken.notified().await,
            }
        }
    }
}

fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    caught.map_err(|payload| {
        let text = payload.downcast_ref::<&str>();
        text.copied().unwrap_or("no text").to_owned()
    })
}

/// A worker made of a function.
pub(crate) struct StepBy<F>(pub(crate) F);

impl<F: FnMut() -> Step + Send> Worker for StepBy<F> {
    fn step(&mut self) -> Step {
        (self.0)()
    }
}
