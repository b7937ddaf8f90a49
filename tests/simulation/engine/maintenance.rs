//! Maintenance: walks the store's background work a step at a time, beside the writers.
//!
//! Invariant: it looks again after a while, whatever became of the last piece of work.

use std::time::Duration;

use piggin::storage;
use storage::{Job, LogStore, Outcome};
use supervisor::testing::{Step, Worker};

pub(crate) struct Maintenance {
    store: LogStore,
    shards: u16,
    /// The shard to look at next.
    next: u16,
    doing: Option<Box<dyn Job<Output = ()> + Send>>,
}

impl Maintenance {
    pub(crate) fn new(store: LogStore, shards: u16) -> Maintenance {
        Maintenance {
            store,
            shards,
            next: 0,
            doing: None,
        }
    }
}

impl Worker for Maintenance {
    fn step(&mut self) -> Step {
        if let Some(job) = &mut self.doing {
            if !matches!(job.step(), Outcome::Yielded) {
                self.doing = None;
            }
            return Step::Again;
        }
        for _ in 0..self.shards {
            let shard = self.next;
            self.next = (shard + 1) % self.shards;
            if let Some(job) = self.store.maintenance_job(shard) {
                self.doing = Some(Box::new(job));
                return Step::Again;
            }
        }
        Step::IdleFor(Duration::from_millis(20))
    }
}
