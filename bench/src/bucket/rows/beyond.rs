//! Four times as many documents as memory has room for: load, get, set, mixed loads and open, beside stores whose cache is as
//! large as the bucket's quota. Files are in the system's cache for all of them.
//!
//! A client that is refused for lack of memory waits a moment and asks again; how often that was is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_executor::block_on;
use messages::vbucket::Write;
use messages::{Busy, OperationError};
use supervisor::{Bucket, BucketConfig};

use crate::bucket::contestants::{Contestant, Ours, Peer, Subject, set_message};
use crate::bucket::figures::{Beyond, Draw, Mix};
use crate::bucket::meter::Pass;
use crate::bucket::rows::memory::{Filling, resident_bytes, resident_bytes_most};
use crate::bucket::zipf::Zipf;
use crate::bucket::{BucketBench, BucketFigure, Contender, VALUE_LENGTH};
use crate::raw::bytes_on_disk;
use crate::results::Sample;
use crate::statistics::ProcessorTime;
use crate::stores::{Durability, Kind, cache};
use crate::workload::{KEY_LENGTH, Pool, Random};
use crate::works::remove;

const THREADS: u64 = 4;
/// One operation in so many is timed.
const TIMED: u64 = 16;
/// Operations between two looks at the clock.
const OPERATIONS_PER_LOOK: u64 = 16;
/// So much more there is than memory.
const TIMES: u64 = 4;
const LOAD_BATCH: u64 = 1024;

/// A bucket whose clients wait for memory.
struct Tight {
    bucket: Bucket,
    refused: AtomicU64,
    most_bytes: AtomicU64,
}

impl Tight {
    fn new(bucket: Bucket) -> Tight {
        Tight {
            bucket,
            refused: AtomicU64::new(0),
            most_bytes: AtomicU64::new(0),
        }
    }

    /// Whether it was refused for lack of memory; if so some time went by.
    fn must_ask_again<T>(&self, answer: &Result<T, OperationError>) -> bool {
        let is_refused = matches!(answer, Err(OperationError::TemporaryFailure(Busy::Memory)));
        if is_refused {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.look();
            std::thread::sleep(Duration::from_millis(1));
        }
        is_refused
    }

    fn look(&self) {
        let held = self.bucket.memory().bytes;
        self.most_bytes.fetch_max(held, Ordering::Relaxed);
    }
}

impl Contestant for Tight {
    async fn get(&self, subject: &Subject, visit: &mut dyn FnMut(&[u8])) {
        let found = self.bucket.get(subject.key).await.unwrap();
        visit(&found.value);
    }

    async fn set(&self, subject: &Subject, value: &[u8], _: Durability) {
        loop {
            let answer = self
                .bucket
                .set(subject.key, Bytes::copy_from_slice(value))
                .await;
            if !self.must_ask_again(&answer) {
                answer.unwrap();
                return;
            }
        }
    }

