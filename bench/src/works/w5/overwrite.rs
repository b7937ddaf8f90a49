//! W5's overwrites, what they write and leave on disk, and the major compaction behind them.
//!
//! Which documents are overwritten is drawn before, the same for every store; no document comes twice in a batch, for
//! neither would it from an engine.

use std::path::Path;
use std::time::Instant;

use super::disk::DiskWatch;
use super::{Samples, number, reading};
use crate::raw::{DurableWrite, bytes_on_disk, bytes_written};
use crate::results::{Figure, Raw, Sample};
use crate::statistics::{Percentiles, ProcessorTime, nanoseconds};
use crate::stores::{Background, Column, Durability, Piggin, Store};
use crate::workload::{Random, Workload, log_bytes};
use crate::works::w2::{self, VALUE_LENGTH};
use crate::works::{Bench, remove, w3};

pub(super) const BATCH: usize = 256;
/// Batches of a turn: 50,176 mutations.
const TURN: usize = 196;

/// Ours and its twin; then what compacting costs those who read.
pub(super) fn ours(bench: &mut Bench, round: usize) -> Samples {
    let directory = bench.fresh_directory(Column::PIGGIN);
    let twins_directory = bench.fresh_directory_named("piggin-twin");
    let store = Piggin::open(&directory, bench.vbuckets, Background::Running);
    let twin = Piggin::open(&twins_directory, bench.vbuckets, Background::SealingOnly);
    let documents = draw(bench.scale.overwrites, bench.scale.documents, round);
    let mut one = Overwriting::loaded(bench, &store);
    let mut other = Overwriting::loaded(bench, &twin);
    let raw = bench.raw.durable_write(raw_length());
    let watch = DiskWatch::start(&directory);
    for turn in documents.chunks(TURN * BATCH) {
        one.turn(|one| one.overwrite(turn));
        other.turn(|other| other.overwrite(turn));
    }
    one.turn(|one| one.store.sync());
    let twins = other.sample(raw, &twins_directory);
    drop(other);
    Box::new(twin).close();
    remove(&twins_directory);
    let mut samples = vec![(Figure::OverwriteUnmerged, Column::PIGGIN, twins)];
    samples.extend(one.figures(bench, Column::PIGGIN, raw, &directory, watch));
    let mut workload = one.workload;
    samples.extend(reading::run(bench, &store, &mut workload));
    Box::new(store).close();
    remove(&directory);
    samples
}

/// A peer, by itself.
pub(super) fn peer(bench: &mut Bench, column: Column, round: usize) -> Samples {
    let directory = bench.fresh_directory(column);
    let store = bench.open(column, &directory);
    let documents = draw(bench.scale.overwrites, bench.scale.documents, round);
    let mut one = Overwriting::loaded(bench, &*store);
    let raw = bench.raw.durable_write(raw_length());
    let watch = DiskWatch::start(&directory);
    one.turn(|one| {
        one.overwrite(&documents);
        one.store.sync();
    });
    let samples = one.figures(bench, column, raw, &directory, watch);
    drop(one);
    store.close();
    remove(&directory);
    samples
}

fn raw_length() -> usize {
    log_bytes(VALUE_LENGTH, BATCH as u64) as usize
}

/// Random documents, different ones within a batch.
fn draw(overwrites: u64, documents: u64, round: usize) -> Vec<u32> {
    let mut random = Random(round as u64 + 50);
    let mut drawn = Vec::with_capacity(overwrites as usize);
    // By document: one more than the batch it was drawn for last.
    let mut last = vec![0; documents as usize];
    while drawn.len() < overwrites as usize {
        let document = (random.next() % documents) as u32;
        let batch = drawn.len() / BATCH + 1;
        if std::mem::replace(&mut last[document as usize], batch) != batch {
            drawn.push(document);
        }
    }
    drawn
}

/// A loaded store being overwritten. Only in its turns its background work goes on, and its time and bytes count.
struct Overwriting<'a> {
    store: &'a dyn Store,
    workload: Workload,
    latencies: Vec<u64>,
    mutations: u64,
    seconds: f64,
    processor: ProcessorTime,
    written: Option<u64>,
}

