//! How an operation comes by what left memory: from the store at once where that makes nobody wait, else from a reader, when its
//! turn has come.
//!
//! Invariant: what was looked up is judged by the vbucket; while it may have changed it is looked up again, and each time
//! something newer was written, so that it comes to an end. What cannot be read is answered with the cause, never as absent.
//! A look that failed at once is a reader's to judge, who meets the same again, or is told of what he would not meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::begun::{Asked, Begun};
use super::fetches::Answer;
use super::manager::Backfills;
use super::turns::{Turn, Turns};
use crate::hooks::FaultPoint;
use crate::panics::caught;
use crate::vbucket::{LookedUp, NOT_IN_MEMORY, VbucketCore};
use messages::scan::ScanError;
use messages::{DownCause, FailureCause, OperationError};
use storage::{Advice, DocumentKey, Seqno, StorageError};

/// What a look at the store is taken to cost, whatever it finds.
const LOOK_BYTES: u64 = 1 << 10;
/// What is read at once for somebody who asks for many documents: one or two milliseconds, in which nothing else is done on
/// his thread.
const AT_ONCE_BYTES_MAX: u64 = 512 << 10;

/// What is yet to be read at once; unbounded for one document.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget(Option<Arc<AtomicU64>>);

impl Budget {
    pub(super) fn of_many() -> Budget {
        Budget(Some(Arc::new(AtomicU64::new(AT_ONCE_BYTES_MAX))))
    }

    fn is_left(&self) -> bool {
        let left = self.0.as_ref();
        left.is_none_or(|left| left.load(Ordering::Relaxed) > 0)
    }

    fn spend(&self, bytes: u64) {
        if let Some(left) = &self.0 {
            let spent = left.load(Ordering::Relaxed).saturating_sub(bytes);
            left.store(spent, Ordering::Relaxed);
        }
    }
}

/// Whether an operation was begun once, and was not done because its document is not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IsTried {
    InVain,
    Not,
}

/// What is to be known of an operation that may have to wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    /// Behind those of its key that came before in this order.
    pub(super) order: Option<&'a Arc<Turns>>,
    pub(super) is_tried: IsTried,
    /// Bytes it holds as long as it waits.
    pub(super) bytes: u64,
}

impl<'a> Change<'a> {
    pub(super) fn of(order: Option<&'a Arc<Turns>>, is_tried: IsTried) -> Change<'a> {
        Change {
            order,
            is_tried,
            bytes: 0,
        }
    }

    /// One that changes nothing has no turn.
    pub(super) fn read(is_tried: IsTried) -> Change<'a> {
        Change::of(None, is_tried)
    }
}

/// Why a reader is asked, where he would not find out himself.
type Met = Option<FailureCause>;

/// A document a reader was asked for.
#[derive(Debug)]
struct Line {
    of: oneshot::Receiver<Answer>,
    least: Least,
}

/// What a store that was not opened anew must have.
#[derive(Clone, Copy, Debug)]
struct Least {
    /// Up to here it must have been read.
    up_to: Seqno,
    /// This version of the document, or a newer one.
    stub: Option<Seqno>,
}

impl Least {
    fn of(core: &VbucketCore, key: &DocumentKey) -> Least {
        Least {
            up_to: core.forgotten_up_to(),
            stub: core.stub_seqno(key),
        }
    }
}

