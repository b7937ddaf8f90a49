//! Buckets in a world, each as the process it would be: opened on the world's disk, and ended with the power, by a kill,
//! or in order.
//!
//! Invariant: a process that was ended does nothing more: its workers get no further step, its actors are dropped, its
//! disk is dead, and whoever holds a handle to its bucket is told so.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;

use actix::Arbiter;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use actors::executor::StopWorkers;
use actors::simulation::SimulatedExecutor;
use storage::{Eviction, MemoryMarks};

use crate::bucket::Bucket;
use crate::bucket_config::{BucketConfig, Location};
use crate::bucket_error::BucketError;
use crate::opening::{self, Opening};
use crate::running::Running;
use crate::testing::world::World;
use crate::wiring::{self, Ground};

/// Actor threads of a bucket whose configuration names no number; that of the machine's cores is no part of the seed.
const ACTOR_THREADS: usize = 2;

/// A bucket in a world.
pub(crate) struct Process {
    executor: Arc<SimulatedExecutor>,
    engine: Option<AbortHandle>,
    running: Weak<Running>,
    /// Held for as long as it lives.
    _alive: oneshot::Sender<()>,
}

impl Process {
    /// Ends it where it stands.
    pub(crate) fn end(self) {
        self.executor.kill_all();
        if let Some(running) = self.running.upgrade() {
            running.perish("its process was ended");
        }
        if let Some(engine) = self.engine {
            engine.abort();
        }
    }

    /// Whether there is anything left to end.
    pub(crate) fn is_alive(&self) -> bool {
        !self.engine.as_ref().is_some_and(AbortHandle::is_finished)
    }
}

impl World {
    /// The usual configuration for a bucket on the disk of this world.
    #[must_use]
    pub fn config(&self) -> BucketConfig {
        let config = BucketConfig::on(self.disk());
        if !self.evicts() {
            return config;
        }
        // Whole documents in one seed, values alone in the next.
        let eviction = if self.seed().is_multiple_of(2) {
            Eviction::Values
        } else {
            Eviction::Documents
        };
        BucketConfig {
            memory_marks: MemoryMarks::ALL_LEAVES,
            eviction: Some(eviction),
            ..config
        }
    }

    /// Makes a bucket on this world's disk (wherever else the configuration points), and opens it.
    pub async fn create(&self, config: BucketConfig) -> Result<Bucket, BucketError> {
        self.launch(config, Opening::Create).await
    }

    /// Opens the bucket on this world's disk, whatever state it was left in.
    pub async fn open(&self, config: BucketConfig) -> Result<Bucket, BucketError> {
        self.launch(config, Opening::Existing).await
    }

    /// Opens the bucket on this world's disk, or makes one.
    pub async fn open_or_create(&self, config: BucketConfig) -> Result<Bucket, BucketError> {
        self.launch(config, Opening::CreateIfMissing).await
    }

    async fn launch(&self, mut config: BucketConfig, how: Opening) -> Result<Bucket, BucketError> {
        config.location = Location::Disk(self.disk());
        // A job that would wait for another on the one thread yields instead.
        config.store.is_stepped = true;
        let executor = self.executor_of_process();
        let ground = Ground {
            clock: Arc::new(self.clock()),
            random: self.random("environment"),
            executor: self.before_executor(&executor),
            hooks: self.hooks(),
        };
        let opened = opening::open(&config, how, &*ground.random)?;
        let threads = config.actor_threads.unwrap_or(ACTOR_THREADS).clamp(1, 8);
        let arbiters = vec![Arbiter::current(); threads];
        let (alive, mut dead) = oneshot::channel();
        let number = self.enter(Process {
            executor: Arc::clone(&executor),
            engine: None,
            running: Weak::new(),
            _alive: alive,
        });
        let started = {
            let mut starting = pin!(wiring::start(&config, opened, ground, arbiters));
            poll_fn(|context| match starting.as_mut().poll(context) {
                Poll::Pending => pin!(&mut dead).poll(context).map(|_| Err(ended())),
                ready @ Poll::Ready(_) => ready,
            })
            .await
        };
        match started {
            Ok(engine) => {
                let running = Arc::clone(engine.running());
                let weak = Arc::downgrade(&running);
                let engine = tokio::task::spawn_local(engine.run()).abort_handle();
                self.change(number, |process| {
                    process.running = weak;
                    process.engine = Some(engine);
                });
                Ok(Bucket::of(running))
            }
            Err(error) => {
                self.leave(number);
                executor.kill_all();
                executor.all_ended().await;
                Err(error)
            }
        }
    }
}

fn ended() -> BucketError {
    BucketError::Engine {
        what: "the bucket".to_owned(),
        cause: "its process was ended while it was opened".to_owned(),
    }
}
