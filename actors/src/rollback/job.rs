//! One rollback on its way: who asked, how far it is, and the steps of it.
//!
//! | stage | finds | comes to |
//! |---|---|---|
//! | drain | something is under way to the disk | later |
//! | drain, store | nobody wants it any more, and the store was not told | given up |
//! | store | no store now; it is being opened anew | later |
//! | | the store went back; memory follows in the same step | prepares |
//! | | the disk refused | later, told as `Rollback` |
//! | prepares | those that are not over are read | load |
//! | | they cannot be read | **failed**, as below |
//! | load | the store is called back | later, from its beginning |
//! | | everything was read, with proof | complete |
//! | | it cannot be read | **failed**, out of service, told as `Scan { Rollback }` |
//!
//! Invariant: between the store's going back and memory's nothing else happens to the vbucket; a stage that is done
//! again, after a panic or a failure, does no harm.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{RollbackConfig, RollbackTicket};
use crate::executor::WakeWorker;
use crate::hooks::FaultPoint;
use crate::store_handle::StoreLease;
use crate::vbucket::VbucketCore;
use crate::warmup::events;
use crate::warmup::prepares::PreparesReading;
use messages::failure::ScanPurpose;
use messages::replication::RollbackEnd;
use messages::{DownCause, FailureCause};
use storage::{
    Item, ItemView, Job, KvStore, Namespace, Outcome, RolledBack, Scan, Seqno, SeqnoRange,
    StorageError,
};

/// How far a rollback is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// What is on its way to the disk gets there.
    Drain,
    /// The store goes back.
    Store,
    /// Memory is what the store went back to, and gets its prepares anew,
    Prepares(Seqno),
    /// and its documents.
    Load(Seqno),
}

/// A rollback that was asked for, wherever it is.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) core: Arc<VbucketCore>,
    to: Seqno,
    stage: Stage,
    /// The store was asked to go back, and may have: there is no other way out any more.
    is_store_told: bool,
    ticket: RollbackTicket,
    wake: WakeWorker,
    /// Not to be gone on with before (monotonic).
    pub(super) not_before: Duration,
    /// Tries of the disk that failed in a row.
    pub(super) failures: u32,
    /// Panics with it in hand.
    pub(super) panics: u32,
}

/// What a step came to.
#[must_use = "a rollback that failed must be told to whoever asked, and to the failure bus"]
pub(super) enum Stepped {
    /// There is more.
    Again,
    /// Not now.
    Later,
    /// The disk refused; it is tried again.
    Refused(StorageError),
    /// It is done.
    Complete(Seqno),
    /// What is there cannot be read: the vbucket is out of service.
    Failed(FailureCause),
    /// Nobody wants it any more, and nothing was done.
    GivenUp,
}

impl Claim {
    pub(super) fn new(
        core: Arc<VbucketCore>,
        to: Seqno,
        ticket: RollbackTicket,
        wake: WakeWorker,
    ) -> Claim {
        Claim {
            core,
            to,
            stage: Stage::Drain,
            is_store_told: false,
            ticket,
            wake,
            not_before: Duration::ZERO,
            failures: 0,
            panics: 0,
        }
    }

    /// Nobody goes on with it.
    pub(super) fn take_down(self, cause: &DownCause) {
        self.core.take_down(cause.clone());
        let cause = FailureCause::GaveUp(cause.to_string());
        self.end(RollbackEnd::Failed(cause));
    }

    pub(super) fn is_of(&self, ticket: &RollbackTicket) -> bool {
        Arc::ptr_eq(&self.ticket.0, &ticket.0)
    }

    pub(super) fn may_be_given_up(&self) -> bool {
        !self.is_store_told
    }

    /// The vbucket stays what it is.
    pub(super) fn give_up(self) {
        self.core.give_up_rollback();
        self.end(RollbackEnd::Aborted);
    }

    /// Tells whoever asked.
    pub(super) fn end(self, end: RollbackEnd) {
        *self.ticket.0.end.lock() = Some(end);
        self.wake.wake();
    }
}

