//! Work beside the engine that no child of the tree does.
//!
//! Invariant: a panic ends no such work for good: it is told as a failure under the work's name, and a moment later the
//! work is begun anew. Called by the engine, which ends the work when it ends itself.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use actors::environment::{Clock, Environment, FailureReport};
use actors::panics::caught;
use messages::{ChildName, FailureCause, FailureKind, Generation, NextStep};

/// Who repairs what panics leave behind.
pub(crate) const REPAIR: &str = "repair";

/// Before work that panicked is begun anew: one that always panics costs next to nothing.
const PAUSE: Duration = Duration::from_secs(1);

/// Work beside the engine; ends where this is dropped.
pub(crate) struct Beside(JoinHandle<()>);

impl Beside {
    /// Does the work that `begin` begins until it ends; begun anew after a panic, it must not wait for what the one
    /// before was told.
    pub(crate) fn start<W: Future<Output = ()>>(
        name: &str,
        environment: &Environment,
        begin: impl Fn() -> W + 'static,
    ) -> Beside {
        let (name, environment) = (ChildName::new(name), environment.clone());
        Beside(actix::spawn(async move {
            let mut generation = Generation::default();
            while let Err(text) = guarded(begin()).await {
                let at_ms = after(&*environment.clock, PAUSE);
                environment.failures.report(FailureReport {
                    child: name.clone(),
                    generation,
                    vbucket: None,
                    kind: FailureKind::ChildPanicked,
                    cause: FailureCause::Panic(text),
                    next: NextStep::RetryAt { at_ms },
                });
                generation = Generation(generation.0.saturating_add(1));
                sleep(PAUSE).await;
            }
        }))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits for it; a panic comes back as its text.
pub(crate) async fn guarded<F: Future>(work: F) -> Result<F::Output, String> {
    let mut work = pin!(work);
    poll_fn(|context| match caught(|| work.as_mut().poll(context)) {
        Ok(poll) => poll.map(Ok),
        Err(text) => Poll::Ready(Err(text)),
    })
    .await
}

/// When so much time went by, in milliseconds since the Unix epoch.
pub(crate) fn after(clock: &dyn Clock, time: Duration) -> u64 {
    let at = clock.since_epoch().saturating_add(time);
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}
