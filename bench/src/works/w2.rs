//! W2: a load in batches that are not synced, then one sync. What it leaves is what W3 and W4 read.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Bench;
use crate::raw::bytes_on_disk;
use crate::results::{Figure, Raw, Sample};
use crate::statistics::{Percentiles, ProcessorTime, nanoseconds};
use crate::stores::{Column, Durability, Store};
use crate::workload::{Workload, log_bytes};

const BATCH: u64 = 1024;
pub(super) const VALUE_LENGTH: usize = 256;
const RAW_WRITE: usize = 1 << 20;

/// A store that holds the whole workload.
pub(crate) struct Loaded {
    pub(crate) column: Column,
    pub(crate) directory: PathBuf,
    pub(crate) store: Box<dyn Store>,
    pub(crate) workload: Workload,
}

/// Loads, measured, and settles, not measured.
pub(crate) fn run(bench: &mut Bench, column: Column) -> Loaded {
    let documents = bench.scale.documents;
    let mut workload = Workload::new(bench.vbuckets, VALUE_LENGTH, documents);
    let raw = bench.raw.durable_write(RAW_WRITE);
    let mutations_per_raw_write = RAW_WRITE as f64 / log_bytes(VALUE_LENGTH, 1) as f64;
    let directory = bench.fresh_directory(column);
    let store = bench.open(column, &directory);
    let mut latencies = Vec::new();
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    load(&*store, &mut workload, |took| {
        latencies.push(nanoseconds(took))
    });
    let elapsed = begin.elapsed().as_secs_f64();
    let processor = ProcessorTime::since(processor);
    let settling = Instant::now();
    store.settle();
    eprintln!("  settled in {:.2} s", settling.elapsed().as_secs_f64());
    let sample = Sample {
        amount: documents as f64 / elapsed,
        operations: documents,
        latency: Percentiles::of(&mut latencies),
        bytes_on_disk: Some(bytes_on_disk(&directory)),
        processor,
        raw: Some(Raw {
            p50_us: Some(raw.p50_us),
            amount: Some(raw.per_second * mutations_per_raw_write),
            files_p50_us: None,
        }),
    };
    bench.results.add(Figure::Load, column, sample);
    Loaded {
        column,
        directory,
        store,
        workload,
    }
}

/// Writes every document and makes them durable; tells how long each batch took.
pub(crate) fn load(store: &dyn Store, workload: &mut Workload, mut told: impl FnMut(Duration)) {
    let documents = workload.documents();
    for first in (0..documents).step_by(BATCH as usize) {
        let commit = Instant::now();
        let last = documents.min(first + BATCH);
        store.write(workload.batch(first..last), Durability::Buffered);
        told(commit.elapsed());
    }
    store.sync();
}
