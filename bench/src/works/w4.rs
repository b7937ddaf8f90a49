//! W4: a scan of every vbucket by seqno, in memory and not, every store verifying what it verifies by default.

use std::time::Instant;

use super::Bench;
use super::w2::Loaded;
use crate::raw::drop_caches;
use crate::results::{Figure, Raw, Sample};
use crate::statistics::ProcessorTime;
use crate::stores::Store;
use crate::workload::Workload;

/// Measures both, and hands the store back, opened anew.
pub(crate) fn run(bench: &mut Bench, loaded: Loaded) -> Loaded {
    bench.raw.wait_until_quiet();
    // The first pass brings everything into memory.
    scan(bench, &*loaded.store, &loaded.workload);
    let warm = scan(bench, &*loaded.store, &loaded.workload);
    bench.results.add(Figure::ScanWarm, loaded.column, warm);
    let user_bytes = loaded.workload.documents() * loaded.workload.user_bytes_each();
    let Loaded {
        column,
        directory,
        store,
        workload,
    } = loaded;
    store.close();
    bench.raw.wait_until_quiet();
    let raw = bench.raw.cold_sequential_read(user_bytes);
    let is_cold = drop_caches();
    let store = bench.open(column, &directory);
    if is_cold {
        let mut cold = scan(bench, &*store, &workload);
        cold.raw = Some(Raw {
            p50_us: None,
            amount: raw,
            files_p50_us: None,
        });
        bench.results.add(Figure::ScanCold, column, cold);
    } else {
        eprintln!("  no cold scan: only root may make the system drop its caches");
    }
    Loaded {
        column,
        directory,
        store,
        workload,
    }
}

fn scan(bench: &Bench, store: &dyn Store, workload: &Workload) -> Sample {
    let mut documents = 0;
    let mut bytes = 0;
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    for vbucket in 0..bench.vbuckets {
        let mut last = 0;
        store.scan(vbucket, &mut |found| {
            assert!(found.seqno > last, "a scan out of order");
            last = found.seqno;
            documents += 1;
            bytes += found.key.len() + found.value.len();
        });
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let processor = ProcessorTime::since(processor);
    assert_eq!(documents, workload.documents(), "a scan is not complete");
    assert_eq!(bytes as u64, documents * workload.user_bytes_each());
    Sample {
        amount: bytes as f64 / elapsed / 1e6,
        operations: documents,
        latency: None,
        bytes_on_disk: None,
        processor,
        raw: None,
    }
}
