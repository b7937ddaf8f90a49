//! W6: opening, after a clean close and after the writing process was killed.
//!
//! The time runs until the first get is answered, so that nothing is gained by opening lazily. The writer that is
//! killed is this program again, with a hidden subcommand: it writes durable batches, says that it is done, and
//! waits for the end.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{Bench, remove};
use crate::raw::{bytes_on_disk, drop_caches};
use crate::results::{Figure, Sample};
use crate::statistics::ProcessorTime;
use crate::stores::{Background, Column, Durability, Kind, Layout, Store, open};
use crate::workload::{Workload, log_bytes};

/// As many as the target names.
const SEGMENTS: u64 = 4;
const BATCH: u64 = 1024;
const VALUE_LENGTH: usize = 256;

/// What the writer that will be killed is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Doomed {
    #[arg(long)]
    pub(crate) store: Kind,
    #[arg(long)]
    pub(crate) layout: Layout,
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[arg(long)]
    pub(crate) documents: u64,
    #[arg(long)]
    pub(crate) vbuckets: u16,
}

/// Measures all three openings.
pub(crate) fn run(bench: &mut Bench, round: usize) {
    for column in bench.columns_of_round(round) {
        clean(bench, column);
        after_crash(bench, column);
    }
}

fn clean(bench: &mut Bench, column: Column) {
    let per_segment = bench.scale.documents_per_segment * u64::from(bench.vbuckets);
    let mut workload = Workload::new(bench.vbuckets, VALUE_LENGTH, SEGMENTS * per_segment);
    let directory = bench.fresh_directory(column);
    let store = bench.open(column, &directory);
    for segment in 0..SEGMENTS {
        let first = segment * per_segment;
        let end = first + per_segment;
        for first in (first..end).step_by(BATCH as usize) {
            let last = end.min(first + BATCH);
            store.write(workload.batch(first..last), Durability::Buffered);
        }
        store.sync();
        store.settle();
    }
    store.close();
    bench.raw.wait_until_quiet();
    let (warm, store) = opening(bench, column, &directory, &workload);
    bench.results.add(Figure::OpenClean, column, warm);
    store.close();
    if drop_caches() {
        let (cold, store) = opening(bench, column, &directory, &workload);
        bench.results.add(Figure::OpenCleanCold, column, cold);
        store.close();
    }
    remove(&directory);
}

fn after_crash(bench: &mut Bench, column: Column) {
    let documents = bench
        .scale
        .crash_log_bytes
        .div_ceil(log_bytes(VALUE_LENGTH, 1));
    let directory = bench.fresh_directory(column);
    let doomed = Doomed {
        store: column.kind,
        layout: column.layout,
        dir: directory.clone(),
        documents,
        vbuckets: bench.vbuckets,
    };
    write_in_a_process_and_kill_it(&doomed);
    let mut workload = Workload::new(bench.vbuckets, VALUE_LENGTH, documents);
    workload.batch(0..documents);
    bench.raw.wait_until_quiet();
    let (sample, store) = opening(bench, column, &directory, &workload);
    bench.results.add(Figure::OpenAfterCrash, column, sample);
    store.close();
    remove(&directory);
}

/// Opens and reads the document written last.
fn opening(
    bench: &Bench,
    column: Column,
    directory: &Path,
    workload: &Workload,
) -> (Sample, Box<dyn Store>) {
    let last = workload.documents() - 1;
    let bytes_on_disk = bytes_on_disk(directory);
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    let store = bench.open(column, directory);
    store.get(&[workload.name(last)], &mut |value| {
        assert_eq!(
            value,
            workload.newest_value(last),
            "{column}: a wrong value"
        );
    });
    let sample = Sample {
        amount: begin.elapsed().as_secs_f64() * 1e3,
        operations: 1,
        latency: None,
        bytes_on_disk: Some(bytes_on_disk),
        processor: ProcessorTime::since(processor),
        raw: None,
    };
    (sample, store)
}

fn write_in_a_process_and_kill_it(doomed: &Doomed) {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .arg("write-until-killed")
        .args(["--store", doomed.store.name()])
        .args(["--layout", doomed.layout.name()])
        .arg("--dir")
        .arg(&doomed.dir)
        .args(["--documents", &doomed.documents.to_string()])
        .args(["--vbuckets", &doomed.vbuckets.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    output.read_line(&mut said).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(said, "done\n", "the writer failed");
}

/// The writer's side: never returns.
pub(crate) fn write_until_killed(doomed: &Doomed) -> ! {
    let column = Column {
        kind: doomed.store,
        layout: doomed.layout,
    };
    let mut workload = Workload::new(doomed.vbuckets, VALUE_LENGTH, doomed.documents);
    let store = open(column, &doomed.dir, doomed.vbuckets, Background::Stopped);
    for first in (0..doomed.documents).step_by(BATCH as usize) {
        let last = doomed.documents.min(first + BATCH);
        store.write(workload.batch(first..last), Durability::Synced);
    }
    println!("done");
    std::io::stdout().flush().unwrap();
    // Here it is killed. Should the one who kills be gone, the pipe from it ends.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    std::process::abort();
}
