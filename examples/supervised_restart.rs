//! Children of a bucket panic: the application hears of it, service goes on, and nothing acknowledged is lost.
//!
//! The panics are asked for by the harness, as in the tests of an application (feature `testing`).
#![expect(clippy::print_stdout, reason = "an example tells what it sees")]

use actix::prelude::*;
use piggin::messages::vbucket::{Set, WriteOptions};
use piggin::messages::{ChildName, FailureNotice};
use piggin::storage::{CollectionId, DocumentKey};
use piggin::{Bucket, BucketConfig};
use supervisor::testing::{Fault, Harness};

/// Where the application hears of failures.
struct Alarm;

impl Actor for Alarm {
    type Context = Context<Self>;
}

impl Handler<FailureNotice> for Alarm {
    type Result = ();

    fn handle(&mut self, notice: FailureNotice, _: &mut Context<Self>) {
        if let FailureNotice::Failed(failure) = notice {
            let (child, cause) = (failure.child, failure.cause);
            println!("alarm: {child}: {cause}; what is done: {:?}", failure.next);
        }
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = format!("piggin-restart-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    let harness = Harness::new();
    let bucket = Bucket::create(BucketConfig {
        hooks: harness.hooks(),
        ..BucketConfig::at(&directory)
    })
    .await?;
    bucket.subscribe(Alarm.start().recipient());

    // A write is in memory; then the actor of its vbucket panics in the middle of the next.
    bucket.set("colour", "green").await?;
    let vbucket = bucket.vbucket_of(b"colour");
    let child = ChildName::new(format!("vbucket-{vbucket}"));
    let fault = Fault::PanicIn {
        child: child.clone(),
        nth: 1,
    };
    assert!(harness.inject(fault).is_ok());
    let address = bucket.vbucket(vbucket).ok_or("no such vbucket")?;
    let set = Set {
        key: DocumentKey::new(CollectionId::DEFAULT, b"colour")?,
        value: "red".into(),
        options: WriteOptions::default(),
    };
    match address.send(set.clone()).await? {
        Ok(_) => return Err("the actor did not panic".into()),
        Err(error) => println!("the caller is told: {error}"),
    }
    println!("colour is {:?}", bucket.get("colour").await?.value);

    // The address is as good as before.
    address.send(set).await??;
    let found = bucket.get("colour").await?;
    println!("colour is {:?}", found.value);
    assert_eq!(found.value, "red");

    // A writer panics with writes in hand: who waits for the disk is answered all the same.
    let fault = Fault::PanicIn {
        child: ChildName::new("writer-0"),
        nth: 2,
    };
    assert!(harness.inject(fault).is_ok());
    for number in 0..10 {
        let key = format!("document {number}");
        bucket.set(key, "on disk").persisted().await?;
    }
    assert_eq!(harness.faults_waiting(), 0);
    for one in bucket.children() {
        if one.restarts > 0 {
            println!("{}: {:?}, restarted {}x", one.name, one.state, one.restarts);
        }
    }

    println!("shutdown: {}", bucket.shutdown().await?);
    let bucket = Bucket::open(BucketConfig::at(&directory)).await?;
    assert_eq!(bucket.statistics().documents, 11);
    assert_eq!(bucket.get("colour").await?.value, "red");
    bucket.shutdown().await?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
