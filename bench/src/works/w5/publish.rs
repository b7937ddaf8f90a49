//! How long a commit waits for the publish of a compaction, of a small vbucket and of a large one.
//!
//! A commit that syncs takes as long as the disk, which would hide the wait. So commits of one document without a sync
//! follow each other with a short pause, and those count that were under way while the last step of the compaction
//! ran. Beside them stand durable commits over the whole compaction, and the publish by itself.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Samples, give_way, number};
use crate::raw::bytes_on_disk;
use crate::results::{Figure, Raw, Sample, VbucketSize, Whose};
use crate::statistics::{Percentiles, ProcessorTime, nanoseconds};
use crate::stores::{Background, Column, Durability, PUBLISH_STEPS, Piggin, Store};
use crate::workload::{Random, Workload, log_bytes};
use crate::works::w2::VALUE_LENGTH;
use crate::works::{Bench, remove, w3};

const LOAD_BATCH: u64 = 1024;
/// Of the documents, overwritten before each compaction: one in so many.
const OVERWRITTEN: u64 = 50;
/// Documents of the other vbucket.
const OTHERS: u64 = 1000;
/// Commits without a sync before one, which is not timed: it must never be the store that finds one due.
const COMMITS_PER_SYNC: usize = 2000;
/// Compactions for each one wanted, until a commit met the publish: a thread that waits for its turn may miss it.
const PATIENCE: usize = 4;
/// Between two of those commits: shorter than a publish, and long enough that they are not what the disk is busy with.
const PAUSE: Duration = Duration::from_micros(5);
/// The vbucket that is compacted.
const COMPACTED: u16 = 0;

/// Measures both sizes.
pub(super) fn run(bench: &mut Bench) -> Samples {
    let sizes = [VbucketSize::Small, VbucketSize::Large];
    let sizes = sizes.into_iter().zip(bench.scale.publish_bytes);
    sizes
        .flat_map(|(size, bytes)| of_size(bench, size, bytes))
        .collect()
}

fn of_size(bench: &mut Bench, size: VbucketSize, bytes: u64) -> Samples {
    let directory = bench.fresh_directory(Column::PIGGIN);
    let mut vbucket = Vbucket::loaded(directory, bytes);
    let raw = bench.raw.durable_write(log_bytes(VALUE_LENGTH, 1) as usize);
    let times = bench.scale.publishes;
    let mut samples = vec![(Figure::Publish { size }, vbucket.publish_alone(times))];
    for whose in [Whose::Same, Whose::Other] {
        let sample = vbucket.meet_publish(whose, times);
        let figure = Figure::MeetPublish { size, whose };
        samples.extend(sample.map(|sample| (figure, sample)));
    }
    let mut durable = vbucket.durable_commits(times);
    durable.raw = Some(Raw {
        p50_us: Some(raw.p50_us),
        amount: Some(raw.per_second),
        files_p50_us: None,
    });
    samples.push((Figure::CommitWhileCompacting { size }, durable));
    vbucket.close(bench);
    let of_ours = |(figure, sample)| (figure, Column::PIGGIN, sample);
    samples.into_iter().map(of_ours).collect()
}

/// A store of two vbuckets; even documents lie in the one that is compacted.
struct Vbucket {
    directory: PathBuf,
    store: Piggin,
    workload: Workload,
    documents: u64,
    random: Random,
}

/// From when to when.
#[derive(Clone, Copy)]
struct Span {
    begin: Instant,
    end: Instant,
}

impl Span {
    fn of(work: impl FnOnce()) -> Span {
        let begin = Instant::now();
        work();
        let end = Instant::now();
        Span { begin, end }
    }

    fn length(self) -> Duration {
        self.end - self.begin
    }

    fn meets(self, other: Span) -> bool {
        self.begin < other.end && other.begin < self.end
    }
}

impl Vbucket {
    fn loaded(directory: PathBuf, bytes: u64) -> Vbucket {
        // Nobody but this work compacts.
        let store = Piggin::open(&directory, 2, Background::SealingOnly);
        let each = Workload::new(2, VALUE_LENGTH, 0).user_bytes_each();
        let documents = (bytes / each).max(OTHERS);
        let mut workload = Workload::new(2, VALUE_LENGTH, 2 * documents);
        for first in (0..documents).step_by(LOAD_BATCH as usize) {
            let last = documents.min(first + LOAD_BATCH);
            let compacted = (first..last).map(|number| 2 * number);
            store.write(workload.batch(compacted), Durability::Buffered);
        }
        let others = (0..OTHERS).map(|number| 2 * number + 1);
        store.write(workload.batch(others), Durability::Buffered);
        Vbucket {
            directory,
            store,
            workload,
            documents,
            random: Random(90),
        }
    }