    fn load(&self, documents: std::ops::Range<u64>, pool: &Pool, value_length: usize) {
        for first in documents.clone().step_by(LOAD_BATCH as usize) {
            let mut left: Vec<u64> = (first..documents.end.min(first + LOAD_BATCH)).collect();
            while !left.is_empty() {
                let write = |&document: &u64| {
                    let value = pool.value(document, 1, value_length);
                    Write::Set(set_message(&Subject::of(document), value))
                };
                let answers = block_on(self.bucket.write_batch(left.iter().map(write).collect()));
                let mut answers = answers.into_iter();
                let mut is_refused = false;
                left.retain(|_| {
                    let answer = answers.next().expect("an answer for each");
                    let again =
                        matches!(answer, Err(OperationError::TemporaryFailure(Busy::Memory)));
                    is_refused |= again;
                    if !again {
                        answer.unwrap();
                    }
                    again
                });
                if is_refused {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            self.look();
        }
        block_on(self.bucket.flush()).unwrap();
    }

    fn close(self) {
        block_on(self.bucket.shutdown()).unwrap();
    }
}

pub(crate) fn run(bench: &mut BucketBench, round: usize) {
    let pool = Pool::new();
    let documents = bench.scale.documents;
    let quota = quota_for(documents);
    cache::set_bytes(quota);
    for contender in bench.turns(&bench.peers(&Kind::LSM), round) {
        let place = bench.place(contender);
        if let Contender::Bucket { vbuckets } = contender {
            let mut config = BucketConfig::at(&place);
            config.vbuckets = Some(vbuckets);
            config.memory_quota_bytes = quota;
            let tight = Tight::new(block_on(Bucket::create(config.clone())).unwrap());
            all(bench, contender, &tight, &pool, |bench| {
                tight_figures(bench, contender, &tight)
            });
            tight.close();
            of_process(bench, contender, vbuckets);
            bench.storage.raw.wait_until_quiet();
            let (begin, processor) = (Instant::now(), ProcessorTime::now());
            let bucket = Ours(block_on(Bucket::open(config)).unwrap());
            let amount = begin.elapsed().as_secs_f64() * 1e3;
            let opened = sample(amount, documents, bytes_on_disk(&place), processor);
            bench
                .results
                .add(BucketFigure::Beyond(Beyond::Open), contender, opened);
            assert_eq!(bucket.0.statistics().documents, documents);
            bucket.close();
        } else if let Contender::Peer(column) = contender {
            std::fs::create_dir_all(&place).unwrap();
            let peer = Peer::open(column, &place, bench.vbuckets[0], documents);
            peer.begin(Durability::Buffered, &pool, VALUE_LENGTH);
            all(bench, contender, &peer, &pool, |_| 0);
            peer.close();
        }
        remove(&place);
    }
    cache::set_usual();
}

fn quota_for(documents: u64) -> u64 {
    documents * (KEY_LENGTH + VALUE_LENGTH) as u64 / TIMES
}

/// How far a process grows that does nothing else than load and get.
fn of_process(bench: &mut BucketBench, contender: Contender, vbuckets: u16) {
    let dir = bench.storage.directory.join("beyond-alone");
    remove(&dir);
    let filling = Filling {
        dir,
        documents: bench.scale.documents,
        vbuckets,
    };
    let numbers = filling.told_by("fill-beyond-and-tell");
    remove(&filling.dir);
    let [most] = numbers[..] else {
        panic!("the process that fills said {numbers:?}");
    };
    if !most.is_nan() {
        let figure = BucketFigure::Beyond(Beyond::ProcessMost);
        let amount = sample(most, filling.documents, 0, ProcessorTime::now());
        bench.results.add(figure, contender, amount);
    }
}

/// The side of that process: by how many bytes it grew at most.
pub(crate) fn fill_beyond_and_tell(filling: &Filling) {
    let pool = Pool::new();
    let mut config = BucketConfig::at(&filling.dir);
    config.vbuckets = Some(filling.vbuckets);
    config.memory_quota_bytes = quota_for(filling.documents);
    let tight = Tight::new(block_on(Bucket::create(config)).unwrap());
    let before = resident_bytes();
    tight.load(0..filling.documents, &pool, VALUE_LENGTH);
    let mut random = Random(9);
    for _ in 0..filling.documents {
        let subject = Subject::of(random.next() % filling.documents);
        block_on(tight.get(&subject, &mut |value| assert_eq!(value.len(), VALUE_LENGTH)));
    }
    println!("{}", resident_bytes_most() - before);
    tight.close();
}

/// What only our bucket tells; how often the disk was asked so far.
fn tight_figures(bench: &mut BucketBench, contender: Contender, tight: &Tight) -> u64 {
    tight.look();
    let one = |amount: u64| sample(amount as f64, 1, 0, ProcessorTime::now());
    let most = tight.most_bytes.load(Ordering::Relaxed);
    let refused = tight.refused.load(Ordering::Relaxed);
    let figures = [(Beyond::MemoryMost, most), (Beyond::Refused, refused)];
    for (figure, amount) in figures {
        bench
            .results
            .add(BucketFigure::Beyond(figure), contender, one(amount));
    }
    tight.bucket.memory().fetched
}

fn sample(amount: f64, operations: u64, bytes: u64, processor: ProcessorTime) -> Sample {
    Sample {
        amount,
        operations,
        latency: None,
        bytes_on_disk: Some(bytes),
        processor: ProcessorTime::since(processor),
        raw: None,
    }
}

fn all(
    bench: &mut BucketBench,
    contender: Contender,
    contestant: &impl Contestant,
    pool: &Pool,
    mut told: impl FnMut(&mut BucketBench) -> u64,
) {
    let documents = bench.scale.documents;
    let duration = bench.storage.scale.commit_duration;
    let zipf = Zipf::below(documents);
    bench.storage.raw.wait_until_quiet();
    let (begin, processor) = (Instant::now(), ProcessorTime::now());
    contestant.load(0..documents, pool, VALUE_LENGTH);
    let per_second = documents as f64 / begin.elapsed().as_secs_f64();
    let bytes = bytes_on_disk(&bench.storage.directory.join(contender.directory_name()));
    let loaded = sample(per_second, documents, bytes, processor);
    bench
        .results
        .add(BucketFigure::Beyond(Beyond::Load), contender, loaded);
    for draw in Draw::ALL {
        // A first pass brings into memory what stays there.
        for is_counted in [false, true] {
            let before = told(bench);
            // Other documents the second time, unless they are drawn often.
            let seed = u64::from(is_counted);
            let pass = pass(
                contestant,
                pool,
                (duration, seed),
                Mix::C,
                |random| match draw {
                    Draw::Uniform => random.next() % documents,
                    Draw::Zipf => zipf.draw(random),
                },
            );
            let missed = told(bench) - before;
            if is_counted {
                let hits = 100.0 * (1.0 - missed as f64 / pass.operations.max(1) as f64);
                if matches!(contender, Contender::Bucket { .. }) {
                    let of_hits = sample(hits, pass.operations, bytes, ProcessorTime::now());
                    let figure = BucketFigure::Beyond(Beyond::Hits(draw));
                    bench.results.add(figure, contender, of_hits);
                }
                let figure = BucketFigure::Beyond(Beyond::Get(draw));
                bench
                    .results
                    .add(figure, contender, pass.sample(Some(bytes), None));
            }
        }
    }
    for mix in [Mix::A, Mix::B] {
        let seed = 0;
        let pass = pass(contestant, pool, (duration, seed), mix, |random| {
            zipf.draw(random)
        });
        let figure = BucketFigure::Beyond(Beyond::Ycsb(mix));
        bench
            .results
            .add(figure, contender, pass.sample(Some(bytes), None));
        told(bench);
    }
    let end = Instant::now() + duration;
    let set = Pass::of_threads(THREADS, TIMED, |thread, meter| {
        let mut random = Random(77 + thread);
        block_on(async {
            while !meter.operations().is_multiple_of(OPERATIONS_PER_LOOK) || Instant::now() < end {
                let subject = Subject::of(random.next() % documents);
                let value = pool.value(subject.document, random.next() >> 32, VALUE_LENGTH);
                let operation = meter.begin();
                contestant.set(&subject, value, Durability::Buffered).await;
                meter.end(operation);
            }
        });
    });
    let figure = BucketFigure::Beyond(Beyond::Set);
    bench
        .results
        .add(figure, contender, set.sample(Some(bytes), None));
    told(bench);
}

fn pass(
    contestant: &impl Contestant,
    pool: &Pool,
    (duration, seed): (Duration, u64),
    mix: Mix,
    draw: impl Fn(&mut Random) -> u64 + Sync,
) -> Pass {
    let end = Instant::now() + duration;
    Pass::of_threads(THREADS, TIMED, |thread, meter| {
        let mut random = Random(3000 * (mix as u64) + 100 * seed + thread);
        let mut bytes = 0;
        block_on(async {
            while !meter.operations().is_multiple_of(OPERATIONS_PER_LOOK) || Instant::now() < end {
                let subject = Subject::of(draw(&mut random));
                let is_write = random.next() % 100 < mix.writes_percent();
                let version = random.next() >> 32;
                let operation = meter.begin();
                if is_write {
                    let value = pool.value(subject.document, version, VALUE_LENGTH);
                    contestant.set(&subject, value, Durability::Buffered).await;
                } else {
                    contestant
                        .get(&subject, &mut |value| bytes += value.len())
                        .await;
                }
                meter.end(operation);
            }
        });
        std::hint::black_box(bytes);
    })
}
