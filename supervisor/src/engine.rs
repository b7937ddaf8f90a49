//! The engine's own thread: opens the store, runs the System the actors live in, and goes with the bucket.
//!
//! Invariant: whoever opens a bucket learns how that went, also when the thread dies on the way; when the thread ends,
//! every handle's request is answered. Needs nothing of the runtime the caller is on.

use std::sync::Arc;
use std::thread;

use actix::{Arbiter, System};
use tokio::sync::oneshot;

use actors::executor::threads::ThreadExecutor;
use actors::system::{SystemClock, SystemRandom};

use crate::bucket::Bucket;
use crate::bucket_config::BucketConfig;
use crate::bucket_error::BucketError;
use crate::opening::{self, Opening};
use crate::wiring::{self, Ground};

/// Opens a bucket on an engine of its own.
pub(crate) async fn launch(mut config: BucketConfig, how: Opening) -> Result<Bucket, BucketError> {
    // Here threads wait for each other.
    config.store.is_stepped = false;
    let (answer, opened) = oneshot::channel();
    let body = move || run(&config, how, answer);
    thread::Builder::new()
        .name("piggin-control".to_owned())
        .spawn(body)
        .map_err(|error| failed("the engine's thread", &error))?;
    let died = |_| failed("the engine", &"its thread died; its panic says why");
    opened.await.map_err(died)?
}

fn failed(what: &str, cause: &dyn ToString) -> BucketError {
    BucketError::Engine {
        what: what.to_owned(),
        cause: cause.to_string(),
    }
}

/// The body of the engine's thread.
fn run(config: &BucketConfig, how: Opening, answer: oneshot::Sender<Result<Bucket, BucketError>>) {
    let prepared = ground(config).and_then(|ground| {
        let opened = opening::open(config, how, &*ground.random)?;
        Ok((ground, opened))
    });
    let (ground, opened) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // Whoever asked may be gone.
            drop(answer.send(Err(error)));
            return;
        }
    };
    System::new().block_on(async move {
        let arbiters: Vec<Arbiter> = (0..wiring::actor_threads(config))
            .map(|_| Arbiter::new())
            .collect();
        let handles = arbiters.iter().map(Arbiter::handle).collect();
        let executor = Arc::clone(&ground.executor);
        match wiring::start(config, opened, ground, handles).await {
            Ok(engine) => {
                let bucket = Bucket::of(Arc::clone(engine.running()));
                // If nobody takes it, this was the last handle, and the engine is told to stop.
                drop(answer.send(Ok(bucket)));
                engine.run().await;
            }
            Err(error) => {
                // The directory is free again before the caller learns that it was not opened.
                executor.stop();
                executor.all_ended().await;
                drop(answer.send(Err(error)));
            }
        }
        for arbiter in &arbiters {
            arbiter.stop();
        }
        for arbiter in arbiters {
            drop(arbiter.join());
        }
    });
}

/// What production stands on.
fn ground(config: &BucketConfig) -> Result<Ground, BucketError> {
    let hooks = config.hooks();
    let random = SystemRandom::new().map_err(|error| failed("randomness", &error))?;
    Ok(Ground {
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(random),
        executor: Arc::new(ThreadExecutor::new().hooks(&hooks)),
        hooks,
    })
}
