//! Notices that nothing reaches the disk any more: writes that wait for it would wait for ever.
//!
//! The engine keeps what it could not write and tries again, as it must; a person at a terminal wants to be told after
//! a while. Invariant: the disk is called stuck only if a failure was reported and nothing succeeded since, for all of
//! [`DiskWatch::PATIENCE`]; a disk that is only slow is waited for.

use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_timer::Delay;
use futures_util::future::FutureExt;

use piggin::Bucket;
use piggin::messages::{Busy, FailureCause, FailureId, OperationError};

use crate::backoff::patiently;
use crate::failure::CliError;
use crate::interrupt::Interrupt;
use crate::stopwatch::Stopwatch;

pub(crate) struct DiskWatch<'a> {
    bucket: &'a Bucket,
    tick: Delay,
    /// Since the last success.
    stopwatch: Stopwatch,
    /// Failures up to this one came before the last success.
    seen: FailureId,
}

impl<'a> DiskWatch<'a> {
    const PATIENCE: Duration = Duration::from_secs(10);
    /// How often it is looked.
    const TICK: Duration = Duration::from_millis(500);

    pub(crate) fn new(bucket: &'a Bucket) -> DiskWatch<'a> {
        DiskWatch {
            bucket,
            tick: Delay::new(Self::TICK),
            stopwatch: Stopwatch::start(),
            seen: last_of(bucket, FailureId(0)).map_or(FailureId(0), |(id, _)| id),
        }
    }

    /// Something reached the disk.
    pub(crate) fn succeeded(&mut self) {
        self.stopwatch = Stopwatch::start();
        if let Some((id, _)) = last_of(self.bucket, self.seen) {
            self.seen = id;
        }
    }

    /// Ready with the newest failure when the disk is stuck.
    pub(crate) fn poll_stuck(&mut self, context: &mut Context<'_>) -> Poll<FailureCause> {
        while self.tick.poll_unpin(context).is_ready() {
            self.tick.reset(Self::TICK);
            if let Some(cause) = self.stuck() {
                return Poll::Ready(cause);
            }
        }
        Poll::Pending
    }

    fn stuck(&self) -> Option<FailureCause> {
        if self.stopwatch.elapsed() < Self::PATIENCE {
            return None;
        }
        last_of(self.bucket, self.seen).map(|(_, cause)| cause)
    }
}

/// The newest failure after `after`.
fn last_of(bucket: &Bucket, after: FailureId) -> Option<(FailureId, FailureCause)> {
    let failure = bucket.failures(after).failures.pop()?;
    Some((failure.id, failure.cause))
}

/// Why a request was given up: a vbucket that is busy because the disk fails says only that it is busy.
pub(crate) fn given_up(directory: &Path, bucket: &Bucket, error: &OperationError) -> CliError {
    let is_busy = matches!(
        error,
        OperationError::TemporaryFailure(busy) if *busy != Busy::Memory
    );
    match last_of(bucket, FailureId(0)).filter(|_| is_busy) {
        Some((_, cause)) => CliError::stuck(directory, &cause),
        None => CliError::operation(directory, error),
    }
}

/// Makes a request that waits for the disk and may be applied twice, until it succeeds, fails for good, or the disk is
/// stuck.
pub(crate) async fn durably<T>(
    directory: &Path,
    bucket: &Bucket,
    interrupt: &Interrupt,
    request: impl AsyncFnMut() -> Result<T, OperationError>,
) -> Result<T, CliError> {
    let mut watch = DiskWatch::new(bucket);
    let mut answer = pin!(patiently(interrupt, request));
    poll_fn(|context| {
        if let Poll::Ready(answer) = answer.as_mut().poll(context) {
            return Poll::Ready(answer.map_err(|error| given_up(directory, bucket, &error)));
        }
        let stuck = watch.poll_stuck(context);
        stuck.map(|cause| Err(CliError::stuck(directory, &cause)))
    })
    .await
}
