//! Inserts by message, one at a time, from an arbiter to the vbucket's; beside an empty message to an actor that does
//! nothing, from the same arbiter to as many others.
//!
//! The bucket's arbiters are its own and take no foreign actor, so the empty messages go to arbiters made alike.

use std::time::Instant;

use actix::{Actor, Addr, Arbiter, Context, Handler, Message, System};

use crate::bucket::contestants::{Contestant, Ours, Subject, set_message};
use crate::bucket::meter::{Meter, Pass};
use crate::bucket::{BucketBench, BucketFigure, Contender, VALUE_LENGTH};
use crate::statistics::ProcessorTime;
use crate::workload::Pool;
use crate::works::remove;

/// Each in turns with the others; together they are the sample.
const PASSES: u64 = 5;

#[derive(Message)]
#[rtype(result = "()")]
struct Empty;

struct Idle;

impl Actor for Idle {
    type Context = Context<Idle>;
}

impl Handler<Empty> for Idle {
    type Result = ();

    fn handle(&mut self, _: Empty, _: &mut Context<Idle>) {}
}

pub(crate) fn run(bench: &mut BucketBench, round: usize) {
    let turns = bench.turns(&[Contender::EmptyMessage], round);
    let mut buckets = Vec::new();
    for &contender in &turns {
        if let Contender::Bucket { vbuckets } = contender {
            buckets.push((contender, Ours::create(&bench.place(contender), vbuckets)));
        }
    }
    bench.storage.raw.wait_until_quiet();
    let messages = bench.scale.messages;
    let pool = Pool::new();
    let mut done: Vec<(Contender, Vec<Pass>)> =
        turns.iter().map(|&turn| (turn, Vec::new())).collect();
    System::new().block_on(async {
        let others = Others::start();
        for number in 0..PASSES {
            let first = number * messages;
            for (contender, passes) in &mut done {
                let bucket = buckets.iter().find(|(of, _)| of == contender);
                passes.push(match bucket {
                    Some((_, bucket)) => sets(bucket, first..first + messages, &pool).await,
                    None => empties(&others.idle, messages).await,
                });
            }
        }
        others.stop();
    });
    for (contender, passes) in done {
        let sample = together(passes).sample(None, None);
        bench
            .results
            .add(BucketFigure::SetByMessage, contender, sample);
    }
    for (contender, bucket) in buckets {
        bucket.close();
        remove(&bench.place(contender));
    }
}

/// Empty messages, beside which something else is measured.
pub(super) fn empties_alone(messages: u64) -> Pass {
    System::new().block_on(async {
        let others = Others::start();
        let pass = empties(&others.idle, messages).await;
        others.stop();
        pass
    })
}

/// Arbiters as the bucket has them, each with an actor that does nothing.
struct Others {
    arbiters: Vec<Arbiter>,
    idle: Vec<Addr<Idle>>,
}

impl Others {
    fn start() -> Others {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let arbiters: Vec<_> = (0..threads.min(8)).map(|_| Arbiter::new()).collect();
        let start = |arbiter: &Arbiter| Idle::start_in_arbiter(&arbiter.handle(), |_| Idle);
        let idle = arbiters.iter().map(start).collect();
        Others { arbiters, idle }
    }

    fn stop(self) {
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
        for arbiter in self.arbiters {
            arbiter.join().unwrap();
        }
    }
}

async fn sets(bucket: &Ours, documents: std::ops::Range<u64>, pool: &Pool) -> Pass {
    let mut meter = Meter::new(1);
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    for document in documents {
        let subject = Subject::of(document);
        let value = pool.value(document, 1, VALUE_LENGTH);
        let vbucket = bucket.0.vbucket_of(&subject.key);
        let address = bucket.0.vbucket(vbucket).unwrap();
        let set = meter.begin();
        let answer = address.send(set_message(&subject, value)).await;
        meter.end(set);
        answer.unwrap().unwrap();
    }
    let seconds = begin.elapsed().as_secs_f64();
    Pass::of_meters([meter], seconds, ProcessorTime::since(processor))
}

async fn empties(idle: &[Addr<Idle>], messages: u64) -> Pass {
    let mut meter = Meter::new(1);
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    let addresses = idle.iter().cycle();
    for (address, _) in addresses.zip(0..messages) {
        let send = meter.begin();
        let answer = address.send(Empty).await;
        meter.end(send);
        answer.unwrap();
    }
    let seconds = begin.elapsed().as_secs_f64();
    Pass::of_meters([meter], seconds, ProcessorTime::since(processor))
}

fn together(passes: Vec<Pass>) -> Pass {
    let merge = |mut all: Pass, one: Pass| {
        all.operations += one.operations;
        all.seconds += one.seconds;
        all.latencies.extend(one.latencies);
        all.processor.process += one.processor.process;
        all.processor.thread += one.processor.thread;
        all
    };
    passes.into_iter().reduce(merge).expect("no pass at all")
}
