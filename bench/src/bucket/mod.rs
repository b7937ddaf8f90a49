//! The bucket beside bare maps, bare messages, its own storage and other embedded stores.
//!
//! Each row is a file in `rows/`. Within a round the contenders of a row take turns, another one first each round.

mod contestants;
pub(crate) mod figures;
mod meter;
mod rows;
mod zipf;

use std::path::PathBuf;

use crate::raw::RawDisk;
use crate::results::{Raw, Results, Sample};
use crate::stores::{Column, Kind};
use crate::workload::log_bytes;
use crate::works::{Bench, Scale, remove};

pub(crate) use figures::{BucketFigure, Contender};
pub(crate) use rows::beyond::fill_beyond_and_tell;
pub(crate) use rows::memory::{Filling, fill_and_tell};

/// Bytes of every value.
const VALUE_LENGTH: usize = 256;

/// Which row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    /// Random gets of documents in memory.
    Get,
    /// Sets that are answered from memory.
    Set,
    /// Sets that are answered from the disk.
    Persisted,
    /// Sets by message.
    Message,
    /// Memory for each document.
    Memory,
    /// Mixed loads.
    Ycsb,
    /// Open and warm up.
    Open,
    /// Four times as many documents as memory has room for.
    Beyond,
    /// Change streams.
    Streams,
    /// Durable writes among three buckets.
    Durable,
    /// A vbucket's actor that panicked serves again; needs the feature `panics`.
    Panicked,
}

impl Row {
    const ALL: [Row; 11] = [
        Row::Get,
        Row::Set,
        Row::Persisted,
        Row::Message,
        Row::Memory,
        Row::Ycsb,
        Row::Open,
        Row::Beyond,
        Row::Streams,
        Row::Durable,
        Row::Panicked,
    ];
}

/// What to measure of the bucket.
#[derive(Debug, clap::Args)]
pub(crate) struct BucketArguments {
    /// Small works and one round: shows that everything runs, and little else.
    #[arg(long)]
    quick: bool,
    /// Only these rows.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Row>,
    /// Only these peers.
    #[arg(long, value_enum, value_delimiter = ',')]
    stores: Vec<Kind>,
    /// Only the bucket itself, with the first number of vbuckets: for a profiler.
    #[arg(long)]
    alone: bool,
    /// Rounds of every row [default: 3, quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: Option<u8>,
    /// Where the stores are made and removed again; on the disk to be measured.
    #[arg(long, default_value = "bench-data")]
    dir: PathBuf,
    /// Vbuckets of the bucket; of several numbers the first is beside the others' figures, the rest beside the first.
    #[arg(long, value_delimiter = ',', default_values_t = [128, 1024])]
    vbuckets: Vec<u16>,
}

impl BucketArguments {
    /// The peers wished for.
    pub(crate) fn stores(&self) -> &[Kind] {
        &self.stores
    }
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
struct BucketScale {
    /// In memory for the gets.
    got: u64,
    /// Inserted by the sets, held for the memory, the mixed loads and the opening.
    documents: u64,
    /// Of one pass.
    messages: u64,
}

impl BucketScale {
    const FULL: BucketScale = BucketScale {
        got: 2_000_000,
        documents: 1_000_000,
        messages: 20_000,
    };