    fn overwrite_some(&mut self) {
        let mut left = self.documents / OVERWRITTEN;
        while left > 0 {
            let some = left.min(LOAD_BATCH);
            let first = self.random.next() % (self.documents - some + 1);
            let compacted = (first..first + some).map(|number| 2 * number);
            let batch = self.workload.batch(compacted);
            self.store.write(batch, Durability::Buffered);
            left -= some;
        }
        self.store.sync();
        self.store.settle();
    }

    fn publish_alone(&mut self, times: usize) -> Sample {
        let processor = ProcessorTime::now();
        let mut longest = Duration::ZERO;
        for _ in 0..times {
            self.overwrite_some();
            let publish = compacted(&self.store, || std::thread::sleep(Duration::from_millis(1)));
            longest = longest.max(publish.length());
        }
        Sample {
            processor: ProcessorTime::since(processor),
            ..number(longest.as_secs_f64() * 1e6, self.bytes_on_disk())
        }
    }

    /// Nothing when no commit was under way while one was published.
    fn meet_publish(&mut self, whose: Whose, times: usize) -> Option<Sample> {
        let processor = ProcessorTime::now();
        let mut all = Vec::new();
        let mut longest = None;
        let mut left = times;
        for _ in 0..times * PATIENCE {
            if left == 0 {
                break;
            }
            self.overwrite_some();
            let mut commits = Vec::new();
            let Vbucket {
                store,
                workload,
                documents,
                random,
                ..
            } = self;
            let publish = compacted(store, || {
                let document = document(random, *documents, whose);
                let batch = workload.batch([document]);
                commits.push(Span::of(|| store.write(batch, Durability::Buffered)));
                if commits.len().is_multiple_of(COMMITS_PER_SYNC) {
                    store.sync();
                }
                pause();
            });
            let met = commits.iter().filter(|commit| commit.meets(publish));
            let met = met.map(|commit| commit.length()).max();
            left -= usize::from(met.is_some());
            longest = longest.max(met);
            all.extend(commits.iter().map(|commit| nanoseconds(commit.length())));
        }
        Some(Sample {
            operations: all.len() as u64,
            latency: Percentiles::of(&mut all),
            processor: ProcessorTime::since(processor),
            ..number(longest?.as_secs_f64() * 1e6, self.bytes_on_disk())
        })
    }

    fn durable_commits(&mut self, times: usize) -> Sample {
        let processor = ProcessorTime::now();
        let mut latencies = Vec::new();
        for _ in 0..times {
            self.overwrite_some();
            let mut whose = [Whose::Same, Whose::Other].into_iter().cycle();
            let Vbucket {
                store,
                workload,
                documents,
                random,
                ..
            } = self;
            compacted(store, || {
                let document = document(random, *documents, whose.next().unwrap());
                let batch = workload.batch([document]);
                let commit = Span::of(|| store.write(batch, Durability::Synced));
                latencies.push(nanoseconds(commit.length()));
            });
        }
        let commits = latencies.len() as f64;
        let seconds = latencies.iter().sum::<u64>() as f64 / 1e9;
        Sample {
            operations: latencies.len() as u64,
            latency: Percentiles::of(&mut latencies),
            processor: ProcessorTime::since(processor),
            ..number(commits / seconds, self.bytes_on_disk())
        }
    }

    fn bytes_on_disk(&self) -> Option<u64> {
        Some(bytes_on_disk(&self.directory))
    }

    fn close(self, bench: &Bench) {
        let written = (0..bench.scale.gets).map(|number| 2 * (number % self.documents));
        w3::check_these(&self.store, &self.workload, written);
        Box::new(self.store).close();
        remove(&self.directory);
    }
}

fn pause() {
    let begin = Instant::now();
    while begin.elapsed() < PAUSE {
        std::hint::spin_loop();
    }
}

fn document(random: &mut Random, documents: u64, whose: Whose) -> u64 {
    match whose {
        Whose::Same => 2 * (random.next() % documents),
        Whose::Other => 2 * (random.next() % OTHERS) + 1,
    }
}

/// Compacts the vbucket on a thread of its own, meanwhile calls `meanwhile` over and over, and tells when it was
/// published.
fn compacted(store: &Piggin, mut meanwhile: impl FnMut()) -> Span {
    std::thread::scope(|scope| {
        let compaction = scope.spawn(|| {
            give_way();
            let mut step = store.compaction(COMPACTED);
            let mut begins = vec![Instant::now()];
            while step() {
                begins.push(Instant::now());
            }
            let end = Instant::now();
            let begin = begins[begins.len().saturating_sub(PUBLISH_STEPS)];
            Span { begin, end }
        });
        while !compaction.is_finished() {
            meanwhile();
        }
        compaction.join().unwrap()
    })
}
