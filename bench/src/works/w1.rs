//! W1: durable batches over all vbuckets, unique keys, one writer.
//!
//! Making the batch and the store's own form of it is part of the time, for every store. A measurement ends after
//! its time, or when the documents run out.

use std::time::{Duration, Instant};

use super::{Bench, remove};
use crate::raw::bytes_on_disk;
use crate::results::{Figure, Raw, Sample};
use crate::statistics::{Percentiles, ProcessorTime, nanoseconds};
use crate::stores::{Column, Durability};
use crate::workload::{Workload, log_bytes};

const BATCHES: [usize; 3] = [1, 64, 1024];
const VALUE_LENGTHS: [usize; 2] = [256, 4096];
const DOCUMENTS_MAX: u64 = 4_000_000;

/// Measures every shape for every column.
pub(crate) fn run(bench: &mut Bench, round: usize) {
    for value_length in VALUE_LENGTHS {
        for batch in BATCHES {
            let figure = Figure::Commit {
                value_length,
                batch,
            };
            for column in bench.columns_of_round(round) {
                let sample = commits(bench, column, value_length, batch);
                bench.results.add(figure, column, sample);
            }
        }
    }
    // A batch as large as the vbuckets are many has one mutation for each: they come round robin.
    let batch = usize::from(bench.vbuckets);
    let files = bench
        .raw
        .two_syncs_per_vbucket_file(bench.vbuckets, Duration::from_secs(1));
    for column in bench.columns_of_round(round) {
        let mut sample = commits(bench, column, 256, batch);
        if let Some(raw) = &mut sample.raw {
            raw.files_p50_us = Some(files.p50);
        }
        bench
            .results
            .add(Figure::CommitToEveryVbucket, column, sample);
    }
}

/// A measurement with a quiet disk before and after.
pub(crate) fn commits(
    bench: &mut Bench,
    column: Column,
    value_length: usize,
    batch: usize,
) -> Sample {
    let mut attempt = 1;
    loop {
        let sample = commits_once(bench, column, value_length, batch);
        if bench.raw.is_quiet() || !bench.raw.try_again(attempt) {
            return sample;
        }
        attempt += 1;
    }
}

fn commits_once(bench: &mut Bench, column: Column, value_length: usize, batch: usize) -> Sample {
    let mut workload = Workload::new(bench.vbuckets, value_length, DOCUMENTS_MAX);
    let batch = batch as u64;
    let raw = bench
        .raw
        .durable_write(log_bytes(value_length, batch) as usize);
    let directory = bench.fresh_directory(column);
    let store = bench.open(column, &directory);
    let mut latencies = Vec::new();
    let mut written = 0;
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    while begin.elapsed() < bench.scale.commit_duration && written + batch <= DOCUMENTS_MAX {
        let commit = Instant::now();
        store.write(workload.batch(written..written + batch), Durability::Synced);
        latencies.push(nanoseconds(commit.elapsed()));
        written += batch;
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let processor = ProcessorTime::since(processor);
    let bytes_on_disk = bytes_on_disk(&directory);
    store.close();
    remove(&directory);
    Sample {
        amount: written as f64 / elapsed,
        operations: written,
        latency: Percentiles::of(&mut latencies),
        bytes_on_disk: Some(bytes_on_disk),
        processor,
        raw: Some(Raw {
            p50_us: Some(raw.p50_us),
            amount: Some(raw.per_second * batch as f64),
            files_p50_us: None,
        }),
    }
}
