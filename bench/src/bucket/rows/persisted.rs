//! Inserts that are answered from the disk, by 64 callers at once (tasks of one thread), beside batches of 64 of our own
//! storage.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use tokio::task::LocalSet;

use crate::bucket::contestants::{Contestant, Ours, Subject};
use crate::bucket::meter::{Meter, Pass};
use crate::bucket::{BucketBench, BucketFigure, Contender, VALUE_LENGTH};
use crate::raw::bytes_on_disk;
use crate::results::Sample;
use crate::statistics::ProcessorTime;
use crate::stores::{Column, Durability};
use crate::workload::Pool;
use crate::works::{remove, w1};

const CALLERS: u64 = 64;

pub(crate) fn run(bench: &mut BucketBench, round: usize) {
    for contender in bench.turns(&[Contender::Storage], round) {
        let sample = match contender {
            Contender::Bucket { vbuckets } => {
                bench.quietly(|bench| callers(bench, contender, vbuckets))
            }
            _ => w1::commits(
                &mut bench.storage,
                Column::PIGGIN,
                VALUE_LENGTH,
                CALLERS as usize,
            ),
        };
        bench
            .results
            .add(BucketFigure::SetPersisted, contender, sample);
    }
}

fn callers(bench: &mut BucketBench, contender: Contender, vbuckets: u16) -> Sample {
    let raw = bench.raw(CALLERS);
    let place = bench.place(contender);
    let bucket = Rc::new(Ours::create(&place, vbuckets));
    let end = Instant::now() + bench.storage.scale.commit_duration;
    let pool = Rc::new(Pool::new());
    let next = Rc::new(Cell::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let pass = LocalSet::new().block_on(&runtime, async {
        let processor = ProcessorTime::now();
        let begin = Instant::now();
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (bucket, pool) = (Rc::clone(&bucket), Rc::clone(&pool));
                let next = Rc::clone(&next);
                tokio::task::spawn_local(async move {
                    let mut meter = Meter::new(1);
                    while Instant::now() < end {
                        let subject = Subject::of(next.replace(next.get() + 1));
                        let value = pool.value(subject.document, 1, VALUE_LENGTH);
                        let set = meter.begin();
                        bucket.set(&subject, value, Durability::Synced).await;
                        meter.end(set);
                    }
                    meter
                })
            })
            .collect();
        let mut meters = Vec::new();
        for caller in callers {
            meters.push(caller.await.unwrap());
        }
        let seconds = begin.elapsed().as_secs_f64();
        Pass::of_meters(meters, seconds, ProcessorTime::since(processor))
    });
    let bytes = bytes_on_disk(&place);
    let bucket = Rc::into_inner(bucket).expect("a caller is left");
    bucket.close();
    remove(&place);
    pass.sample(Some(bytes), Some(raw))
}
