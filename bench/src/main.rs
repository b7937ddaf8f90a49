//! Piggin's storage and bucket beside other embedded stores and the raw disk: one command, one table. See README.md.

mod statistics;
mod workload;
mod raw;
mod stores;
mod results;
mod works;
mod bucket;
mod report;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bucket::{BucketArguments, Filling};
use crate::raw::RawDisk;
use crate::results::Results;
use crate::stores::{Column, Kind};
use crate::works::w6::{self, Doomed};
use crate::works::{Bench, Scale, Work};

/// Times Piggin beside other embedded stores.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The storage beside fjall, redb, RocksDB and LMDB: works W1 to W6.
    Storage(StorageArguments),
    /// The bucket beside bare maps and messages, its own storage, and the same peers.
    Bucket(BucketArguments),
    /// What W6 starts and kills.
    #[command(hide = true)]
    WriteUntilKilled(Doomed),
    /// What the bucket's row on memory starts.
    #[command(hide = true)]
    FillAndTell(Filling),
    /// What the bucket's row on more documents than memory starts.
    #[command(hide = true)]
    FillBeyondAndTell(Filling),
}

#[derive(Debug, Args)]
struct StorageArguments {
    /// Small works and one round: shows that everything runs, and little else.
    #[arg(long)]
    quick: bool,
    /// Only these works.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Work>,
    /// Only these stores.
    #[arg(long, value_enum, value_delimiter = ',')]
    stores: Vec<Kind>,
    /// Rounds of every work [default: 3, quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: Option<u8>,
    /// Where the stores are made and removed again; on the disk to be measured.
    #[arg(long, default_value = "bench-data")]
    dir: PathBuf,
    /// Vbuckets the documents are spread over.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=1024))]
    vbuckets: u16,
}

fn main() {
    match Arguments::parse().command {
        Command::Storage(arguments) => storage(&arguments),
        Command::Bucket(arguments) => {
            let bench = bucket::run(&arguments, &kinds(arguments.stores()));
            report::print_bucket(&bench);
        }
        Command::WriteUntilKilled(doomed) => w6::write_until_killed(&doomed),
        Command::FillAndTell(filling) => bucket::fill_and_tell(&filling),
        Command::FillBeyondAndTell(filling) => bucket::fill_beyond_and_tell(&filling),
    }
}

fn storage(arguments: &StorageArguments) {
    let works = match arguments.only.as_slice() {
        [] => &[Work::W1, Work::W2, Work::W3, Work::W4, Work::W5, Work::W6],
        only => only,
    };
    let scale = if arguments.quick {
        Scale::QUICK
    } else {
        Scale::FULL
    };
    let rounds = if arguments.quick { 1 } else { 3 };
    std::fs::create_dir_all(&arguments.dir).unwrap();
    let mut bench = Bench {
        scale,
        columns: Column::of(&kinds(&arguments.stores)),
        rounds: arguments.rounds.map_or(rounds, usize::from),
        vbuckets: arguments.vbuckets,
        directory: arguments.dir.clone(),
        raw: RawDisk::create(&arguments.dir, scale.raw_duration, scale.attempts_max),
        results: Results::default(),
    };
    bench.run(works);
    report::print_storage(&bench);
}

/// The stores wanted; without a wish, all that were compiled in.
fn kinds(wanted: &[Kind]) -> Vec<Kind> {
    let (available, missing): (Vec<Kind>, Vec<Kind>) = Kind::ALL
        .into_iter()
        .filter(|kind| wanted.is_empty() || wanted.contains(kind))
        .partition(|kind| kind.is_available());
    for kind in missing {
        eprintln!("{} was not compiled in; README.md says how", kind.name());
    }
    available
}
