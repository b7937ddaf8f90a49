//! Takeover: an active vbucket of one bucket goes to another bucket of the program, with all it has, and no write is lost.
//!
//! Invariant: what is done lies in the order of [`state`]; whoever stops waiting in the middle leaves the source active, or the
//! target, never both and never writes that are held for good. Called by embedders that move vbuckets.

mod give_back;
mod roles;
mod state;

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::{Either, select};

use actors::panics::caught;
use actors::vbucket::{Hold, StandStill, VbucketCore};
use messages::OperationError;
use messages::replication::{ReplicaState, ReplicaStatus};
use storage::{Seqno, Topology, VbucketId, VbucketState};

use crate::bucket::Bucket;
use crate::replication::{ReplicateError, Replication};
use crate::running::Running;
use give_back::GiveBack;
pub(crate) use give_back::ToGiveBack;
use roles::{became, become_state, is_in, resign, role};
use state::{Came, End, TakeOver, Undo, Want};

/// Why writes are held no longer than this: half of what a durable write waits as a rule, so that none fails for it alone.
const HOLD_MAX: Duration = Duration::from_secs(15);

/// A vbucket was taken over: it is active here, on disk too, and dead where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// Which.
    pub vbucket: VbucketId,
    /// All of it up to here is from the source.
    pub high: Seqno,
}

/// Why a takeover came to nothing, and who is active.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[must_use = "it says which bucket's vbucket is active, if any is"]
#[non_exhaustive]
pub enum TakeOverError {
    /// Nothing was begun.
    #[error("nothing was begun: {0}")]
    Refused(#[from] ReplicateError),
    /// The source's vbucket is active, as before, and takes writes; the target's is a replica, or was closed.
    #[error("vbucket {vbucket} stays where it is: {why}; it is active there, try again")]
    Stays {
        /// Which.
        vbucket: VbucketId,
        /// What failed.
        why: Box<WhyNot>,
    },
    /// The source's bucket ended before its disk was known to have the vbucket dead. The target's vbucket is pending, and was
    /// never active.
    #[error(
        "vbucket {vbucket} may be active nowhere: {why}; open the source again: if the vbucket is not active \
         there, make it active with is_takeover, and try again"
    )]
    Nobody {
        /// Which.
        vbucket: VbucketId,
        /// What failed.
        why: Box<WhyNot>,
    },
    /// The target's vbucket became active, by this or by another's word, and its bucket ended, or the vbucket became something
    /// else, before that was known to be on disk.
    #[error(
        "whether vbucket {vbucket} was taken over is not known: {why}; open the target again: if the vbucket is not \
         active there, make it active at the source, with is_takeover"
    )]
    Unconfirmed {
        /// Which.
        vbucket: VbucketId,
        /// What failed.
        why: Box<WhyNot>,
    },
}

/// What failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WhyNot {
    /// The target's stream came to its end before it had everything.
    #[error("its stream is {:?}", .0.state)]
    Stream(Box<ReplicaStatus>),
    /// The source held its writes for as long as it may, and by then the target did not have everything, or a disk did not say
    /// what it has to.
    #[error("not everything was where it has to be in time; look at the target and at both disks")]
    TooSlow,
    /// The source's vbucket refused.
    #[error("the source: {0}")]
    Source(OperationError),
    /// The target's vbucket refused.
    #[error("the target: {0}")]
    Target(OperationError),
    /// A panic on the way.
    #[error("panicked: {0}")]
    Panic(String),
}

impl Bucket {
    /// Takes an active vbucket of another bucket over: this bucket's becomes active with everything it has, in the same history
    /// (no failover entry), and the source's is dead. The topology is that of the vbucket here, as [`Bucket::set_topology`]
    /// takes it; an empty one is none. A replication that fed the vbucket here is superseded.
    ///
    /// First it is followed until little is missing. For the rest the source takes no writes (`TemporaryFailure`, for 15 s at
    /// most); reads go on. No write that was acknowledged is lost. Durable writes under way are answered
    /// [`OperationError::SyncWriteAmbiguous`], and go on here. Whoever stops waiting leaves the source active, or the target,
    /// never both. Other replicas of the source follow this bucket once they are told to.
    ///
    /// ```
    /// # use piggin_supervisor::{Bucket, TakeOverError};
    /// # use storage::{Topology, VbucketId};
    /// # async fn moved(here: &Bucket, there: &Bucket) -> Result<(), TakeOverError> {
    /// let chain = Topology::of_chain([there.node_name()]);
    /// let taken = there.take_over(here, VbucketId::FIRST, &chain).await?;
    /// println!("vbucket {} is active there, up to {}", taken.vbucket, taken.high);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn take_over(
        &self,
        from: &Bucket,
        vbucket: VbucketId,
        topology: &Topology,
    ) -> Result<TakenOver, TakeOverError> {
        let mut under_way = UnderWay::begin((from, self), vbucket, topology)?;
        let end = loop {
            if let Want::Over(end) = under_way.machine.want() {
                break end;
            }
            under_way.step().await;
        };
        let why = Box::new(under_way.why.take().unwrap_or(WhyNot::TooSlow));
        match end {
            End::Done => Ok(TakenOver {
                vbucket,
                high: under_way.hold.map(|hold| hold.high).unwrap_or_default(),
            }),
            End::Stays => match role(&under_way.source) {
                VbucketState::Active => Err(TakeOverError::Stays { vbucket, why }),
                // Another took it, or gave it another role, before this began.
                state @ (VbucketState::Replica | VbucketState::Pending | VbucketState::Dead) => {
                    let error = OperationError::NotMyVbucket { vbucket, state };
                    Err(ReplicateError::Vbucket { vbucket, error }.into())
                }
            },
            End::Nobody => Err(TakeOverError::Nobody { vbucket, why }),
            End::Unconfirmed => Err(TakeOverError::Unconfirmed { vbucket, why }),
        }
    }
}

