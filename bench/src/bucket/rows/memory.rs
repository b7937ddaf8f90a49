//! Memory for each document beyond its key and value: of a process that does nothing else, and as the engine counts.
//!
//! The process is this program again, with a hidden subcommand: it makes a bucket, looks at its memory, loads, waits until
//! everything is on disk, looks again, and says both figures.

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
    dir: PathBuf,
    #[arg(long)]
    documents: u64,
    #[arg(long)]
    vbuckets: u16,
}

pub(crate) fn run(bench: &mut BucketBench) {
    for contender in bench.buckets() {
        let Contender::Bucket { vbuckets } = contender else {
            continue;
        };
        let place = bench.place(contender);
        let documents = bench.scale.documents;
        let output = Command::new(std::env::current_exe().unwrap())
            .arg("fill-and-tell")
            .arg("--dir")
            .arg(&place)
            .args(["--documents", &documents.to_string()])
            .args(["--vbuckets", &vbuckets.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let numbers: Vec<f64> = said.split_whitespace().flat_map(str::parse).collect();
        let [of_process, as_counted, seconds] = numbers[..] else {
            let told = String::from_utf8_lossy(&output.stderr);
            panic!("the process that fills said {said:?} and {told}");
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
fn resident_bytes() -> f64 {
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
