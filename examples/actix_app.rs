//! A bucket under an actix application's own actor.
//!
//! The application holds the address of a `BucketActor` like that of any other actor, and hears of escalations.
#![expect(clippy::print_stdout, reason = "an example tells what it sees")]

use actix::prelude::*;
use piggin::messages::vbucket::{Get, Set, WriteOptions};
use piggin::messages::{FailureNotice, OperationError};
use piggin::storage::{CollectionId, DocumentKey};
use piggin::{Bucket, BucketActor, BucketConfig, Shutdown};

/// The application's own actor: counts visitors, and keeps the count in the bucket.
struct Visitors {
    bucket: Addr<BucketActor>,
}

impl Actor for Visitors {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "Result<u64, Box<dyn std::error::Error + Send + Sync>>")]
struct Visit {
    page: &'static str,
}

impl Handler<Visit> for Visitors {
    type Result = ResponseFuture<Result<u64, Box<dyn std::error::Error + Send + Sync>>>;

    fn handle(&mut self, visit: Visit, _: &mut Context<Self>) -> Self::Result {
        let bucket = self.bucket.clone();
        Box::pin(async move {
            let key = DocumentKey::new(CollectionId::DEFAULT, visit.page.as_bytes())?;
            loop {
                // Read, change, write with the CAS read: a visitor counted meanwhile is not lost.
                let (count, cas) = match bucket.send(Get { key: key.clone() }).await? {
                    Ok(found) => (
                        String::from_utf8_lossy(&found.value).parse()?,
                        Some(found.meta.cas),
                    ),
                    Err(OperationError::KeyNotFound) => (0_u64, None),
                    Err(error) => return Err(error.into()),
                };
                let count = count.saturating_add(1);
                let options = WriteOptions {
                    cas,
                    ..WriteOptions::default()
                };
                let value = count.to_string().into();
                match bucket
                    .send(Set {
                        key: key.clone(),
                        value,
                        options,
                    })
                    .await?
                {
                    Ok(_) => return Ok(count),
                    Err(OperationError::CasMismatch { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        })
    }
}

/// Hears of what restarts did not help against.
struct Alarm;

impl Actor for Alarm {
    type Context = Context<Self>;
}

impl Handler<FailureNotice> for Alarm {
    type Result = ();

    fn handle(&mut self, notice: FailureNotice, _: &mut Context<Self>) {
        println!("alarm: {notice:?}");
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let directory = std::env::temp_dir().join(format!("piggin-actix-app-{}", std::process::id()));
    let bucket = Bucket::open_or_create(BucketConfig::at(&directory)).await?;
    let alarm = Alarm.start().recipient();
    let bucket = BucketActor::new(bucket).forward_escalations(alarm).start();

    let visitors = Visitors {
        bucket: bucket.clone(),
    }
    .start();
    for page in ["/", "/about", "/"] {
        let count = visitors.send(Visit { page }).await??;
        println!("{page} was visited {count} times");
    }

    let report = bucket.send(Shutdown).await??;
    println!("shutdown: {report}");
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
