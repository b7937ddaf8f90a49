//! An active vbucket that is about to be handed over to another node: for a while it takes no writes, so that the other one
//! can come to have all there is.
//!
//! Invariant: while writes are held nothing is appended, so the high seqno stands; the hold ends by itself when its time is
//! up, whatever became of the one who asked for it; and the vbucket leaves its role only under a hold that never ended. Called
//! by whoever takes the vbucket over.

use std::time::Duration;

use super::core::VbucketCore;
use super::lock::Locked;
use super::replica::StreamEpoch;
use super::state::check_topology;
use super::status::Status;
use crate::sync::atomic::Ordering;
use messages::vbucket::SetVbucketState;
use messages::{Busy, OperationError};
use storage::{Seqno, Topology, VbucketState};

/// A hold on a vbucket's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Which of those there were.
    number: u64,
    /// The high seqno, for as long as it lasts.
    pub high: Seqno,
}

/// A pending vbucket to which nothing is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandStill(StreamEpoch);

/// What is known of holds under the lock.
#[derive(Debug, Default)]
pub(super) struct Holds {
    number: u64,
    /// The one in force, and when (monotonic) it ends.
    in_force: Option<(Hold, Duration)>,
}

impl VbucketCore {
    /// Writes are answered [`Busy::HandingOver`] from now on, and no durable write is decided, until the hold is let go or so
    /// much time went by.
    pub fn hold_for(&self, time: Duration) -> Result<Hold, OperationError> {
        let mut locked = self.lock();
        self.admit_write()?;
        // Whoever drives them ends the hold when its time is up.
        locked.durable.admit_driven()?;
        let ends = self.environment.clock.monotonic().saturating_add(time);
        let high = locked.log.last_seqno();
        let holds = &mut locked.holds;
        holds.number = holds.number.saturating_add(1);
        let number = holds.number;
        let hold = Hold { number, high };
        holds.in_force = Some((hold, ends));
        self.is_handing_over.store(true, Ordering::Release);
        self.raise(Status::HELD);
        // Whoever drives durable writes learns when to come back.
        locked.note_decided();
        Ok(hold)
    }

    /// Whether that hold is still in force.
    #[must_use]
    pub fn is_held(&self, hold: Hold) -> bool {
        let locked = self.lock();
        locked.holds.in_force.is_some_and(|(now, _)| now == hold)
    }

    /// The hold is no longer needed. One that ended by itself is none.
    pub fn let_go_of(&self, hold: Hold) {
        let mut locked = self.lock();
        if locked.holds.in_force.is_some_and(|(now, _)| now == hold) {
            self.end_hold(&mut locked);
        }
    }

    /// The vbucket is dead from now on: all it had is in other hands. Refused where the hold is over. It goes on until it is let
    /// go of or its time is up, so that whoever waits for the disk knows how long to.
    pub fn leave(&self, hold: Hold) -> Result<(), OperationError> {
        let mut locked = self.lock();
        self.admit_engine()?;
        let is_in_force = locked.holds.in_force.is_some_and(|(now, _)| now == hold);
        let (vbucket, state) = (self.id, locked.identity.state);
        if state != VbucketState::Active || !is_in_force || locked.log.last_seqno() != hold.high {
            return Err(OperationError::NotMyVbucket { vbucket, state });
        }
        self.change_state(
            &mut locked,
            SetVbucketState {
                state: VbucketState::Dead,
                topology: None,
                is_takeover: true,
            },
        )?;
        self.changed.notify_waiters();
        Ok(())
    }

    /// The right to write of any stream ends, and a stream that comes later shows.
    pub fn stand_still(&self) -> Result<StandStill, OperationError> {
        let mut locked = self.lock();
        self.admit_engine()?;
        self.admit_pending(&locked)?;
        Ok(StandStill(locked.stream.bump()))
    }

