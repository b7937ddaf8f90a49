//! The works: what is done to every store, round after round, the stores taking turns within a round.

pub(crate) mod w1;
pub(crate) mod w2;
pub(crate) mod w3;
pub(crate) mod w4;
pub(crate) mod w5;
pub(crate) mod w6;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::raw::RawDisk;
use crate::results::Results;
use crate::stores::{Background, Column, Store, open};

/// Which work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Work {
    W1,
    W2,
    W3,
    W4,
    W5,
    W6,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Of one W1 measurement.
    pub(crate) commit_duration: Duration,
    /// Of one raw reference.
    pub(crate) raw_duration: Duration,
    /// How often a round is tried on a busy disk.
    pub(crate) attempts_max: u32,
    /// Of W2.
    pub(crate) documents: u64,
    /// Of one pass of W3.
    pub(crate) gets: u64,
    /// Of W5, on the documents of W2.
    pub(crate) overwrites: u64,
    /// Live key and value bytes of the small and of the large vbucket whose publish W5 looks at.
    pub(crate) publish_bytes: [u64; 2],
    /// Compactions of each of those for each way of looking at it.
    pub(crate) publishes: usize,
    /// Of each of the segments of W6's clean open.
    pub(crate) documents_per_segment: u64,
    /// Of W6's crash, as a plain log would hold them.
    pub(crate) crash_log_bytes: u64,
}

impl Scale {
    /// As the targets name it.
    pub(crate) const FULL: Scale = Scale {
        commit_duration: Duration::from_millis(1200),
        raw_duration: Duration::from_millis(400),
        attempts_max: 6,
        documents: 1_000_000,
        gets: 200_000,
        overwrites: 3_000_000,
        publish_bytes: [10_000_000, 1_000_000_000],
        publishes: 2,
        documents_per_segment: 500,
        crash_log_bytes: 64 << 20,
    };

    /// Small, to see that everything works; its ratios say little.
    pub(crate) const QUICK: Scale = Scale {
        commit_duration: Duration::from_millis(300),
        raw_duration: Duration::from_millis(100),
        attempts_max: 1,
        documents: 100_000,
        gets: 50_000,
        overwrites: 150_000,
        publish_bytes: [1_000_000, 20_000_000],
        publishes: 1,
        documents_per_segment: 50,
        crash_log_bytes: 8 << 20,
    };
}

/// A run: what to measure, where, and what came of it.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) scale: Scale,
    pub(crate) columns: Vec<Column>,
    pub(crate) rounds: usize,
    pub(crate) vbuckets: u16,
    pub(crate) directory: PathBuf,
    pub(crate) raw: RawDisk,
    pub(crate) results: Results,
}

impl Bench {
    /// Does these works.
    pub(crate) fn run(&mut self, works: &[Work]) {
        let wants = |work| works.contains(&work);
        if wants(Work::W1) {
            self.each_round("W1", w1::run);
        }
        if wants(Work::W2) || wants(Work::W3) || wants(Work::W4) {
            self.each_round("W2-W4", |bench, round| {
                for column in bench.columns_of_round(round) {
                    let mut loaded = w2::run(bench, column);
                    if wants(Work::W3) {
                        w3::run(bench, &loaded);
                    }
                    if wants(Work::W4) {
                        loaded = w4::run(bench, loaded);
                    }
                    loaded.store.close();
                    remove(&loaded.directory);
                }
            });
        }
        if wants(Work::W5) {
            self.each_round("W5", w5::run);
        }
        if wants(Work::W6) {
            self.each_round("W6", w6::run);
        }
    }

    pub(crate) fn each_round(&mut self, name: &str, run: impl Fn(&mut Bench, usize)) {
        for round in 0..self.rounds {
            eprintln!("{name}, round {} of {}", round + 1, self.rounds);
            run(self, round);
        }
    }

    /// The columns, beginning with another one each round, so that none always comes first.
    pub(crate) fn columns_of_round(&self, round: usize) -> Vec<Column> {
        let mut columns = self.columns.clone();
        let count = columns.len().max(1);
        columns.rotate_left(round % count);
        columns
    }

    /// An empty directory for a store.
    pub(crate) fn fresh_directory(&self, column: Column) -> PathBuf {
        self.fresh_directory_named(&column.to_string().replace(' ', "-"))
    }

    /// The same, of another name.
    pub(crate) fn fresh_directory_named(&self, name: &str) -> PathBuf {
        let directory = self.directory.join(name);
        remove(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    /// The store in `directory`, its background work running.
    pub(crate) fn open(&self, column: Column, directory: &Path) -> Box<dyn Store> {
        open(column, directory, self.vbuckets, Background::Running)
    }
}

/// Removes a store's directory, if it is there.
pub(crate) fn remove(directory: &Path) {
    if directory.exists() {
        std::fs::remove_dir_all(directory).unwrap();
    }
}
