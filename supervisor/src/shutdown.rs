//! The end of a bucket, in order or not, and what it came to (rule R22).
//!
//! Order: close every vbucket's gate; end compactions at their next step; write what is in memory; end the workers; close
//! the store; the mark of a clean shutdown last. Invariant: the mark is written only when all of that was done; whoever waits for a vbucket or for the
//! shutdown is answered whatever happens.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use actors::environment::{Environment, FailureReport};
use actors::executor::{StopWorkers, WakeWorker};
use actors::flusher::FlusherCore;
use actors::panics::caught;
use actors::shell::Shell;
use actors::warmup::CleanMark;
use messages::flusher::{StopFlushing, Unpersisted};
use messages::{ChildName, FailureCause, FailureKind, Generation, NextStep};
use storage::disk::Disk;
use storage::{StorageError, VbucketStatus};

use crate::background::{self, Beside, guarded};
use crate::collections::{self, Unfinished};
use crate::guardian::StopOutcome;
use crate::running::Running;
use crate::stop::Wanted;

/// What a flusher gets to say what it did not manage in time.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// What an orderly shutdown came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Vbuckets whose changes are not all on disk: highest seqno in memory and on disk.
    pub unpersisted: Vec<Unpersisted>,
    /// Children that did not stop by their deadline.
    pub stuck: Vec<String>,
    /// What failed on the way.
    pub failed: Option<String>,
    /// How long it took, by the injected clock.
    pub took: Duration,
}

impl ShutdownReport {
    /// Whether all was done: the next opening finds a clean shutdown.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unpersisted.is_empty() && self.stuck.is_empty() && self.failed.is_none()
    }
}

impl ShutdownReport {
    /// The first thing that failed is the one to look at.
    fn fail(&mut self, cause: &dyn fmt::Display) {
        self.failed.get_or_insert_with(|| cause.to_string());
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return write!(f, "clean after {} ms", self.took.as_millis());
        }
        write!(f, "after {} ms", self.took.as_millis())?;
        for lag in &self.unpersisted {
            let Unpersisted {
                vbucket,
                persisted,
                high,
            } = lag;
            write!(
                f,
                "; vbucket {vbucket} is on disk up to {persisted} of {high}"
            )?;
        }
        if !self.stuck.is_empty() {
            write!(f, "; not stopped: {}", self.stuck.join(", "))?;
        }
        match &self.failed {
            Some(what) => write!(f, "; {what}"),
            None => Ok(()),
        }
    }
}

/// The engine of a running bucket: what must be ended.
pub(crate) struct Engine {
    pub(crate) running: Arc<Running>,
    pub(crate) flushers: Vec<Addr<Shell<FlusherCore>>>,
    pub(crate) executor: Arc<dyn StopWorkers>,
    pub(crate) environment: Environment,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) deadline: Duration,
    /// How often the figures are published.
    pub(crate) metrics_every: Option<Duration>,
}

impl Engine {
    /// The bucket it runs.
    pub(crate) fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// Runs until somebody wants it to stop, then stops.
    pub(crate) async fn run(self) {
        let work = self.begin_work();
        let tree = Arc::clone(&self.running.tree);
        let watch = Beside::start("watch", &self.environment, move || {
            Arc::clone(&tree).watch()
        });
        let mut ending = Ending::of(Arc::clone(&self.running));
        let wanted = self.running.stop.wanted().await;
        drop(work);
        let began = self.environment.clock.monotonic();
        let ended = match wanted {
            Wanted::Shutdown => guarded(self.shut_down(began)).await,
            Wanted::Abandon => guarded(self.abandon()).await,
        };
        let mut report = match ended {
            Ok(report) => report,
            Err(text) => self.break_off(text).await,
        };
        drop(watch);
        report.took = self.since(began);
        ending.report = report;
    }

    /// The end itself panicked: what can still be ended is.
    async fn break_off(&self, text: String) -> ShutdownReport {
        let cause = FailureCause::Panic(text);
        let failed = format!("the engine {cause}");
        self.environment.failures.report(FailureReport {
            child: ChildName::new("engine"),
            generation: Generation::default(),
            vbucket: None,
            kind: FailureKind::ChildPanicked,
            cause,
            next: NextStep::OutOfService,
        });
        let abandoned = guarded(self.abandon()).await;
        let mut report = abandoned.unwrap_or_else(|_| ShutdownReport::default());
        report.failed = Some(failed);
        report
    }

    /// What goes on beside the children until the end begins.
    fn begin_work(&self) -> Vec<Beside> {
        let running = Arc::clone(&self.running);
        let repair = move || repair_suspects(Arc::clone(&running));
        let running = Arc::clone(&self.running);
        let erase = move || collections::erase_ended(Arc::clone(&running));
        let mut work = vec![
            Beside::start(background::REPAIR, &self.environment, repair),
            Beside::start("erasing", &self.environment, erase),
        ];
        if let Some(every) = self.metrics_every {
            let running = Arc::clone(&self.running);
            let publish = move || publish_every(every, Arc::clone(&running));
            work.push(Beside::start("figures", &self.environment, publish));
        }
        work
    }

