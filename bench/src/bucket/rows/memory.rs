//! Memory for each document beyond its key and value: of a process that does nothing else, and as the engine counts.
//!
//! The process is this program again, with a hidden subcommand: it makes a bucket, looks at its memory, loads, waits until
//! everything is on disk, looks again, and says both figures. The row for more documents than memory has one of its own.

use std::path::PathBuf;
use std::process::Command;

use crate::bucket::contestants::{Contestant, Ours};
use crate::bucket::{BucketBench, BucketFigure, Contender, VALUE_LENGTH};
use crate::raw::bytes_on_disk;
use crate::results::Sample;
use crate::statistics::ProcessorTime;
use crate::workload::{KEY_LENGTH, Pool};
use crate::works::remove;

/// What the process that fills a bucket is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Filling {
    #[arg(long)]
    pub(super) dir: PathBuf,
    #[arg(long)]
    pub(super) documents: u64,
    #[arg(long)]
    pub(super) vbuckets: u16,
}

impl Filling {
    /// The numbers said by this program's subcommand of that name, in a process of its own.
    pub(super) fn told_by(&self, subcommand: &str) -> Vec<f64> {
        let output = Command::new(std::env::current_exe().unwrap())
            .arg(subcommand)
            .arg("--dir")
            .arg(&self.dir)
            .args(["--documents", &self.documents.to_string()])
            .args(["--vbuckets", &self.vbuckets.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{subcommand} said {said:?} and {told}"
        );
        said.split_whitespace().flat_map(str::parse).collect()
    }
}

pub(crate) fn run(bench: &mut BucketBench) {
    for contender in bench.buckets() {
        let Contender::Bucket { vbuckets } = contender else {
            continue;
        };
        let place = bench.place(contender);
        let documents = bench.scale.documents;
        let filling = Filling {
            dir: place.clone(),
            documents,
            vbuckets,
        };
        let numbers = filling.told_by("fill-and-tell");
        let [of_process, as_counted, seconds] = numbers[..] else {
            panic!("the process that fills said {numbers:?}");
        };
        let sample = |amount| Sample {
            amount,
            operations: documents,
            latency: None,
            bytes_on_disk: Some(bytes_on_disk(&place)),
            processor: ProcessorTime {
                process: seconds,
                thread: seconds,
            },
            raw: None,
        };
        if !of_process.is_nan() {
            let figure = BucketFigure::MemoryOfProcess;
            bench.results.add(figure, contender, sample(of_process));
        }
        let figure = BucketFigure::MemoryAsCounted;
        bench.results.add(figure, contender, sample(as_counted));
        remove(&place);
    }
}

/// The side of the process that fills.
pub(crate) fn fill_and_tell(filling: &Filling) {
    let pool = Pool::new();
    let bucket = Ours::create(&filling.dir, filling.vbuckets);
    let before = resident_bytes();
    bucket.load(0..filling.documents, &pool, VALUE_LENGTH);
    let after = resident_bytes();
    let counted = bucket.0.statistics().memory.bytes;
    let user_bytes = (KEY_LENGTH + VALUE_LENGTH) as f64;
    let each = |bytes: f64| bytes / filling.documents as f64 - user_bytes;
    println!(
        "{} {} {}",
        each(after - before),
        each(counted as f64),
        ProcessorTime::now().process
    );
    bucket.close();
}

/// Of this process; not a number where the system does not tell.
pub(super) fn resident_bytes() -> f64 {
    let Ok(pages) = std::fs::read_to_string("/proc/self/statm") else {
        return f64::NAN;
    };
    let resident = pages
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok());
    resident.map_or(f64::NAN, |pages: f64| {
        pages * rustix::param::page_size() as f64
    })
}

/// The most it ever was, of this process; not a number where the system does not tell.
pub(super) fn resident_bytes_most() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = most.and_then(|most| most.trim().trim_end_matches(" kB").parse().ok());
    kibibytes.map_or(f64::NAN, |kibibytes: f64| kibibytes * 1024.0)
}
