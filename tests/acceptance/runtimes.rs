//! The same calls on whatever runtime the embedder is: many threads, one thread, none at all.

use std::future::Future;

use piggin::{Bucket, BucketConfig};

use crate::support::{Result, TempDirectory, block_on, made_small, small};

/// Everything a caller does with a bucket, once.
async fn use_it(config: BucketConfig) -> Result {
    let bucket = Bucket::create(config).await?;
    bucket.set("in memory", "1").await?;
    bucket.set("on disk", "2").persisted().await?;
    assert_eq!(bucket.get("in memory").await?.value, "1");
    bucket.flush().await?;
    bucket.delete("in memory").await?;
    assert!(!bucket.exists("in memory").await?);
    let report = bucket.shutdown().await?;
    assert!(report.is_clean());
    Ok(())
}

fn check(run: impl FnOnce(BucketConfig) -> Result) -> Result {
    let directory = TempDirectory::new();
    run(made_small(BucketConfig::at(directory.path())))?;
    let bucket = block_on(Bucket::open(small(BucketConfig::at(directory.path()))))?;
    assert_eq!(block_on(bucket.get("on disk"))?.value, "2");
    assert!(!block_on(bucket.exists("in memory"))?);
    block_on(bucket.shutdown())?;
    Ok(())
}

fn assert_send<F: Future + Send>(future: F) -> F {
    future
}

#[test]
fn a_runtime_of_many_threads() -> Result {
    check(|config| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()?;
        runtime.block_on(async { tokio::spawn(assert_send(use_it(config))).await? })
    })
}

#[test]
fn a_runtime_of_one_thread() -> Result {
    check(|config| {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(use_it(config))
    })
}

#[test]
fn no_runtime() -> Result {
    check(|config| block_on(use_it(config)))
}

#[test]
fn the_system_of_actix() -> Result {
    check(|config| actix::System::new().block_on(use_it(config)))
}
