//! How long to wait before a request that failed for the time being is made again, and when to give up.
//!
//! Invariant: waits grow from a millisecond to a quarter of a second, and add up to [`Backoff::PATIENCE`] at most
//! between two successes; time is counted by the waits, so no clock is read.

use std::time::Duration;

use piggin::messages::OperationError;
use piggin::storage::Advice;

use crate::interrupt::Interrupt;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    waited: Duration,
}

impl Backoff {
    /// All waiting between two successes: long enough for a flush to free memory, short enough for a person.
    const PATIENCE: Duration = Duration::from_secs(10);
    const FIRST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(250);

    pub(crate) fn new() -> Backoff {
        Backoff {
            next: Self::FIRST,
            waited: Duration::ZERO,
        }
    }

    /// Something went through: patience begins anew.
    pub(crate) fn succeeded(&mut self) {
        *self = Backoff::new();
    }

    /// How long to wait before the next attempt; `None` when it is time to give up.
    pub(crate) fn pause(&mut self) -> Option<Duration> {
        if self.waited >= Self::PATIENCE {
            return None;
        }
        let pause = self.next;
        self.waited = self.waited.saturating_add(pause);
        self.next = self.next.saturating_mul(2).min(Self::LONGEST);
        Some(pause)
    }
}

/// Whether the same request may succeed later. A crash leaves open whether the request was applied, so this is for
/// requests that may be applied twice.
pub(crate) fn is_temporary(error: &OperationError) -> bool {
    error.advice() == Advice::RetryLater && !matches!(error, OperationError::VbucketDown { .. })
}

/// Makes a request that may be applied twice until it succeeds, fails for good, or patience ends.
pub(crate) async fn patiently<T>(
    interrupt: &Interrupt,
    mut request: impl AsyncFnMut() -> Result<T, OperationError>,
) -> Result<T, OperationError> {
    let mut backoff = Backoff::new();
    loop {
        let answer = request().await;
        let Err(error) = &answer else { return answer };
        if !is_temporary(error) || interrupt.is_asked() {
            return answer;
        }
        match backoff.pause() {
            Some(pause) => interrupt.wait(pause),
            None => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_and_begins_anew() {
        let mut backoff = Backoff::new();
        let mut waited = Duration::ZERO;
        while let Some(pause) = backoff.pause() {
            assert!(pause <= Backoff::LONGEST);
            waited += pause;
        }
        assert!(waited >= Backoff::PATIENCE && waited <= Backoff::PATIENCE + Backoff::LONGEST);
        backoff.succeeded();
        assert_eq!(backoff.pause(), Some(Backoff::FIRST));
    }
}