/// A takeover under way; dropped, it is undone.
struct UnderWay {
    machine: TakeOver,
    /// The source's bucket.
    from: Weak<Running>,
    source: Arc<VbucketCore>,
    target: Arc<VbucketCore>,
    following: Option<Replication>,
    hold: Option<Hold>,
    /// The target's, from `Ready` on.
    still: Option<StandStill>,
    /// Of the target.
    topology: Topology,
    /// Of the source, when it left its role.
    left: Topology,
    /// What failed first.
    why: Option<WhyNot>,
}

impl UnderWay {
    /// The target follows the source from now on.
    fn begin(
        (from, to): (&Bucket, &Bucket),
        vbucket: VbucketId,
        topology: &Topology,
    ) -> Result<UnderWay, ReplicateError> {
        let refused = |error| ReplicateError::Vbucket { vbucket, error };
        to.check_topology(topology).map_err(refused)?;
        let core_of = |bucket: &Bucket| {
            let core = bucket.running().table.core(vbucket);
            core.map(Arc::clone).map_err(refused)
        };
        let (source, target) = (core_of(from)?, core_of(to)?);
        let following = from.replicate(BTreeSet::from([vbucket]), to)?;
        Ok(UnderWay {
            machine: TakeOver::new(),
            from: Arc::downgrade(&from.shared()),
            source,
            target,
            following: Some(following),
            hold: None,
            still: None,
            topology: topology.clone(),
            left: Topology::default(),
            why: None,
        })
    }

    async fn step(&mut self) {
        let done = match self.machine.want() {
            Want::Follow => self.catch_up().await.map(|()| None),
            Want::Hold => self.hold().map(Some),
            Want::Drain(high) => self.drain(high).await.map(|()| None),
            Want::Ready(high) => self.ready(high).await.map(|()| None),
            Want::Leave => self.leave().map(|()| None),
            Want::Bury => self.bury().await.map(|()| None),
            Want::Crown => self.crown().map(|()| None),
            Want::Confirm => {
                let stored = self.target.stored_as(VbucketState::Active).await;
                stored.map(|()| None).map_err(WhyNot::Target)
            }
            Want::Release => {
                self.release();
                Ok(None)
            }
            Want::GiveBack => self.giving_back().done().await.map(|()| None),
            Want::Over(_) => Ok(None),
        };
        self.machine.came(match done {
            Ok(high) => Came::Done(high),
            Err(why) => {
                self.why.get_or_insert(why);
                if self.is_forestalled() {
                    Came::Forestalled
                } else {
                    Came::Failed
                }
            }
        });
    }

    /// Nobody but this machine makes a target active whose source left its role; if somebody did, the source must not be.
    fn is_forestalled(&self) -> bool {
        let is_left = matches!(
            self.machine.want(),
            Want::Bury | Want::Crown | Want::GiveBack
        );
        is_left && role(&self.target) == VbucketState::Active
    }

    async fn catch_up(&self) -> Result<(), WhyNot> {
        let Some(following) = &self.following else {
            return Ok(());
        };
        // Of a source that is not active any more nothing comes.
        let has_left = |core: &VbucketCore| core.is_stored_as(VbucketState::Active).err();
        let is_over = |core: &VbucketCore| core.may_be_stored().err();
        let (source, target) = (
            pin!(self.source.until(has_left)),
            pin!(self.target.until(is_over)),
        );
        match select(pin!(following.caught_up()), select(source, target)).await {
            Either::Left((caught_up, _)) => {
                caught_up.map_err(|status| WhyNot::Stream(Box::new(status)))
            }
            Either::Right((Either::Left((error, _)), _)) => Err(WhyNot::Source(error)),
            Either::Right((Either::Right((error, _)), _)) => Err(WhyNot::Target(error)),
        }
    }

