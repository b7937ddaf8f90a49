//! One client of the bench: a thread that makes one request after the other and measures each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use piggin::Bucket;
use piggin::messages::{Busy, OperationError, ScanError, ScanRange};

use super::Durability;
use super::workload::{Action, RANGE_MAX, Values, Workload, key, scattered};
use super::zipfian::Zipfian;
use crate::backoff::patiently;
use crate::interrupt::Interrupt;
use crate::stopwatch::Stopwatch;

/// What all clients of a run share.
#[derive(Debug)]
pub(super) struct Plan {
    workload: Workload,
    durability: Durability,
    zipfian: Zipfian,
    /// Documents there were at the start.
    loaded: u64,
    inserts: Inserts,
    stopwatch: Stopwatch,
    time: Duration,
    interrupt: Interrupt,
}

impl Plan {
    pub(super) fn new(
        workload: Workload,
        loaded: u64,
        durability: Durability,
        time: Duration,
        interrupt: Interrupt,
    ) -> Plan {
        Plan {
            workload,
            durability,
            zipfian: Zipfian::new(loaded),
            loaded,
            inserts: Inserts::new(loaded),
            stopwatch: Stopwatch::start(),
            time,
            interrupt,
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.stopwatch.elapsed()
    }

    fn key(&self, random: &mut fastrand::Rng) -> String {
        let rank = self.zipfian.next(random);
        let number = if self.workload.reads_the_latest() {
            let newest = self.inserts.answered.load(Ordering::Relaxed);
            newest.saturating_sub(1).saturating_sub(rank)
        } else {
            scattered(rank) % self.loaded
        };
        key(number)
    }
}

/// Numbers of the documents inserted: only what was answered, without a gap, counts as there.
#[derive(Debug)]
struct Inserts {
    next: AtomicU64,
    /// All below were answered.
    answered: AtomicU64,
    /// Answered beyond a gap.
    beyond: Mutex<BTreeSet<u64>>,
}

impl Inserts {
    fn new(loaded: u64) -> Inserts {
        Inserts {
            next: AtomicU64::new(loaded),
            answered: AtomicU64::new(loaded),
            beyond: Mutex::new(BTreeSet::new()),
        }
    }

    fn begin(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn answer(&self, number: u64) {
        let mut beyond = self.beyond.lock();
        beyond.insert(number);
        while beyond.remove(&self.answered.load(Ordering::Relaxed)) {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the clients found.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Nanoseconds of each kind of action.
    pub(super) latencies: BTreeMap<Action, Histogram<u64>>,
    /// Reads of a document that was not there.
    pub(super) missing: u64,
    /// Read-modify-writes begun anew, because another client was faster.
    pub(super) conflicts: u64,
}

impl Measured {
    pub(super) fn add(&mut self, other: &Measured) {
        for (action, latencies) in &other.latencies {
            let sum = self.latencies.entry(*action).or_insert_with(histogram);
            // All of one shape, so nothing is out of range.
            sum.add(latencies).ok();
        }
        self.missing = self.missing.saturating_add(other.missing);
        self.conflicts = self.conflicts.saturating_add(other.conflicts);
    }
}

/// Whatever breaks a scan off but the bucket's own word is told on its failure bus, and ends the bench there.
fn not_scanned(error: ScanError) -> OperationError {
    if let ScanError::Operation(error) = error {
        return error;
    }
    OperationError::TemporaryFailure(Busy::Restarting)
}

/// Up to a minute; longer is counted as a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

fn histogram() -> Histogram<u64> {
    // Three digits, and bounds that are always accepted; the other shape grows as needed.
    Histogram::new_with_max(LATENCY_NS_MAX, 3).unwrap_or_else(|_| unbounded())
}

#[expect(clippy::expect_used, reason = "three digits are always accepted")]
fn unbounded() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}

pub(super) struct Client {
    pub(super) bucket: Bucket,
    pub(super) plan: std::sync::Arc<Plan>,
    pub(super) values: std::sync::Arc<Values>,
    pub(super) random: fastrand::Rng,
}

impl Client {
    pub(super) async fn run(mut self) -> Result<Measured, OperationError> {
        let mut measured = Measured::default();
        while self.plan.elapsed() < self.plan.time && !self.plan.interrupt.is_asked() {
            let action = self.plan.workload.next(&mut self.random);
            let stopwatch = Stopwatch::start();
            self.act(action, &mut measured).await?;
            let latency = stopwatch.elapsed().as_nanos();
            let latency = u64::try_from(latency).unwrap_or(u64::MAX);
            let latencies = measured.latencies.entry(action).or_insert_with(histogram);
            latencies.saturating_record(latency);
        }
        Ok(measured)
    }

    async fn act(&mut self, action: Action, measured: &mut Measured) -> Result<(), OperationError> {
        match action {
            Action::Read => {
                let key = self.plan.key(&mut self.random);
                match self.bucket.get(&key).await {
                    Ok(found) => drop(found),
                    Err(OperationError::KeyNotFound) => {
                        measured.missing = measured.missing.saturating_add(1);
                    }
                    Err(error) => return Err(error),
                }
                Ok(())
            }
            Action::Update => {
                let key = self.plan.key(&mut self.random);
                self.write(&key).await
            }
            Action::Insert => {
                let number = self.plan.inserts.begin();
                self.write(&key(number)).await?;
                self.plan.inserts.answer(number);
                Ok(())
            }
            Action::ReadModifyWrite => self.read_modify_write(measured).await,
            Action::Scan => self.scan().await,
        }
    }

    /// Documents of a range that are on disk: YCSB asks for no others.
    async fn scan(&mut self) -> Result<(), OperationError> {
        let range = ScanRange::from(self.plan.key(&mut self.random));
        let most = self.random.u64(1..=RANGE_MAX);
        let scan = self.bucket.scan(range).limit(most).on_disk().open();
        let mut scan = scan.map_err(not_scanned)?;
        while let Some(scanned) = scan.next().await.map_err(not_scanned)? {
            drop(scanned);
        }
        Ok(())
    }

    async fn write(&mut self, key: &str) -> Result<(), OperationError> {
        let value = self.values.next(&mut self.random);
        let written = patiently(&self.plan.interrupt, async || {
            let request = self.bucket.set(key, value.clone());
            match self.plan.durability {
                Durability::Memory => request.await,
                Durability::Persisted => request.persisted().await,
            }
        });
        written.await.map(drop)
    }

    /// Until the version read is the version replaced.
    async fn read_modify_write(&mut self, measured: &mut Measured) -> Result<(), OperationError> {
        let key = self.plan.key(&mut self.random);
        loop {
            let found = self.bucket.get(&key).await?;
            let mut value = found.value.to_vec();
            if let Some(byte) = value.first_mut() {
                *byte = byte.wrapping_add(1);
            }
            let request = self.bucket.set(&key, value).cas(found.meta.cas);
            let written = match self.plan.durability {
                Durability::Memory => request.await,
                Durability::Persisted => request.persisted().await,
            };
            match written {
                Ok(_) => return Ok(()),
                Err(OperationError::CasMismatch { .. }) => {
                    measured.conflicts = measured.conflicts.saturating_add(1);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
