//! A bucket and a copy of it that follows: from what is on disk, while it is written, after it was away, and, once it is
//! made the active one, in its place.
//!
//! `cargo run --example replica`. Prints each step; exits with an error if a check fails.
#![expect(clippy::print_stdout, reason = "an example tells what it sees")]

use std::error::Error;
use std::path::Path;

use futures_executor::block_on;

use piggin::messages::vbucket::SetVbucketState;
use piggin::storage::VbucketState;
use piggin::{Bucket, BucketConfig, Replication};

const DOCUMENTS: usize = 2000;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("piggin-replica-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let told = block_on(run(&directory));
    std::fs::remove_dir_all(&directory)?;
    told
}

async fn run(directory: &Path) -> Result<(), Box<dyn Error>> {
    let bucket = Bucket::create(BucketConfig::at(directory.join("bucket"))).await?;
    let copy = Bucket::create(BucketConfig::at(directory.join("copy"))).await?;
    write(&bucket, "first").await?;

    let replication = bucket.replicate(bucket.vbuckets(), &copy)?;
    caught_up(&replication).await?;
    println!("the copy has all {DOCUMENTS} documents");

    write(&bucket, "second").await?;
    caught_up(&replication).await?;
    println!("and follows while they are written again");

    drop(replication);
    copy.shutdown().await?;
    write(&bucket, "third").await?;
    let copy = Bucket::open(BucketConfig::at(directory.join("copy"))).await?;
    let replication = bucket.replicate(bucket.vbuckets(), &copy)?;
    caught_up(&replication).await?;
    let again: u64 = replication.status().iter().map(|one| one.rollbacks).sum();
    check(again == 0, "it goes on where it was")?;
    println!("it was away, and went on where it was");

    // The bucket is given up; its copy takes over.
    drop(replication);
    bucket.shutdown().await?;
    for vbucket in copy.vbuckets() {
        let active = SetVbucketState {
            state: VbucketState::Active,
            topology: None,
            is_takeover: false,
        };
        let address = copy.vbucket(vbucket).ok_or("it has that vbucket")?;
        address.send(active).await??;
    }
    for number in 0..DOCUMENTS {
        let found = copy.get(key(number)).await?;
        check(found.value == "third", "it has the newest of each")?;
    }
    copy.set(key(0), "fourth").persisted().await?;
    println!("the copy serves in its place, with the newest of every document");
    copy.shutdown().await?;
    Ok(())
}

async fn write(bucket: &Bucket, value: &'static str) -> Result<(), Box<dyn Error>> {
    for number in 0..DOCUMENTS {
        bucket.set(key(number), value).await?;
    }
    Ok(())
}

async fn caught_up(replication: &Replication) -> Result<(), Box<dyn Error>> {
    let caught = replication.caught_up().await;
    caught.map_err(|status| format!("it is over: {status:?}").into())
}

fn key(number: usize) -> String {
    format!("document {number}")
}

fn check(holds: bool, what: &str) -> Result<(), Box<dyn Error>> {
    if holds {
        Ok(())
    } else {
        Err(format!("this does not hold: {what}").into())
    }
}
