//! Open a bucket that was closed in order, until all its documents are in memory; beside a scan of the same documents by
//! the storage alone. Files are in memory: a first opening and scan, not timed, see to that.

use std::time::Instant;

use futures_executor::block_on;

use crate::bucket::contestants::{Contestant, Ours, Subject};
use crate::bucket::{BucketBench, BucketFigure, Contender, VALUE_LENGTH};
use crate::raw::bytes_on_disk;
use crate::results::Sample;
use crate::statistics::ProcessorTime;
use crate::stores::{Background, Column, open};
use crate::workload::Pool;
use crate::works::remove;

pub(crate) fn run(bench: &mut BucketBench, round: usize) {
    let pool = Pool::new();
    let documents = bench.scale.documents;
    for contender in bench.turns(&[], round) {
        let Contender::Bucket { vbuckets } = contender else {
            continue;
        };
        let place = bench.place(contender);
        let bucket = Ours::create(&place, vbuckets);
        bucket.load(0..documents, &pool, VALUE_LENGTH);
        bucket.close();
        let bytes = bytes_on_disk(&place);
        let timed = |operations: u64, work: &mut dyn FnMut()| {
            let processor = ProcessorTime::now();
            let begin = Instant::now();
            work();
            Sample {
                amount: begin.elapsed().as_secs_f64() * 1e3,
                operations,
                latency: None,
                bytes_on_disk: Some(bytes),
                processor: ProcessorTime::since(processor),
                raw: None,
            }
        };
        for is_counted in [false, true] {
            bench.storage.raw.wait_until_quiet();
            let mut opened = None;
            let warm = timed(documents, &mut || opened = Some(Ours::open(&place)));
            let bucket = opened.take().expect("opened above");
            assert_eq!(bucket.0.statistics().documents, documents);
            let last = Subject::of(documents - 1);
            let expected = pool.value(last.document, 1, VALUE_LENGTH);
            block_on(bucket.get(&last, &mut |value| assert_eq!(value, expected)));
            bucket.close();
            let mut store = None;
            let opening = timed(1, &mut || {
                let opened = open(Column::PIGGIN, &place, vbuckets, Background::Stopped);
                store = Some(opened);
            });
            let store = store.take().expect("opened above");
            let scan = timed(documents, &mut || {
                let mut found = 0;
                for vbucket in 0..vbuckets {
                    store.scan(vbucket, &mut |_| found += 1);
                }
                assert_eq!(found, documents);
            });
            store.close();
            if is_counted {
                bench.results.add(BucketFigure::Open, contender, warm);
                if contender == bench.ours() {
                    let figure = BucketFigure::OpenStorage;
                    bench
                        .results
                        .add(BucketFigure::Open, Contender::Storage, scan);
                    bench.results.add(figure, Contender::Storage, opening);
                }
            }
        }
        remove(&place);
    }
}
