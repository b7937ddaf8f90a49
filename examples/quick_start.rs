//! A bucket in a directory: write, read, survive. Runs on a plain thread; any runtime would do.
//!
//! Shows the two acknowledgements: in memory, and on disk.
#![expect(clippy::print_stdout, reason = "an example tells what it sees")]

use futures_executor::block_on;
use piggin::{Bucket, BucketConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("piggin-quick-start-{}", std::process::id()));
    block_on(run(&directory))?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

async fn run(directory: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let bucket = Bucket::create(BucketConfig::at(directory)).await?;

    // Acknowledged in memory: it is on its way to the disk, and survives the panic of any actor.
    let written = bucket.set("airport::VIE", r#"{"name":"Vienna"}"#).await?;

    // Acknowledged on disk: it survives the death of the process. The CAS says that nobody changed it meanwhile.
    let document = r#"{"name":"Vienna International"}"#;
    let durable = bucket
        .replace("airport::VIE", document)
        .cas(written.cas)
        .persisted()
        .await?;
    println!(
        "vbucket {} is on disk up to seqno {}",
        durable.token.vbucket, durable.token.seqno
    );

    // Somebody who read the first version is told so.
    let late = bucket.set("airport::VIE", "{}").cas(written.cas).await;
    println!(
        "a late writer is told: {}",
        late.err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    );

    let report = bucket.shutdown().await?;
    println!("shutdown: {report}");

    let bucket = Bucket::open(BucketConfig::at(directory)).await?;
    let found = bucket.get("airport::VIE").await?;
    println!(
        "after opening again: {}",
        String::from_utf8_lossy(&found.value)
    );
    bucket.shutdown().await?;
    Ok(())
}