    async fn shut_down(&self, began: Duration) -> ShutdownReport {
        let mut report = ShutdownReport::default();
        for (_, core) in self.running.table.cores() {
            core.close_gate();
        }
        // A panic of a moment ago that nobody repaired yet: what is suspect is not flushed.
        self.running.table.repair();
        self.running.replicating.to_give_back.look();
        self.running.warmup.stop();
        self.running.compactor.stop();
        for flusher in &self.flushers {
            let within = self.left(began);
            let answer = flusher.send(StopFlushing { within });
            match timeout(within.saturating_add(ANSWER_TIME), answer).await {
                Ok(Ok(Ok(flushed))) => report.unpersisted.extend(flushed.unpersisted),
                Ok(Ok(Err(error))) => report.fail(&error),
                Ok(Err(error)) => report.fail(&error),
                Err(_) => report.stuck.push("a flusher".to_owned()),
            }
        }
        self.stop_workers(self.left(began), &mut report).await;
        let is_clean = report.is_clean();
        let mark = |positions: &[VbucketStatus]| {
            if is_clean {
                CleanMark::write(&*self.disk, positions)
            } else {
                Ok(())
            }
        };
        match self.close_store(self.left(began), mark).await {
            Some(Ok(())) => {}
            Some(Err(error)) => report.fail(&error),
            None => report.stuck.push("somebody who uses the store".to_owned()),
        }
        report
    }

    /// Closes the store once nobody uses it any more: a backup or a read of the past may be in the middle of a step, and gives
    /// it back behind that. `None` where that takes too long.
    async fn close_store(
        &self,
        within: Duration,
        mark: impl Fn(&[VbucketStatus]) -> Result<(), StorageError>,
    ) -> Option<Result<(), StorageError>> {
        let given_back = Arc::new(Notify::new());
        let told = Arc::clone(&given_back);
        let store = &self.running.store;
        store.watch(WakeWorker::new(move || told.notify_one()));
        let closing = async {
            loop {
                if let Some(closed) = store.close(&mark) {
                    break closed;
                }
                given_back.notified().await;
            }
        };
        timeout(within, closing).await.ok()
    }

    /// Nobody holds the bucket any more: ends it without waiting for what is not on disk.
    async fn abandon(&self) -> ShutdownReport {
        for (_, core) in self.running.table.cores() {
            core.close_gate();
        }
        self.running.warmup.stop();
        self.running.compactor.stop();
        let mut report = ShutdownReport::default();
        self.stop_workers(self.deadline, &mut report).await;
        report
    }

    async fn stop_workers(&self, within: Duration, report: &mut ShutdownReport) {
        // What is read holds the store.
        self.running.streaming.stop();
        self.running.replicating.stop();
        match timeout(within, self.running.tree.shutdown()).await {
            Ok(stopped) => report
                .stuck
                .extend(stopped.children.into_iter().filter_map(stuck)),
            Err(_) => report.stuck.push("the supervision tree".to_owned()),
        }
        self.executor.stop();
        if timeout(within, self.executor.all_ended()).await.is_err() {
            let running = self.executor.running();
            report.stuck.extend(running.iter().map(ToString::to_string));
        }
    }

    fn since(&self, began: Duration) -> Duration {
        self.environment.clock.monotonic().saturating_sub(began)
    }

    fn left(&self, began: Duration) -> Duration {
        self.deadline.saturating_sub(self.since(began))
    }
}

/// Tells whoever waits for the end of the engine, wherever and however it ends.
struct Ending {
    running: Arc<Running>,
    report: ShutdownReport,
}

impl Ending {
    fn of(running: Arc<Running>) -> Ending {
        let mut report = ShutdownReport::default();
        report.fail(&"the engine ended on the way");
        Ending { running, report }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let running = &self.running;
        // The process it stands for was ended in a test.
        if running.stop.is_over() {
            return;
        }
        let steps: [&dyn Fn(); 5] = [
            &|| running.table.close(),
            &|| running.streaming.readers().stop(),
            &|| running.compactor.close(),
            // Whoever waits for the end may open the directory anew.
            &|| running.store.abandon(),
            &|| running.stop.over(&self.report),
        ];
        for step in steps {
            if let Err(panic) = caught(step) {
                tracing::error!(panic, "the end of the engine panicked");
            }
        }
    }
}

/// Hands the figures to the recorder of the `metrics` crate now and then.
async fn publish_every(every: Duration, running: Arc<Running>) {
    loop {
        sleep(every).await;
        running.statistics_of_memory().publish();
    }
}

/// Repairs what panics leave behind, whenever it is told of some. Told again where it panics itself.
async fn repair_suspects(running: Arc<Running>) {
    loop {
        running.table.suspects.notified().await;
        let unfinished = Unfinished::of(&running.table);
        running.table.repair();
        running.replicating.to_give_back.look();
        // Whoever panicked may have been on the way from one vbucket to the next with a new manifest.
        running.collections.catch_up().await;
        unfinished.end();
    }
}

/// A child that did not stop in order.
fn stuck((child, how): (ChildName, StopOutcome)) -> Option<String> {
    match how {
        StopOutcome::Stopped | StopOutcome::NotStarted => None,
        StopOutcome::DeadlineMissed(_) | StopOutcome::Lost => Some(child.to_string()),
    }
}

#[cfg(test)]
mod tests;
