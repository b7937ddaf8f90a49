//! `piggin bench`: the YCSB workloads on a bucket of their own, made for the run and removed after it.
//!
//! Invariant: nothing of the bucket in `--data` is touched; what is timed is what a program that embeds the bucket
//! would do, from so many threads, each waiting for its own answers.

mod workload;
mod zipfian;
mod client;
mod report;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures_executor::block_on;

use piggin::Bucket;
use piggin::messages::{FailureId, OperationError};

use crate::backoff::patiently;
use crate::disk_watch::durably;
use crate::failure::{CliError, Exit};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::progress::Progress;
use crate::session::{Missing, Session};
use client::{Client, Measured, Plan};
use report::{Report, WorkloadReport};
use workload::{Values, Workload};

#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// The workloads of YCSB, one after the other, each on a bucket loaded anew.
    #[arg(long, value_enum, ignore_case = true, value_delimiter = ',', default_values = ["a", "b", "c", "d", "f"])]
    workload: Vec<Workload>,
    /// Documents loaded before the clock starts.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    documents: u64,
    /// Bytes of a value.
    #[arg(long, value_name = "BYTES", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20 << 20))]
    value_size: u32,
    /// Threads, each with one request at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Seconds each workload runs.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// When a write is answered.
    #[arg(long, value_enum, default_value_t = Durability::Memory)]
    durability: Durability,
    /// Randomness of the run.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// Once it is in memory.
    Memory,
    /// Once it is on disk.
    Persisted,
}

/// The directory below `--data` that the run makes and removes.
const OWN_DIRECTORY: &str = "bench";

pub(crate) fn run(
    session: &Session,
    arguments: &BenchArguments,
    output: Output,
) -> Result<Exit, CliError> {
    let own = OwnDirectory::make(session)?;
    let interrupt = Interrupt::listen();
    let mut workloads = Vec::new();
    for workload in &arguments.workload {
        workloads.push(own.run(*workload, arguments, &interrupt)?);
    }
    output.answer(&Report {
        threads: arguments.threads,
        documents: arguments.documents,
        value_bytes: arguments.value_size,
        durability: arguments.durability,
        workloads,
    })?;
    Ok(Exit::Done)
}

/// A directory that is gone when this is dropped, and the one above it if that was made for it.
struct OwnDirectory {
    above: Session,
    is_above_made: bool,
}

impl OwnDirectory {
    fn make(session: &Session) -> Result<OwnDirectory, CliError> {
        let above = session.directory();
        let is_above_made = !above.exists();
        let own = above.join(OWN_DIRECTORY);
        std::fs::create_dir_all(above).map_err(|error| CliError::file(above, &error))?;
        match std::fs::create_dir(&own) {
            Ok(()) => Ok(OwnDirectory {
                above: session.clone(),
                is_above_made,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let own = own.display();
                Err(CliError::mistake(
                    format!("{own} exists: another bench runs, or one was killed"),
                    format!("wait for it, or remove {own}"),
                ))
            }
            Err(error) => Err(CliError::file(&own, &error)),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.above.directory().join(OWN_DIRECTORY)
    }

    /// Loads a bucket, times one workload on it, removes it.
    fn run(
        &self,
        workload: Workload,
        arguments: &BenchArguments,
        interrupt: &Interrupt,
    ) -> Result<WorkloadReport, CliError> {
        let session = self.above.within(OWN_DIRECTORY).within(workload.name());
        let measured = session.with_bucket(Missing::IsCreated, async |bucket| {
            let run = Run {
                directory: session.directory(),
                arguments,
                interrupt,
                values: Arc::new(Values::new(arguments.value_size, arguments.seed)),
            };
            run.load(bucket).await?;
            run.time(bucket, workload)
        })?;
        let directory = session.directory();
        std::fs::remove_dir_all(directory).map_err(|error| CliError::file(directory, &error))?;
        Ok(measured)
    }
}

impl Drop for OwnDirectory {
    fn drop(&mut self) {
        // What cannot be removed is named by the next run.
        std::fs::remove_dir_all(self.path()).ok();
        if self.is_above_made {
            std::fs::remove_dir(self.above.directory()).ok();
        }
    }
}

/// One workload on one bucket.
struct Run<'a> {
    directory: &'a Path,
    arguments: &'a BenchArguments,
    interrupt: &'a Interrupt,
    values: Arc<Values>,
}

impl Run<'_> {
    async fn load(&self, bucket: &Bucket) -> Result<(), CliError> {
        let count = self.arguments.documents;
        let progress = Progress::of_steps(count, "loading");
        let mut random = fastrand::Rng::with_seed(self.arguments.seed);
        for number in 0..count {
            let key = workload::key(number);
            let value = self.values.next(&mut random);
            let written = patiently(self.interrupt, async || {
                bucket.set(&key, value.clone()).await
            });
            written.await.map_err(|error| self.failed(&error))?;
            if number % 1024 == 0 {
                self.check_interrupt()?;
                progress.at(number);
            }
        }
        let request = async || bucket.flush().await;
        durably(self.directory, bucket, self.interrupt, request).await
    }

    fn time(&self, bucket: &Bucket, workload: Workload) -> Result<WorkloadReport, CliError> {
        let progress = Progress::of_steps(u64::from(self.arguments.seconds), workload.title());
        let plan = Arc::new(Plan::new(
            workload,
            self.arguments.documents,
            self.arguments.durability,
            Duration::from_secs(self.arguments.seconds.into()),
            self.interrupt.clone(),
        ));
        let clients = (0..self.arguments.threads).map(|number| {
            let client = Client {
                bucket: bucket.clone(),
                plan: Arc::clone(&plan),
                values: Arc::clone(&self.values),
                random: fastrand::Rng::with_seed(self.arguments.seed ^ (u64::from(number) << 32)),
            };
            std::thread::spawn(move || block_on(client.run()))
        });
        let clients: Vec<_> = clients.collect();
        for second in 1..=self.arguments.seconds {
            self.interrupt.wait(Duration::from_secs(1));
            progress.at(second.into());
            // What waits for a disk that fails may wait for ever, and nothing it measures is worth that.
            let failure = bucket.failures(FailureId(0)).failures.pop();
            if let Some(failure) = failure {
                return Err(CliError::stuck(self.directory, &failure.cause));
            }
        }
        let mut sum = Measured::default();
        for client in clients {
            let Ok(measured) = client.join() else {
                return Err(CliError::failure(
                    "a client of the bench crashed",
                    "run it again",
                ));
            };
            sum.add(&measured.map_err(|error| self.failed(&error))?);
        }
        self.check_interrupt()?;
        Ok(WorkloadReport::new(workload, plan.elapsed(), &sum))
    }

    fn failed(&self, error: &OperationError) -> CliError {
        CliError::operation(self.directory, error)
    }

    fn check_interrupt(&self) -> Result<(), CliError> {
        if self.interrupt.is_asked() {
            return Err(CliError::failure("interrupted", "run it again"));
        }
        Ok(())
    }
}
