//! Durable writes among three buckets of this process: one is active in every vbucket, two hold its replicas.
//!
//! One at a time answered by a majority, beside an empty message there and back; one at a time answered by the disks of a
//! majority; and many under way at once, by tasks of one thread.

use std::cell::Cell;
use std::time::Instant;

use bytes::Bytes;
use futures_executor::block_on;
use storage::{DurabilityLevel, Topology};
use supervisor::Replication;

use crate::bucket::contestants::{Contestant, Ours, Subject};
use crate::bucket::meter::{Meter, Pass};
use crate::bucket::rows::message;
use crate::bucket::{BucketBench, BucketFigure, Contender, VALUE_LENGTH};
use crate::results::Sample;
use crate::statistics::ProcessorTime;
use crate::workload::Pool;
use crate::works::remove;

/// Under way at once in the last row.
const UNDER_WAY: u64 = 256;
const NODES: [&str; 3] = ["one", "two", "three"];

pub(crate) fn run(bench: &mut BucketBench, round: usize) {
    let ours = bench.ours();
    for contender in bench.turns(&[Contender::EmptyMessage], round) {
        match contender {
            // Three buckets take part in each write; of the other numbers of vbuckets it would say nothing new.
            Contender::Bucket { .. } if contender != ours => {}
            Contender::Bucket { vbuckets } => {
                for (figure, work) in [
                    (BucketFigure::DurableMajority, one_at_a_time as Work),
                    (BucketFigure::DurableOnDisks, on_disks),
                    (BucketFigure::DurableAtOnce, at_once),
                ] {
                    let sample = bench.quietly(|bench| {
                        let chain = Chain::create(bench, vbuckets);
                        let sample = work(bench, &chain);
                        chain.close(bench);
                        sample
                    });
                    bench.results.add(figure, contender, sample);
                }
            }
            _ => {
                let sample = message::empties_alone(bench.scale.messages).sample(None, None);
                let figure = BucketFigure::DurableMajority;
                bench.results.add(figure, contender, sample);
            }
        }
    }
}

type Work = fn(&mut BucketBench, &Chain) -> Sample;

/// The three of them; the first is active.
struct Chain {
    nodes: Vec<Ours>,
    to_replicas: Vec<Replication>,
}

impl Chain {
    fn create(bench: &BucketBench, vbuckets: u16) -> Chain {
        let create = |name| Ours::create_node(&place(bench, name), vbuckets, name);
        let nodes: Vec<Ours> = NODES.into_iter().map(create).collect();
        let active = &nodes[0].0;
        let replicate = |to: &Ours| active.replicate(active.vbuckets(), &to.0).unwrap();
        let to_replicas: Vec<Replication> = nodes[1..].iter().map(replicate).collect();
        let topology = Topology::of_chain(NODES);
        active.set_topology(active.vbuckets(), &topology).unwrap();
        for replication in &to_replicas {
            block_on(replication.caught_up()).unwrap();
        }
        // Once in each vbucket, so that nothing is done for the first time.
        for document in 0..u64::from(vbuckets) * 4 {
            let subject = Subject::of(u64::MAX - document);
            block_on(async {
                let set = active.set(subject.key, "");
                set.durability(DurabilityLevel::PersistToMajority)
                    .await
                    .unwrap();
            });
        }
        Chain { nodes, to_replicas }
    }

    async fn set(&self, subject: &Subject, value: &[u8], level: DurabilityLevel) {
        let value = Bytes::copy_from_slice(value);
        let set = self.nodes[0].0.set(subject.key, value);
        set.durability(level).await.unwrap();
    }

    fn close(self, bench: &BucketBench) {
        drop(self.to_replicas);
        for node in self.nodes {
            node.close();
        }
        for name in NODES {
            remove(&place(bench, name));
        }
    }
}

fn place(bench: &BucketBench, name: &str) -> std::path::PathBuf {
    bench.storage.directory.join(format!("node-{name}"))
}

fn one_at_a_time(bench: &mut BucketBench, chain: &Chain) -> Sample {
    one_after_the_other(bench, chain, DurabilityLevel::Majority).sample(None, None)
}

fn on_disks(bench: &mut BucketBench, chain: &Chain) -> Sample {
    let raw = bench.raw(1);
    one_after_the_other(bench, chain, DurabilityLevel::PersistToMajority).sample(None, Some(raw))
}

fn one_after_the_other(bench: &BucketBench, chain: &Chain, level: DurabilityLevel) -> Pass {
    let pool = Pool::new();
    let end = Instant::now() + bench.storage.scale.commit_duration;
    let mut meter = Meter::new(1);
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    block_on(async {
        while Instant::now() < end {
            let subject = Subject::of(meter.operations());
            let value = pool.value(subject.document, 1, VALUE_LENGTH);
            let set = meter.begin();
            chain.set(&subject, value, level).await;
            meter.end(set);
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    Pass::of_meters([meter], seconds, ProcessorTime::since(processor))
}

fn at_once(bench: &mut BucketBench, chain: &Chain) -> Sample {
    let end = Instant::now() + bench.storage.scale.commit_duration;
    let pool = Pool::new();
    let next = Cell::new(0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    let meters = runtime.block_on(async {
        let callers = (0..UNDER_WAY).map(|_| async {
            let mut meter = Meter::new(1);
            while Instant::now() < end {
                let subject = Subject::of(next.replace(next.get() + 1));
                let value = pool.value(subject.document, 1, VALUE_LENGTH);
                let set = meter.begin();
                chain.set(&subject, value, DurabilityLevel::Majority).await;
                meter.end(set);
            }
            meter
        });
        futures_util::future::join_all(callers).await
    });
    let seconds = begin.elapsed().as_secs_f64();
    Pass::of_meters(meters, seconds, ProcessorTime::since(processor)).sample(None, None)
}
