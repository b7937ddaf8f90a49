//! YCSB's mixed loads A, B, C and F, by four threads, beside every peer at equal durability: once without waiting for the
//! disk, once with every write on disk before it is answered.

use std::time::{Duration, Instant};

use futures_executor::block_on;

use crate::bucket::contestants::{Contestant, Ours, Peer, Subject};
use crate::bucket::figures::Mix;
use crate::bucket::meter::Pass;
use crate::bucket::zipf::Zipf;
use crate::bucket::{BucketBench, BucketFigure, Contender, VALUE_LENGTH};
use crate::raw::bytes_on_disk;
use crate::stores::{Durability, Kind};
use crate::workload::{Pool, Random};
use crate::works::remove;

const THREADS: u64 = 4;
/// One operation in so many is timed where none waits for the disk.
const TIMED: u64 = 16;
/// Operations between two looks at the clock.
const OPERATIONS_PER_LOOK: u64 = 16;

/// Loaded once, every load in turn.
struct Load<'a> {
    zipf: Zipf,
    pool: &'a Pool,
    duration: Duration,
}

pub(crate) fn run(bench: &mut BucketBench, round: usize) {
    let pool = Pool::new();
    let documents = bench.scale.documents;
    let load = Load {
        zipf: Zipf::below(documents),
        pool: &pool,
        duration: bench.storage.scale.commit_duration,
    };
    for contender in bench.turns(&bench.peers(&Kind::ALL), round) {
        let place = bench.place(contender);
        if let Contender::Bucket { vbuckets } = contender {
            let bucket = Ours::create(&place, vbuckets);
            all(bench, contender, &bucket, &load, |_| {});
            bucket.close();
        } else if let Contender::Peer(column) = contender {
            std::fs::create_dir_all(&place).unwrap();
            let peer = Peer::open(column, &place, bench.vbuckets[0], documents);
            let begin = |durability| peer.begin(durability, &pool, VALUE_LENGTH);
            all(bench, contender, &peer, &load, begin);
            peer.close();
        }
        remove(&place);
    }
}

fn all(
    bench: &mut BucketBench,
    contender: Contender,
    contestant: &impl Contestant,
    load: &Load<'_>,
    begin: impl Fn(Durability),
) {
    contestant.load(0..bench.scale.documents, load.pool, VALUE_LENGTH);
    for durability in [Durability::Buffered, Durability::Synced] {
        for mix in Mix::ALL {
            // Nothing is written, so nothing is synced either.
            if mix == Mix::C && durability == Durability::Synced {
                continue;
            }
            let sample = bench.quietly(|bench| {
                let raw = match durability {
                    Durability::Synced => Some(bench.raw(1)),
                    Durability::Buffered => None,
                };
                begin(durability);
                let pass = pass(contestant, load, mix, durability);
                let bytes =
                    bytes_on_disk(&bench.storage.directory.join(contender.directory_name()));
                pass.sample(Some(bytes), raw)
            });
            let figure = BucketFigure::Ycsb { mix, durability };
            bench.results.add(figure, contender, sample);
        }
    }
}

fn pass(contestant: &impl Contestant, load: &Load<'_>, mix: Mix, durability: Durability) -> Pass {
    let timed = match durability {
        Durability::Synced => 1,
        Durability::Buffered => TIMED,
    };
    let end = Instant::now() + load.duration;
    Pass::of_threads(THREADS, timed, |thread, meter| {
        let mut random = Random(1000 * (mix as u64) + thread);
        let mut bytes = 0;
        block_on(async {
            while !meter.operations().is_multiple_of(OPERATIONS_PER_LOOK) || Instant::now() < end {
                let subject = Subject::of(load.zipf.draw(&mut random));
                let is_write = random.next() % 100 < mix.writes_percent();
                let version = random.next() >> 32;
                let operation = meter.begin();
                if !is_write || mix == Mix::F {
                    contestant
                        .get(&subject, &mut |value| bytes += value.len())
                        .await;
                }
                if is_write {
                    let value = load.pool.value(subject.document, version, VALUE_LENGTH);
                    contestant.set(&subject, value, durability).await;
                }
                meter.end(operation);
            }
        });
        std::hint::black_box(bytes);
    })
}
