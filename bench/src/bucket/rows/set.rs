//! Inserts that are answered from memory, by two writers, the flusher at work; beside a map, and beside the peers that
//! are made for writing, without sync.

use futures_executor::block_on;

use crate::bucket::contestants::{Contestant, Map, Ours, Peer, Subject};
use crate::bucket::meter::Pass;
use crate::bucket::{BucketBench, BucketFigure, Contender, VALUE_LENGTH};
use crate::raw::bytes_on_disk;
use crate::results::Sample;
use crate::stores::{Durability, Kind};
use crate::workload::Pool;
use crate::works::remove;

const WRITERS: u64 = 2;
/// One set in so many is timed.
const TIMED: u64 = 16;

pub(crate) fn run(bench: &mut BucketBench, round: usize) {
    let mut beside = vec![Contender::DashMap];
    beside.extend(bench.peers(&Kind::LSM));
    for contender in bench.turns(&beside, round) {
        let sample = one(bench, contender);
        bench
            .results
            .add(BucketFigure::SetInMemory, contender, sample);
    }
}

fn one(bench: &mut BucketBench, contender: Contender) -> Sample {
    let pool = Pool::new();
    let documents = bench.scale.documents;
    let first_vbuckets = bench.vbuckets[0];
    bench.storage.raw.wait_until_quiet();
    let place = bench.place(contender);
    let (pass, bytes) = match contender {
        Contender::Bucket { vbuckets } => {
            let bucket = Ours::create(&place, vbuckets);
            let pass = inserts(&bucket, documents, &pool);
            block_on(bucket.0.flush()).unwrap();
            let bytes = bytes_on_disk(&place);
            bucket.close();
            (pass, Some(bytes))
        }
        Contender::Peer(column) => {
            std::fs::create_dir_all(&place).unwrap();
            let peer = Peer::open(column, &place, first_vbuckets, documents);
            peer.begin(Durability::Buffered, &pool, VALUE_LENGTH);
            let pass = inserts(&peer, documents, &pool);
            let bytes = bytes_on_disk(&place);
            peer.close();
            (pass, Some(bytes))
        }
        Contender::DashMap
        | Contender::EmptyMessage
        | Contender::Storage
        | Contender::Channel
        | Contender::OneStream
        | Contender::NoStreams => (inserts(&Map::default(), documents, &pool), None),
    };
    remove(&place);
    pass.sample(bytes, None)
}

fn inserts(contestant: &impl Contestant, documents: u64, pool: &Pool) -> Pass {
    let part = documents / WRITERS;
    let firsts = (0..WRITERS).map(|writer| writer * part);
    let work: Vec<Vec<Subject>> = firsts
        .map(|first| (first..first + part).map(Subject::of).collect())
        .collect();
    Pass::of_threads(WRITERS, TIMED, |writer, meter| {
        block_on(async {
            for subject in &work[writer as usize] {
                let value = pool.value(subject.document, 1, VALUE_LENGTH);
                let begin = meter.begin();
                contestant.set(subject, value, Durability::Buffered).await;
                meter.end(begin);
            }
        });
    })
}