    /// The vbucket is active from now on, with all that another had when that left its role. Refused where it is not pending
    /// any more, or has come by anything since it stood still.
    pub fn arrive(
        &self,
        still: StandStill,
        high: Seqno,
        topology: &Topology,
    ) -> Result<(), OperationError> {
        check_topology(topology)?;
        let mut locked = self.lock();
        self.admit_engine()?;
        self.admit_pending(&locked)?;
        let has = locked.log.last_seqno();
        if locked.stream != still.0 || has != high {
            let why = format!("it has {has}, its source {high}, or a stream began");
            return Err(OperationError::BadReplication(why));
        }
        self.change_state(
            &mut locked,
            SetVbucketState {
                state: VbucketState::Active,
                topology: Some(topology.clone()),
                is_takeover: true,
            },
        )
        .map(drop)
    }

    fn admit_pending(&self, locked: &Locked<'_>) -> Result<(), OperationError> {
        let (vbucket, state) = (self.id, locked.identity.state);
        if state == VbucketState::Pending {
            Ok(())
        } else {
            Err(OperationError::NotMyVbucket { vbucket, state })
        }
    }

    /// Ends the hold if its time is up; when (monotonic) that is, if it is not.
    pub(super) fn end_hold_at(&self, locked: &mut Locked<'_>, now: Duration) -> Option<Duration> {
        let (_, ends) = locked.holds.in_force?;
        if now < ends {
            return Some(ends);
        }
        tracing::warn!(vbucket = %self.id, "it took too long to hand the vbucket over");
        self.end_hold(locked);
        None
    }

    /// Ends whatever hold there is: nobody looks at its time any more.
    pub(super) fn end_any_hold(&self, locked: &mut Locked<'_>) {
        if locked.holds.in_force.is_some() {
            self.end_hold(locked);
        }
    }

    fn end_hold(&self, locked: &mut Locked<'_>) {
        locked.holds.in_force = None;
        self.is_handing_over.store(false, Ordering::Release);
        self.lower(Status::HELD);
        // Of one that is suspect whoever repairs it does this.
        if !self
            .status()
            .has(Status::SUSPECT | Status::DOWN | Status::CLOSED)
        {
            self.follow_when_writable(locked);
        }
        locked.note_decided();
        self.changed.notify_waiters();
    }

    /// Why writes are held.
    pub(super) fn why_held(&self) -> Busy {
        if self.is_handing_over.load(Ordering::Acquire) {
            Busy::HandingOver
        } else {
            Busy::WarmingUp
        }
    }

    /// Whether the disk has the vbucket in that role, and all it had when it came to be in it; an error where it is in another,
    /// or its disk will never have it.
    pub fn is_stored_as(&self, wanted: VbucketState) -> Result<bool, OperationError> {
        let locked = self.lock();
        self.admit_stored()?;
        let (vbucket, state) = (self.id, locked.identity.state);
        if state != wanted {
            return Err(OperationError::NotMyVbucket { vbucket, state });
        }
        // Of one that is suspect what it became may not be queued yet.
        Ok(!self.is_suspect() && locked.flushed.has(&locked.identity))
    }

    /// Comes to an end once that is so.
    pub async fn stored_as(&self, wanted: VbucketState) -> Result<(), OperationError> {
        let look = |core: &VbucketCore| core.is_stored_as(wanted);
        self.until(|core| look(core).map(|is| is.then_some(())).transpose())
            .await
    }

    /// Whether what it has in memory may still get to its disk.
    pub fn may_be_stored(&self) -> Result<(), OperationError> {
        self.admit_stored()
    }

    /// Asks again whenever something reached the disk, a hold ended, or the vbucket went out of service, until there is an
    /// answer.
    pub async fn until<R>(&self, mut look: impl FnMut(&VbucketCore) -> Option<R>) -> R {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on nothing is missed.
            changed.as_mut().enable();
            if let Some(answer) = look(self) {
                return answer;
            }
            changed.await;
        }
    }
}