impl Backfills {
    /// Does it when its turn has come, with what the store holds if that must be known.
    pub(super) fn in_turn<R: Send + 'static>(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
        change: Change<'_>,
        operation: impl Fn(&VbucketCore, Option<&LookedUp>) -> Result<R, OperationError>
        + Send
        + 'static,
    ) -> Begun<R> {
        let begun = self.begun_in_turn(core, key, change, operation);
        begun.unwrap_or_else(|error| Begun::Done(Err(error)))
    }

    fn begun_in_turn<R: Send + 'static>(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
        change: Change<'_>,
        operation: impl Fn(&VbucketCore, Option<&LookedUp>) -> Result<R, OperationError>
        + Send
        + 'static,
    ) -> Result<Begun<R>, OperationError> {
        let Change {
            order,
            is_tried,
            bytes,
        } = change;
        let share = || self.shared().waiting_bytes.take(bytes);
        // Whoever is refused must not be in line.
        let is_behind = order.is_some_and(|order| order.has(key));
        let waits = is_behind.then(share).transpose()?;
        let turn = order.map(|order| order.take(key)).transpose()?;
        let mut met = None;
        let is_first = turn.as_ref().is_none_or(Turn::is_first);
        if is_first {
            match self.at_once(core, key, is_tried, &operation) {
                Ok(answer) => return Ok(Begun::Done(answer)),
                Err(cause) => met = cause,
            }
        }
        let waits = waits.map_or_else(share, Ok)?;
        // Those who wait for each other do not wait for a missing store one after the other.
        let since = self.shared().now();
        let line = is_first.then(|| self.ask(core, key, (since, met)));
        let line = line.transpose()?;
        let (all, core, key) = (self.clone(), Arc::clone(core), key.clone());
        Ok(Begun::Asked(Asked::of(async move {
            let (mut turn, _waits) = (turn, waits);
            if let Some(turn) = &mut turn {
                turn.come().await;
            }
            let mut line = match line {
                Some(line) => line,
                None => match all.at_once(&core, &key, IsTried::Not, &operation) {
                    Ok(answer) => return answer,
                    Err(met) => all.ask(&core, &key, (since, met))?,
                },
            };
            loop {
                let looked_up = all.looked_up(&core, line).await?;
                match operation(&core, Some(&looked_up)) {
                    // Whoever asks again and again lets others do something between.
                    Err(NOT_IN_MEMORY) => line = all.ask(&core, &key, (since, None))?,
                    answer => return answer,
                }
            }
        })))
    }

    /// Does it with what is in memory, or with what the store says at once; or else a reader is to be asked.
    fn at_once<R>(
        &self,
        core: &VbucketCore,
        key: &DocumentKey,
        is_tried: IsTried,
        operation: &impl Fn(&VbucketCore, Option<&LookedUp>) -> Result<R, OperationError>,
    ) -> Result<Result<R, OperationError>, Met> {
        if is_tried == IsTried::Not {
            match operation(core, None) {
                Err(NOT_IN_MEMORY) => {}
                answer => return Ok(answer),
            }
        }
        let least = Least::of(core, key);
        let looked_up = self.look(core, key)?;
        let answer = match self.found(core, looked_up, least) {
            Ok(looked_up) => match operation(core, Some(&looked_up)) {
                Err(NOT_IN_MEMORY) => return Err(None),
                answer => answer,
            },
            Err(error) => Err(error),
        };
        core.note_fetched_at_once();
        Ok(answer)
    }

    /// What the store holds of a key, if that makes nobody wait.
    fn look(&self, core: &VbucketCore, key: &DocumentKey) -> Result<LookedUp, Met> {
        let shared = self.shared();
        let hooks = &shared.environment.hooks;
        hooks.fault(FaultPoint::Fetch).map_err(Some)?;
        if !self.budget.is_left() || core.may_be_read().is_err() {
            return Err(None);
        }
        self.budget.spend(LOOK_BYTES);
        let read = caught(|| {
            let lease = shared.store.lease()?;
            let looked_up = LookedUp::in_store_at_once(lease.store(), core.id(), key)?;
            Ok::<_, StorageError>(core.pay_for(looked_up))
        });
        match read {
            Ok(Ok(looked_up)) => {
                let newest = looked_up.newest.as_ref();
                let bytes = newest.map_or(0, |item| item.document.value.len() as u64);
                self.budget.spend(bytes);
                Ok(looked_up)
            }
            Ok(Err(_)) => Err(None),
            Err(panic) => {
                tracing::error!(vbucket = core.id().get(), panic, "a read panicked");
                Err(Some(FailureCause::Panic(panic)))
            }
        }
    }

    /// Asks a reader, for whoever waits since then.
    fn ask(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
        (since, met): (Duration, Met),
    ) -> Result<Line, OperationError> {
        let least = Least::of(core, key);
        let of = self.shared().ask(core, key, (since, met))?;
        Ok(Line { of, least })
    }

    /// What a reader found, tombstones too.
    async fn looked_up(
        &self,
        core: &Arc<VbucketCore>,
        line: Line,
    ) -> Result<LookedUp, OperationError> {
        let looked_up = match line.of.await {
            Ok(answer) => answer.map_err(refused)?.take().ok_or(NOT_IN_MEMORY)?,
            // Whoever had it in hand panicked.
            Err(_) => return Err(NOT_IN_MEMORY),
        };
        self.found(core, looked_up, line.least)
    }

    /// What was looked up, if it is from where what left memory went to; put back there if it can be.
    fn found(
        &self,
        core: &VbucketCore,
        looked_up: LookedUp,
        least: Least,
    ) -> Result<LookedUp, OperationError> {
        // It was opened anew, and has less than it had said: the vbucket is about to go out of service.
        let newest = looked_up.newest.as_ref().map(|newest| newest.seqno);
        if looked_up.up_to < least.up_to || newest < least.stub {
            return Err(NOT_IN_MEMORY);
        }
        if core.restore(&looked_up) {
            self.shared().note_restored(core);
        }
        Ok(looked_up)
    }
}

/// What is answered in the place of what could not be read.
pub(super) fn refused(error: ScanError) -> OperationError {
    if let ScanError::Operation(error) = error {
        return error;
    }
    if let ScanError::Unread { vbucket, cause } = error
        && let FailureCause::Storage(cause) = cause
        && !matches!(cause.advice(), Advice::RetryLater | Advice::Reopen)
    {
        let cause = DownCause::Storage(Arc::new(cause));
        return OperationError::VbucketDown { vbucket, cause };
    }
    NOT_IN_MEMORY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_is_read_at_once_for_one_who_asks_for_many() {
        let one = Budget::default();
        one.spend(u64::MAX);
        assert!(one.is_left());
        let many = Budget::of_many();
        many.spend(AT_ONCE_BYTES_MAX - 1);
        assert!(many.is_left());
        many.spend(LOOK_BYTES);
        assert!(!many.clone().is_left());
    }
}