    const QUICK: BucketScale = BucketScale {
        got: 200_000,
        documents: 100_000,
        messages: 5_000,
    };
}

/// A run: what to measure, where, and what came of it.
#[derive(Debug)]
pub(crate) struct BucketBench {
    /// The peers, the rounds, the place and the raw disk, as for the storage.
    pub(crate) storage: Bench,
    /// Of our buckets.
    pub(crate) vbuckets: Vec<u16>,
    pub(crate) results: Results<BucketFigure, Contender>,
    scale: BucketScale,
    is_alone: bool,
}

/// Measures what the arguments say.
pub(crate) fn run(arguments: &BucketArguments, kinds: &[Kind]) -> BucketBench {
    let rows = match arguments.only.as_slice() {
        [] => &Row::ALL,
        only => only,
    };
    let (scale, bucket_scale, rounds) = match arguments.quick {
        true => (Scale::QUICK, BucketScale::QUICK, 1),
        false => (Scale::FULL, BucketScale::FULL, 3),
    };
    let mut vbuckets = arguments.vbuckets.clone();
    let is_possible = |vbuckets: &u16| vbuckets.is_power_of_two() && *vbuckets <= 1024;
    assert!(
        !vbuckets.is_empty() && vbuckets.iter().all(is_possible),
        "--vbuckets: powers of two up to 1024"
    );
    if arguments.alone {
        vbuckets.truncate(1);
    }
    let peers: Vec<Kind> = kinds
        .iter()
        .copied()
        .filter(|kind| *kind != Kind::Piggin)
        .collect();
    std::fs::create_dir_all(&arguments.dir).unwrap();
    let mut bench = BucketBench {
        storage: Bench {
            scale,
            columns: Column::of(&peers),
            rounds: arguments.rounds.map_or(rounds, usize::from),
            vbuckets: vbuckets[0],
            directory: arguments.dir.clone(),
            raw: RawDisk::create(&arguments.dir, scale.raw_duration, scale.attempts_max),
            results: Results::default(),
        },
        vbuckets,
        results: Results::default(),
        scale: bucket_scale,
        is_alone: arguments.alone,
    };
    for &row in rows {
        for round in 0..bench.storage.rounds {
            eprintln!("{row:?}, round {} of {}", round + 1, bench.storage.rounds);
            bench.one(row, round);
        }
    }
    bench
}

impl BucketBench {
    fn one(&mut self, row: Row, round: usize) {
        match row {
            Row::Get => rows::get::run(self, round),
            Row::Set => rows::set::run(self, round),
            Row::Persisted => rows::persisted::run(self, round),
            Row::Message => rows::message::run(self, round),
            Row::Memory => rows::memory::run(self),
            Row::Ycsb => rows::ycsb::run(self, round),
            Row::Open => rows::open::run(self, round),
            Row::Beyond => rows::beyond::run(self, round),
            Row::Streams => rows::streams::run(self, round),
            Row::Durable => rows::durable::run(self, round),
            #[cfg(feature = "panics")]
            Row::Panicked => rows::panicked::run(self),
            #[cfg(not(feature = "panics"))]
            Row::Panicked => {}
        }
    }

    /// The first bucket.
    pub(crate) fn ours(&self) -> Contender {
        Contender::Bucket {
            vbuckets: self.vbuckets[0],
        }
    }

    /// All buckets.
    fn buckets(&self) -> Vec<Contender> {
        let bucket = |&vbuckets: &u16| Contender::Bucket { vbuckets };
        self.vbuckets.iter().map(bucket).collect()
    }

    /// The peers that were wanted, of these kinds.
    fn peers(&self, kinds: &[Kind]) -> Vec<Contender> {
        let columns = self.storage.columns.iter();
        let wanted = columns.filter(|column| kinds.contains(&column.kind));
        wanted.map(|&column| Contender::Peer(column)).collect()
    }

    /// The buckets and those beside them, beginning with another one each round.
    fn turns(&self, beside: &[Contender], round: usize) -> Vec<Contender> {
        let mut turns = self.buckets();
        if !self.is_alone {
            turns.extend_from_slice(beside);
        }
        let count = turns.len();
        turns.rotate_left(round % count);
        turns
    }

    /// An empty place for a contender.
    fn place(&self, contender: Contender) -> PathBuf {
        let place = self.storage.directory.join(contender.directory_name());
        remove(&place);
        place
    }

    /// The raw reference for writes of so many mutations at once.
    fn raw(&mut self, mutations: u64) -> Raw {
        let length = log_bytes(VALUE_LENGTH, mutations);
        let written = self.storage.raw.durable_write(length as usize);
        Raw {
            p50_us: Some(written.p50_us),
            amount: Some(written.per_second * mutations as f64),
            files_p50_us: None,
        }
    }

    /// Measures durable writes with a quiet disk before and after.
    fn quietly(&mut self, mut measure: impl FnMut(&mut BucketBench) -> Sample) -> Sample {
        let mut attempt = 1;
        loop {
            let sample = measure(self);
            if self.storage.raw.is_quiet() || !self.storage.raw.try_again(attempt) {
                return sample;
            }
            attempt += 1;
        }
    }
}
