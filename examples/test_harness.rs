//! An application's own actor, tested with the harness: a commit fails, a worker panics, the power goes. In virtual time.
use std::error::Error;
use std::time::Duration;

use actix::prelude::*;
use piggin::Bucket;
use piggin::messages::{ChildName, OperationError};
use supervisor::testing::{Fault, World}; // `piggin::testing`, with that feature

/// What is tested: counts visitors, and says how many only when that is on disk.
struct Visitors(Bucket);

#[derive(Message)]
#[rtype(result = "Result<u64, OperationError>")]
struct Visit;

impl Actor for Visitors {
    type Context = Context<Self>;
}

impl Handler<Visit> for Visitors {
    type Result = AtomicResponse<Self, Result<u64, OperationError>>;

    fn handle(&mut self, _: Visit, _: &mut Context<Self>) -> Self::Result {
        let bucket = self.0.clone();
        let visit = async move {
            let before = match bucket.get("visitors").await {
                Err(OperationError::KeyNotFound) => "0".into(),
                found => found?.value,
            };
            let count = String::from_utf8_lossy(&before).parse().unwrap_or(0) + 1;
            let written = bucket.set("visitors", count.to_string()).persisted();
            written.await.map(|_| count)
        };
        AtomicResponse::new(Box::pin(visit.into_actor(self)))
    }
}

async fn visit_until_the_power_goes(world: World) -> Result<(), Box<dyn Error + Send + Sync>> {
    let bucket = world.create(world.config()).await?;
    world.inject(Fault::FlushCommit(3));
    let child = ChildName::new("writer-0");
    world.inject(Fault::PanicIn { child, nth: 30 });
    let moment = world.random("power").between(0..=1000);
    world.cut_power_after(Duration::from_millis(moment));
    let (visitors, mut told) = (Visitors(bucket).start(), 0);
    while let Ok(Ok(count)) = visitors.send(Visit).await {
        told = count;
    }
    let bucket = world.open(world.config()).await?;
    let next = Visitors(bucket).start().send(Visit).await??;
    // One more may have been counted than was told.
    assert!(next == told + 1 || next == told + 2, "{told}, then {next}");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    (0..50).try_for_each(|seed| World::run(seed, visit_until_the_power_goes)?)
}