/// What a claim that is worked at holds of the store; given back between any two steps if need be.
#[derive(Default)]
pub(super) enum Held {
    #[default]
    Nothing,
    // The jobs are dropped before the lease they were made from.
    Job(
        Box<dyn Job<Output = RolledBack, Failure = StorageError> + Send>,
        StoreLease,
    ),
    Prepares(PreparesReading, StoreLease),
    Scan(Box<dyn Scan>, StoreLease),
}

impl Held {
    /// Does a piece of it.
    pub(super) fn step(&mut self, claim: &mut Claim, config: &RollbackConfig) -> Stepped {
        match self {
            Held::Nothing => self.begin(claim, config),
            Held::Job(job, lease) => match job.step() {
                Outcome::Yielded => Stepped::Again,
                Outcome::Complete(rolled) => {
                    let followed = follow(claim, rolled, lease);
                    *self = Held::Nothing;
                    followed
                }
                // Nobody's fault: the vbucket is looked at anew.
                Outcome::Aborted(_) => {
                    *self = Held::Nothing;
                    Stepped::Later
                }
                Outcome::Failed(cause) => {
                    *self = Held::Nothing;
                    Stepped::Refused(cause)
                }
            },
            Held::Prepares(_, lease) | Held::Scan(_, lease) if lease.is_recalled() => {
                *self = Held::Nothing;
                Stepped::Later
            }
            Held::Prepares(reading, _) => match read_prepares(reading, config) {
                Ok(Outcome::Yielded) => Stepped::Again,
                Ok(Outcome::Complete(prepares)) => {
                    *self = Held::Nothing;
                    loaded_prepares(claim, prepares)
                }
                Ok(Outcome::Aborted(_)) => {
                    *self = Held::Nothing;
                    Stepped::Later
                }
                Ok(Outcome::Failed(cause)) => failed(claim, cause),
                Err(cause) => out_of_service(claim, cause),
            },
            Held::Scan(scan, _) => match read(&mut **scan, claim, config) {
                Ok(Outcome::Yielded) => Stepped::Again,
                Ok(Outcome::Complete(to)) => {
                    claim.core.warm_done();
                    Stepped::Complete(to)
                }
                Ok(Outcome::Aborted(_)) => {
                    *self = Held::Nothing;
                    Stepped::Later
                }
                Ok(Outcome::Failed(cause)) => failed(claim, cause),
                Err(cause) => out_of_service(claim, cause),
            },
        }
    }

    fn begin(&mut self, claim: &mut Claim, config: &RollbackConfig) -> Stepped {
        if claim.may_be_given_up() && claim.ticket.is_cancelled() {
            return Stepped::GivenUp;
        }
        if claim.stage == Stage::Drain {
            // One that is out of service is gone on with when it is brought back.
            if claim.core.down().is_some() || !claim.core.withdraw() {
                return Stepped::Later;
            }
            claim.stage = Stage::Store;
        }
        // Woken when the store is back.
        let Ok(lease) = config.store.lease() else {
            return Stepped::Later;
        };
        let id = claim.core.id();
        if let Stage::Prepares(_) = claim.stage {
            let snapshot = match lease.store().snapshot(id) {
                Ok(snapshot) => snapshot,
                Err(cause) => return failed(claim, cause),
            };
            let Some(reading) = PreparesReading::of(&*snapshot) else {
                return loaded_prepares(claim, Vec::new());
            };
            *self = Held::Prepares(reading, lease);
            return Stepped::Again;
        }
        if let Stage::Load(_) = claim.stage {
            let scan = match lease.store().snapshot(id) {
                Ok(snapshot) => snapshot.scan_by_seqno(SeqnoRange::ALL),
                Err(cause) => return failed(claim, cause),
            };
            *self = Held::Scan(scan, lease);
            return Stepped::Again;
        }
        let job = lease.store().state(id).and_then(|state| {
            let to = claim.to.min(state.watermarks.high_seqno);
            lease.store().rollback_job(id, to)
        });
        match job {
            Ok(job) => {
                claim.is_store_told = true;
                *self = Held::Job(Box::new(job), lease);
            }
            Err(cause) => return Stepped::Refused(cause),
        }
        Stepped::Again
    }
}

