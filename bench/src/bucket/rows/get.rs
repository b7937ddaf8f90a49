//! Random gets of documents in memory, by two threads, beside a map of the same keys and values.
//!
//! A first pass warms up and compares every value. Then passes of all take turns, and the median pass counts.

use futures_executor::block_on;

use crate::bucket::contestants::{Contestant, Map, Ours, Subject};
use crate::bucket::meter::{Pass, median};
use crate::bucket::{BucketBench, BucketFigure, Contender, VALUE_LENGTH};
use crate::workload::{Pool, Random};
use crate::works::remove;

const THREADS: u64 = 2;
const PASSES: u64 = 3;
/// One get in so many is timed.
const TIMED: u64 = 16;

pub(crate) fn run(bench: &mut BucketBench, round: usize) {
    let pool = Pool::new();
    let documents = bench.scale.got;
    let turns = bench.turns(&[Contender::DashMap], round);
    let mut ours = Vec::new();
    let mut map = None;
    for &contender in &turns {
        if let Contender::Bucket { vbuckets } = contender {
            let bucket = Ours::create(&bench.place(contender), vbuckets);
            bucket.load(0..documents, &pool, VALUE_LENGTH);
            check(&bucket, documents, &pool);
            ours.push((contender, bucket));
        } else {
            let loaded = Map::default();
            loaded.load(0..documents, &pool, VALUE_LENGTH);
            check(&loaded, documents, &pool);
            map = Some(loaded);
        }
    }
    bench.storage.raw.wait_until_quiet();
    let mut of_buckets: Vec<_> = ours.iter().map(|_| Vec::new()).collect();
    let mut of_map = Vec::new();
    for number in 0..PASSES {
        for ((_, bucket), passes) in ours.iter().zip(&mut of_buckets) {
            passes.push(pass(bucket, documents, number));
        }
        if let Some(map) = &map {
            of_map.push(pass(map, documents, number));
        }
    }
    for ((contender, bucket), passes) in ours.into_iter().zip(of_buckets) {
        let sample = median(passes).sample(None, None);
        bench.results.add(BucketFigure::Get, contender, sample);
        bucket.close();
        remove(&bench.place(contender));
    }
    if map.is_some() {
        let sample = median(of_map).sample(None, None);
        bench
            .results
            .add(BucketFigure::Get, Contender::DashMap, sample);
    }
}

/// Documents in random order, made outside the time.
fn subjects(documents: u64, seed: u64) -> Vec<Subject> {
    let mut random = Random(seed);
    (0..documents)
        .map(|_| Subject::of(random.next() % documents))
        .collect()
}

fn check(contestant: &impl Contestant, documents: u64, pool: &Pool) {
    block_on(async {
        for document in 0..documents {
            let expected = pool.value(document, 1, VALUE_LENGTH);
            let visit = &mut |value: &[u8]| assert_eq!(value, expected, "a wrong value");
            contestant.get(&Subject::of(document), visit).await;
        }
    });
}

fn pass(contestant: &impl Contestant, documents: u64, number: u64) -> Pass {
    let seeds = (0..THREADS).map(|thread| 100 * number + thread + 5);
    let work: Vec<_> = seeds.map(|seed| subjects(documents, seed)).collect();
    Pass::of_threads(THREADS, TIMED, |thread, meter| {
        let subjects = &work[thread as usize];
        let mut bytes = 0;
        block_on(async {
            for subject in subjects {
                let begin = meter.begin();
                contestant
                    .get(subject, &mut |value| bytes += value.len())
                    .await;
                meter.end(begin);
            }
        });
        std::hint::black_box(bytes);
    })
}
