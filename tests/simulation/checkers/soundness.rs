//! The store holds together: no fault on disk, and every scan proves that it is complete.
//!
//! Invariant (id `store-is-sound`): `verify` finds nothing, no vbucket is down, seqnos rise in every scan.

use std::ops::ControlFlow;

use piggin::storage;
use storage::{KvStore, LogStore, OpenOptions, Outcome, Seqno, SeqnoRange, StorageError};
use supervisor::testing::World;

/// Of a bucket that is shut down. Changes nothing.
pub(crate) fn check(world: &World, options: &OpenOptions) -> Result<Vec<String>, StorageError> {
    // Another disk of the same content, so that looking leaves no trace.
    let disk = world.simulated_disk().crash_keeping_everything();
    let store = LogStore::open(std::sync::Arc::new(disk), *options)?;
    let faults = store.verify().faults.into_iter();
    let mut findings: Vec<String> = faults.map(|fault| format!("verify: {fault:?}")).collect();
    for vbucket in store.vbuckets() {
        let vbucket = vbucket.vbucket;
        let snapshot = store.snapshot(vbucket)?;
        let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
        let mut last = Seqno::ZERO;
        let mut is_rising = true;
        loop {
            let outcome = scan.step(1 << 16, &mut |item| {
                is_rising &= item.seqno > last;
                last = item.seqno;
                ControlFlow::Continue(())
            });
            match outcome {
                Outcome::Yielded => {}
                Outcome::Complete(end) if is_rising && end.high_seqno >= last => break,
                ended @ (Outcome::Complete(_) | Outcome::Aborted(_) | Outcome::Failed(_)) => {
                    findings.push(format!("scan of vbucket {vbucket} at {last}: {ended:?}"));
                    break;
                }
            }
        }
    }
    Ok(findings)
}