/// The store went back: memory follows.
fn follow(claim: &mut Claim, rolled: RolledBack, lease: &StoreLease) -> Stepped {
    let (store, id) = (lease.store(), claim.core.id());
    let (to, epoch) = match rolled {
        RolledBack::To { seqno, epoch } => (seqno, epoch),
        RolledBack::ToZero { epoch } => (Seqno::ZERO, epoch),
    };
    let mut state = match store.state(id) {
        Ok(state) => state,
        Err(cause) => return Stepped::Refused(cause),
    };
    claim.core.note_epoch(epoch);
    let (events, unread) = match events::read(store, id, &state) {
        Ok(events) => (events, None),
        Err(cause) => (Vec::new(), Some(cause)),
    };
    // The manifest is the one of the events that are left.
    let uid = events.iter().map(|(_, event)| event.uid().0).max();
    Arc::make_mut(&mut state.identity).manifest_uid = uid.unwrap_or(0);
    claim.core.reset_to(&state, events);
    claim.stage = Stage::Prepares(to);
    match unread {
        Some(cause) => failed(claim, cause),
        None => Stepped::Again,
    }
}

fn failed(claim: &Claim, cause: StorageError) -> Stepped {
    out_of_service(claim, FailureCause::Storage(cause))
}

fn out_of_service(claim: &Claim, cause: FailureCause) -> Stepped {
    let down = if let FailureCause::Storage(cause) = &cause {
        DownCause::Storage(Arc::new(cause.clone()))
    } else {
        DownCause::Escalated(cause.to_string())
    };
    claim.core.take_down(down);
    Stepped::Failed(cause)
}

/// The prepares are in memory; documents follow.
fn loaded_prepares(claim: &mut Claim, prepares: Vec<Item>) -> Stepped {
    claim.core.warm_prepares(prepares);
    if let Stage::Prepares(to) = claim.stage {
        claim.stage = Stage::Load(to);
    }
    Stepped::Again
}

fn read_prepares(
    reading: &mut PreparesReading,
    config: &RollbackConfig,
) -> Result<Outcome<Vec<Item>>, FailureCause> {
    strike(config)?;
    Ok(reading.step(config.step_bytes))
}

/// A test's fault strikes where the store's own would.
fn strike(config: &RollbackConfig) -> Result<(), FailureCause> {
    let purpose = ScanPurpose::Rollback;
    let hooks = &config.environment.hooks;
    hooks.fault(FaultPoint::Scan { purpose })
}

/// Reads some more of what the store holds.
fn read(
    scan: &mut dyn Scan,
    claim: &Claim,
    config: &RollbackConfig,
) -> Result<Outcome<Seqno>, FailureCause> {
    strike(config)?;
    let mut bad = None;
    let mut visit = |view: ItemView<'_>| {
        if view.namespace() != Namespace::Committed {
            return ControlFlow::Continue(());
        }
        match view.to_item(Bytes::copy_from_slice(view.value)) {
            Ok(item) => {
                claim.core.warm_insert(Arc::new(item));
                ControlFlow::Continue(())
            }
            Err(cause) => {
                bad = Some(StorageError::Key(cause));
                ControlFlow::Break(())
            }
        }
    };
    let outcome = scan.step(config.step_bytes, &mut visit);
    let Stage::Load(to) = claim.stage else {
        return Ok(Outcome::Failed(StorageError::Gone));
    };
    Ok(match (bad, outcome) {
        (Some(cause), _) => Outcome::Failed(cause),
        // A scan proves that it is complete, or it is not (MB-47933).
        (None, Outcome::Complete(end)) if end.high_seqno < to => {
            Outcome::Failed(StorageError::Gone)
        }
        (None, outcome) => outcome.map(|_| to),
    })
}
