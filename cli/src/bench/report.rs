//! What a bench says: throughput, and latencies by percentile.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Durability;
use super::client::Measured;
use super::workload::{Action, Workload};
use crate::stopwatch::per_second;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) threads: u16,
    pub(super) documents: u64,
    pub(super) value_bytes: u32,
    pub(super) durability: Durability,
    pub(super) workloads: Vec<WorkloadReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct WorkloadReport {
    workload: &'static str,
    seconds: f64,
    operations: u64,
    operations_per_second: f64,
    /// Reads of a document that was not there: none, unless documents get lost.
    missing: u64,
    /// Read-modify-writes begun anew.
    conflicts: u64,
    /// By kind of operation.
    latencies_us: BTreeMap<&'static str, Latencies>,
}

/// Microseconds.
#[derive(Debug, Serialize)]
struct Latencies {
    count: u64,
    p50: f64,
    p95: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p99_9: f64,
    max: f64,
}

impl WorkloadReport {
    pub(super) fn new(workload: Workload, time: Duration, measured: &Measured) -> WorkloadReport {
        let seconds = time.as_secs_f64();
        let counts = measured.latencies.values().map(Histogram::len);
        let operations = counts.fold(0, u64::saturating_add);
        let latencies = measured.latencies.iter();
        WorkloadReport {
            workload: workload.name(),
            seconds,
            operations,
            operations_per_second: per_second(operations, seconds),
            missing: measured.missing,
            conflicts: measured.conflicts,
            latencies_us: latencies
                .map(|(action, latencies)| (Action::name(*action), Latencies::of(latencies)))
                .collect(),
        }
    }
}

impl Latencies {
    fn of(nanoseconds: &Histogram<u64>) -> Latencies {
        let at = |quantile| microseconds(nanoseconds.value_at_quantile(quantile));
        Latencies {
            count: nanoseconds.len(),
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: microseconds(nanoseconds.max()),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a minute in nanoseconds is far below 2^53"
)]
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            threads,
            documents,
            value_bytes,
            durability,
            workloads,
        } = self;
        let durability = match durability {
            Durability::Memory => "in memory",
            Durability::Persisted => "on disk",
        };
        writeln!(
            f,
            "{documents} documents of {value_bytes} bytes, {threads} threads, writes answered once {durability}"
        )?;
        write!(
            f,
            "\n{:<10} {:<18} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "workload",
            "operation",
            "per second",
            "p50 us",
            "p95 us",
            "p99 us",
            "p99.9 us",
            "max us"
        )?;
        workloads.iter().try_for_each(|workload| workload.fmt(f))
    }
}

impl fmt::Display for WorkloadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.workload.to_uppercase();
        let rate = self.operations_per_second;
        write!(f, "\n{name:<10} {:<18} {rate:>12.0}", "all")?;
        for (operation, latencies) in &self.latencies_us {
            let Latencies {
                count,
                p50,
                p95,
                p99,
                p99_9,
                max,
            } = latencies;
            let rate = per_second(*count, self.seconds);
            write!(
                f,
                "\n{:<10} {operation:<18} {rate:>12.0} {p50:>10.1} {p95:>10.1} {p99:>10.1} {p99_9:>10.1} {max:>10.1}",
                ""
            )?;
        }
        if self.missing > 0 {
            let missing = self.missing;
            write!(f, "\n{:<10} {missing} reads found no document", "")?;
        }
        if self.conflicts > 0 {
            let conflicts = self.conflicts;
            write!(
                f,
                "\n{:<10} {conflicts} read-modify-writes were begun anew",
                ""
            )?;
        }
        Ok(())
    }
}