impl<'a> Overwriting<'a> {
    fn loaded(bench: &Bench, store: &'a dyn Store) -> Overwriting<'a> {
        let mut workload = Workload::new(bench.vbuckets, VALUE_LENGTH, bench.scale.documents);
        w2::load(store, &mut workload, |_| {});
        store.settle();
        store.hold();
        Overwriting {
            store,
            workload,
            latencies: Vec::new(),
            mutations: 0,
            seconds: 0.0,
            processor: ProcessorTime::default(),
            written: Some(0),
        }
    }

    fn turn(&mut self, work: impl FnOnce(&mut Self)) {
        let before = bytes_written();
        let processor = ProcessorTime::now();
        self.store.release();
        work(self);
        self.store.hold();
        self.processor.add(ProcessorTime::since(processor));
        let counted = self.written.zip(before).zip(bytes_written());
        self.written = counted.map(|((sum, before), after)| sum + (after - before));
    }

    fn overwrite(&mut self, documents: &[u32]) {
        let begin = Instant::now();
        for documents in documents.chunks(BATCH) {
            let commit = Instant::now();
            let documents = documents.iter().map(|&document| u64::from(document));
            self.store
                .write(self.workload.batch(documents), Durability::Synced);
            self.latencies.push(nanoseconds(commit.elapsed()));
        }
        self.seconds += begin.elapsed().as_secs_f64();
        self.mutations += documents.len() as u64;
    }

    /// Of the overwrites so far.
    fn sample(&mut self, raw: DurableWrite, directory: &Path) -> Sample {
        Sample {
            amount: self.mutations as f64 / self.seconds,
            operations: self.mutations,
            latency: Percentiles::of(&mut self.latencies),
            bytes_on_disk: Some(bytes_on_disk(directory)),
            processor: self.processor,
            raw: Some(Raw {
                p50_us: Some(raw.p50_us),
                amount: Some(raw.per_second * BATCH as f64),
                files_p50_us: None,
            }),
        }
    }

    /// Everything of the overwrites, which are synced, and then of the major compaction.
    fn figures(
        &mut self,
        bench: &Bench,
        column: Column,
        raw: DurableWrite,
        directory: &Path,
        watch: DiskWatch,
    ) -> Samples {
        let mut samples = vec![(Figure::Overwrite, self.sample(raw, directory))];
        samples.extend(self.amplification(false));
        self.turn(|one| one.store.settle());
        samples.extend(self.amplification(true));
        samples.extend(self.space(directory, watch));
        w3::check(bench, self.store, &self.workload);
        let of_column = |(figure, sample)| (figure, column, sample);
        samples.into_iter().map(of_column).collect()
    }

    /// Nothing where the system does not count.
    fn amplification(&self, is_settled: bool) -> Option<(Figure, Sample)> {
        let written = self.written?;
        let overwritten = self.mutations * self.workload.user_bytes_each();
        let amount = written as f64 / overwritten as f64;
        let figure = Figure::WriteAmplification { is_settled };
        Some((figure, number(amount, None)))
    }

    fn space(&mut self, directory: &Path, watch: DiskWatch) -> [(Figure, Sample); 3] {
        self.store.release();
        let live = self.workload.documents() * self.workload.user_bytes_each();
        let compaction = major_compaction(self.store, live);
        self.store.settle();
        let (peak, compacted) = (watch.stop(), bytes_on_disk(directory));
        let space = |bytes: u64| number(bytes as f64 / live as f64, Some(bytes));
        [
            (Figure::MajorCompaction, compaction),
            (Figure::SpacePeak, space(peak)),
            (Figure::SpaceCompacted, space(compacted)),
        ]
    }
}

fn major_compaction(store: &dyn Store, live: u64) -> Sample {
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    store.compact();
    let seconds = begin.elapsed().as_secs_f64();
    Sample {
        processor: ProcessorTime::since(processor),
        ..number(live as f64 / seconds / 1e6, None)
    }
}
