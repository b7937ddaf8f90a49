//! The end of a bucket, in order or not, and what it came to (rule R22).
//!
//! Order: close every vbucket's gate; end compactions at their next step; write what is in memory; end the workers; close
//! the store; the mark of a clean shutdown last. Invariant: the mark is written only when all of that was done; whoever waits for a vbucket or for the
//! shutdown is answered whatever happens.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use tokio::time::{sleep, timeout};

use actors::environment::Environment;
use actors::executor::StopWorkers;
use actors::flusher::FlusherCore;
use actors::shell::Shell;
use actors::warmup::CleanMark;
use messages::ChildName;
use messages::flusher::{StopFlushing, Unpersisted};
use storage::VbucketStatus;
use storage::disk::Disk;

use crate::collections;
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
        let repair = Beside(actix::spawn(repair_suspects(Arc::clone(&self.running))));
        let erase = Beside(actix::spawn(collections::erase_ended(Arc::clone(
            &self.running,
        ))));
        let watch = Beside(actix::spawn(Arc::clone(&self.running.tree).watch()));
        let publish = |every| {
            Beside(actix::spawn(publish_every(
                every,
                Arc::clone(&self.running),
            )))
        };
        let publisher = self.metrics_every.map(publish);
        let wanted = self.running.stop.wanted().await;
        drop((repair, erase, publisher));
        let began = self.environment.clock.monotonic();
        let mut report = match wanted {
            Wanted::Shutdown => self.shut_down(began).await,
            Wanted::Abandon => self.abandon().await,
        };
        drop(watch);
        self.running.table.close();
        self.running.compactor.close();
        // Whoever waits for the end may open the directory anew.
        self.running.store.abandon();
        report.took = self.since(began);
        self.running.stop.over(&report);
    }

    async fn shut_down(&self, began: Duration) -> ShutdownReport {
        let mut report = ShutdownReport::default();
        for (_, core) in self.running.table.cores() {
            core.close_gate();
            // A panic of a moment ago that nobody repaired yet: what is suspect is not flushed.
            if core.is_suspect() {
                core.reconcile();
            }
        }
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
        match self.running.store.close(mark) {
            Some(Ok(())) => {}
            Some(Err(error)) => report.fail(&error),
            None => report.stuck.push("somebody who uses the store".to_owned()),
        }
        report
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

/// Runs beside the engine, and ends with it wherever that ends.
struct Beside(tokio::task::JoinHandle<()>);

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Hands the figures to the recorder of the `metrics` crate now and then.
async fn publish_every(every: Duration, running: Arc<Running>) {
    loop {
        sleep(every).await;
        running.statistics().publish();
    }
}

/// Repairs vbuckets that a panic left half changed; the caller who panicked is told by its own panic.
async fn repair_suspects(running: Arc<Running>) {
    loop {
        running.table.suspects.notified().await;
        for (id, core) in running.table.cores() {
            if core.is_suspect() {
                tracing::warn!(vbucket = %id, "repairing what a panic left half done");
                core.reconcile();
            }
        }
        // Whoever panicked may have been on the way from one vbucket to the next with a new manifest.
        running.collections.catch_up();
    }
}

/// A child that did not stop in order.
fn stuck((child, how): (ChildName, StopOutcome)) -> Option<String> {
    match how {
        StopOutcome::Stopped | StopOutcome::NotStarted => None,
        StopOutcome::DeadlineMissed(_) | StopOutcome::Lost => Some(child.to_string()),
    }
}
