//! A vbucket's actor that panics, in a full bucket, and the time until it serves again: from sending the message that
//! makes it panic to the answer to the one behind it.
//!
//! Every vbucket's actor panics once a round, so that none of them does so too often to be restarted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_executor::block_on;
use messages::vbucket::DescribeVbucket;
use storage::VbucketId;
use supervisor::testing::{Delivery, Hook, Hooks, Passing};

use crate::bucket::contestants::{Contestant, Ours};
use crate::bucket::meter::{Meter, Pass};
use crate::bucket::{BucketBench, BucketFigure, VALUE_LENGTH};
use crate::statistics::ProcessorTime;
use crate::workload::Pool;
use crate::works::remove;

/// Makes the next description that is asked for panic.
#[derive(Debug, Default)]
struct Saboteur(AtomicBool);

impl Hook for Saboteur {
    fn message(&self, passing: &Passing<'_>) -> Delivery {
        let is_meant = passing.message.is::<DescribeVbucket>();
        if is_meant && self.0.swap(false, Ordering::Relaxed) {
            Delivery::Panic("asked for by the bench".into())
        } else {
            Delivery::Handle
        }
    }
}

pub(crate) fn run(bench: &mut BucketBench) {
    let (contender, vbuckets) = (bench.ours(), bench.vbuckets[0]);
    let place = bench.place(contender);
    let saboteur: Arc<Saboteur> = Arc::default();
    let bucket = Ours::create_hooked(&place, vbuckets, Hooks::new(Arc::clone(&saboteur) as _));
    bucket.load(0..bench.scale.documents, &Pool::new(), VALUE_LENGTH);
    bench.storage.raw.wait_until_quiet();
    // What a panic prints is the same for everybody, and not asked for here.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut meter = Meter::new(1);
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    for id in (0..vbuckets).filter_map(VbucketId::new) {
        let actor = bucket.0.vbucket(id).unwrap();
        saboteur.0.store(true, Ordering::Relaxed);
        let panicking = meter.begin();
        let (falls, serves) = (actor.send(DescribeVbucket), actor.send(DescribeVbucket));
        assert!(block_on(falls).unwrap().is_err(), "it did not panic");
        block_on(serves).unwrap().unwrap();
        meter.end(panicking);
    }
    let seconds = begin.elapsed().as_secs_f64();
    std::panic::set_hook(usual);
    let pass = Pass::of_meters([meter], seconds, ProcessorTime::since(processor));
    let sample = pass.sample(None, None);
    bench
        .results
        .add(BucketFigure::ServesAgain, contender, sample);
    bucket.close();
    remove(&place);
}
