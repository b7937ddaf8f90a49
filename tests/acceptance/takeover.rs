//! A vbucket is taken over from a bucket by another, on threads, by a caller that has no runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use piggin::messages::OperationError;
use piggin::storage::{Advice, Topology};
use piggin::{Bucket, BucketConfig};

use crate::support::{Result, TempDirectory, block_on, key_in, made_small, vbucket};

fn made(directory: &TempDirectory, name: &str) -> Result<Bucket> {
    let config = BucketConfig {
        node_name: Some(name.to_owned()),
        ..made_small(BucketConfig::at(directory.path()))
    };
    Ok(block_on(Bucket::create(config))?)
}

/// Writes rising values to the node that takes them until it is told to stop and one was acknowledged; the last that was.
fn write(nodes: &[Bucket; 2], number: usize, is_over: &AtomicBool) -> (String, u64) {
    let key = key_in(&nodes[0], vbucket(1), number);
    let (mut at, mut acknowledged) = (0, 0);
    // A thread that had no turn before all was over has it now.
    while !is_over.load(Ordering::Acquire) || acknowledged == 0 {
        match block_on(nodes[at].set(&key, (acknowledged + 1).to_string())) {
            Ok(_) => acknowledged += 1,
            Err(OperationError::NotMyVbucket { .. }) => at = 1 - at,
            Err(error) => assert_eq!(error.advice(), Advice::RetryLater, "{error}"),
        }
        std::thread::yield_now();
    }
    (key, acknowledged)
}

#[test]
fn a_vbucket_moves_to_and_fro_under_writes() -> Result {
    let directories = [TempDirectory::new(), TempDirectory::new()];
    let nodes = [made(&directories[0], "a")?, made(&directories[1], "b")?];
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|number| {
            let (nodes, is_over) = (nodes.clone(), Arc::clone(&is_over));
            std::thread::spawn(move || write(&nodes, number, &is_over))
        })
        .collect();
    for round in 0..6 {
        let (from, to) = (&nodes[round % 2], &nodes[1 - round % 2]);
        let chain = Topology::of_chain([to.node_name()]);
        let taken = block_on(to.take_over(from, vbucket(1), &chain))?;
        assert_eq!(taken.vbucket, vbucket(1));
    }
    is_over.store(true, Ordering::Release);
    for writer in writers {
        let (key, acknowledged) = writer.join().expect("no panic");
        assert!(acknowledged > 0, "{key}");
        // Six moves: it is where it was.
        let found = block_on(nodes[0].get(&key))?;
        assert_eq!(found.value, acknowledged.to_string());
        let elsewhere = block_on(nodes[1].get(&key));
        assert!(
            matches!(elsewhere, Err(OperationError::NotMyVbucket { .. })),
            "{elsewhere:?}"
        );
    }
    for node in nodes {
        block_on(node.shutdown())?;
    }
    Ok(())
}
