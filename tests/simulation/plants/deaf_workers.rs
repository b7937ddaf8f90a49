//! An executor whose writers do not hear every wake-up.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use piggin::messages::ChildName;
use supervisor::testing::{Executor, StartError, StopWorkers, WakeWorker, WorkerSpec};

/// Of so many wake-ups one is heard.
const ONE_OF: u64 = 3;

#[derive(Debug)]
pub(super) struct DeafWorkers {
    inner: Arc<dyn StopWorkers>,
}

impl DeafWorkers {
    pub(super) fn new(inner: Arc<dyn StopWorkers>) -> DeafWorkers {
        DeafWorkers { inner }
    }
}

impl Executor for DeafWorkers {
    fn start(&self, spec: WorkerSpec) -> Result<WakeWorker, StartError> {
        let is_deaf = spec.name.as_str().starts_with("writer-");
        let wake = self.inner.start(spec)?;
        if !is_deaf {
            return Ok(wake);
        }
        let count = AtomicU64::new(1);
        Ok(WakeWorker::new(move || {
            if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(ONE_OF) {
                wake.wake();
            }
        }))
    }
}

impl StopWorkers for DeafWorkers {
    fn stop(&self) {
        self.inner.stop();
    }

    fn running(&self) -> Vec<ChildName> {
        self.inner.running()
    }

    fn all_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.inner.all_ended()
    }
}