    fn hold(&mut self) -> Result<Seqno, WhyNot> {
        let hold = self.source.hold_for(HOLD_MAX).map_err(WhyNot::Source)?;
        self.hold = Some(hold);
        Ok(hold.high)
    }

    /// The target gets the rest, or the hold ends.
    async fn drain(&self, high: Seqno) -> Result<(), WhyNot> {
        let (Some(following), Some(hold)) = (&self.following, self.hold) else {
            return Err(WhyNot::TooSlow);
        };
        let has_all = |status: &ReplicaStatus| {
            let is_following = matches!(status.state, ReplicaState::Following | ReplicaState::Held);
            is_following && status.received_whole >= high
        };
        let arrives = pin!(following.wait_for_one(has_all));
        match select(arrives, pin!(self.lapses(hold))).await {
            Either::Left((status, _)) if has_all(&status) => Ok(()),
            Either::Left((status, _)) => Err(WhyNot::Stream(Box::new(status))),
            Either::Right(((), _)) => Err(WhyNot::TooSlow),
        }
    }

    /// Comes to an end with the hold.
    async fn lapses(&self, hold: Hold) {
        let is_over = |source: &VbucketCore| (!source.is_held(hold)).then_some(());
        self.source.until(is_over).await;
    }

    /// The disk of one of the two says that it is this, before the hold is over.
    async fn stored_in_time(
        &self,
        core: &VbucketCore,
        state: VbucketState,
        failed: fn(OperationError) -> WhyNot,
    ) -> Result<(), WhyNot> {
        let Some(hold) = self.hold else {
            return Err(WhyNot::TooSlow);
        };
        match select(pin!(core.stored_as(state)), pin!(self.lapses(hold))).await {
            Either::Left((stored, _)) => stored.map_err(failed),
            Either::Right(((), _)) => Err(WhyNot::TooSlow),
        }
    }

    /// Nothing is applied to the target any more, and it has exactly what the source has, also on its disk.
    async fn ready(&mut self, high: Seqno) -> Result<(), WhyNot> {
        let is_over = |status: &ReplicaStatus| matches!(status.state, ReplicaState::Over(_));
        let following = self.following.take();
        if let Some(ended) = following.and_then(|one| one.status().into_iter().find(is_over)) {
            // Another stream may have fed it since.
            return Err(WhyNot::Stream(Box::new(ended)));
        }
        let stands = caught(|| become_state(&self.target, VbucketState::Pending, None));
        became(&self.target, VbucketState::Pending, stands, WhyNot::Target)?;
        self.still = Some(self.target.stand_still().map_err(WhyNot::Target)?);
        let has = self.target.high_seqno();
        if has != high {
            let why = format!("it has {has}, its source {high}");
            return Err(WhyNot::Target(OperationError::BadReplication(why)));
        }
        // Its disk may still say what it was before, which may have been active.
        self.stored_in_time(&self.target, VbucketState::Pending, WhyNot::Target)
            .await
    }

    fn leave(&mut self) -> Result<(), WhyNot> {
        let Some(hold) = self.hold else {
            return Err(WhyNot::TooSlow);
        };
        self.left = self.source.identity().topology.clone();
        let left = caught(|| self.source.leave(hold));
        became(&self.source, VbucketState::Dead, left, WhyNot::Source)
    }

    /// The source's disk says that it is dead. Whoever makes it active again meanwhile ends this.
    async fn bury(&self) -> Result<(), WhyNot> {
        self.stored_in_time(&self.source, VbucketState::Dead, WhyNot::Source)
            .await
    }

    fn crown(&self) -> Result<(), WhyNot> {
        let (Some(hold), Some(still)) = (self.hold, self.still) else {
            return Err(WhyNot::TooSlow);
        };
        self.source.let_go_of(hold);
        is_in(&self.source, VbucketState::Dead).map_err(WhyNot::Source)?;
        is_in(&self.target, VbucketState::Pending).map_err(WhyNot::Target)?;
        let crowned = caught(|| self.target.arrive(still, hold.high, &self.topology));
        became(&self.target, VbucketState::Active, crowned, WhyNot::Target)
    }

    fn release(&mut self) {
        if let Some(hold) = self.hold {
            self.source.let_go_of(hold);
        }
        drop(self.following.take());
        resign(&self.target);
    }

    fn giving_back(&self) -> GiveBack {
        GiveBack {
            source: Arc::clone(&self.source),
            target: Arc::clone(&self.target),
            hold: self.hold,
            left: self.left.clone(),
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        match self.machine.undo() {
            Undo::Nothing => {}
            Undo::Release => self.release(),
            Undo::GiveBack => self.giving_back().now_or_later(&self.from),
        }
    }
}

#[cfg(test)]
mod tests;
