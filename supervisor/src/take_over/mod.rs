//! Takeover: an active vbucket of one bucket goes to another bucket of the program, with all it has, and no write is lost.
//!
//! Invariant: what is done lies in the order of [`state`]; whoever stops waiting in the middle leaves the source active, or the
//! target, never both and never writes that are held for good. Called by embedders that move vbuckets.

mod state;

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};

use actors::panics::caught;
use actors::vbucket::{Hold, VbucketCore};
use messages::OperationError;
use messages::replication::{ReplicaState, ReplicaStatus};
use messages::vbucket::SetVbucketState;
use storage::{Seqno, Topology, VbucketId, VbucketState};

use crate::bucket::Bucket;
use crate::replication::{ReplicateError, Replication};
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
    /// The target's vbucket became active, and its bucket ended before that was known to be on disk.
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
    /// The source held its writes for as long as it may, and the target did not have everything by then.
    #[error("the target did not have everything in time")]
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
        let refused = |error| ReplicateError::Vbucket { vbucket, error };
        self.check_topology(topology).map_err(refused)?;
        let core_of = |bucket: &Bucket| {
            let core = bucket.running().table.core(vbucket);
            core.map(Arc::clone).map_err(refused)
        };
        let (source, target) = (core_of(from)?, core_of(self)?);
        let following = from.replicate(BTreeSet::from([vbucket]), self)?;
        let mut under_way = UnderWay {
            machine: TakeOver::new(),
            source,
            target,
            following: Some(following),
            hold: None,
            topology: topology.clone(),
            left: Topology::default(),
            why: None,
        };
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
            End::Stays => Err(TakeOverError::Stays { vbucket, why }),
            End::Nobody => Err(TakeOverError::Nobody { vbucket, why }),
            End::Unconfirmed => Err(TakeOverError::Unconfirmed { vbucket, why }),
        }
    }
}

/// A takeover under way; dropped, it is undone.
struct UnderWay {
    machine: TakeOver,
    source: Arc<VbucketCore>,
    target: Arc<VbucketCore>,
    following: Option<Replication>,
    hold: Option<Hold>,
    /// Of the target.
    topology: Topology,
    /// Of the source, when it left its role.
    left: Topology,
    /// What failed first.
    why: Option<WhyNot>,
}

impl UnderWay {
    async fn step(&mut self) {
        let done = match self.machine.want() {
            Want::Follow => self.catch_up().await.map(|()| None),
            Want::Hold => self.hold().map(Some),
            Want::Drain(high) => self.drain(high).await.map(|()| None),
            Want::Ready(high) => self.ready(high).await.map(|()| None),
            Want::Leave => self.leave().map(|()| None),
            Want::Bury => self
                .source
                .stored()
                .await
                .map(|()| None)
                .map_err(WhyNot::Source),
            Want::Crown => self.crown().map(|()| None),
            Want::Confirm => self
                .target
                .stored()
                .await
                .map(|()| None)
                .map_err(WhyNot::Target),
            Want::Release => {
                self.release();
                Ok(None)
            }
            Want::GiveBack => self.give_back().map(|()| None),
            Want::Over(_) => Ok(None),
        };
        self.machine.came(match done {
            Ok(high) => Came::Done(high),
            Err(why) => {
                self.why.get_or_insert(why);
                Came::Failed
            }
        });
    }

    async fn catch_up(&self) -> Result<(), WhyNot> {
        let Some(following) = &self.following else {
            return Ok(());
        };
        let ended = |core: &VbucketCore| core.is_stored().err();
        let (source, target) = (
            pin!(self.source.until(ended)),
            pin!(self.target.until(ended)),
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
        let is_over = |source: &VbucketCore| (!source.is_held(hold)).then_some(());
        let lapses = pin!(self.source.until(is_over));
        match select(arrives, lapses).await {
            Either::Left((status, _)) if has_all(&status) => Ok(()),
            Either::Left((status, _)) => Err(WhyNot::Stream(Box::new(status))),
            Either::Right(((), _)) => Err(WhyNot::TooSlow),
        }
    }

    /// Nothing is applied to the target any more, and it has exactly what the source has, also on its disk.
    async fn ready(&mut self, high: Seqno) -> Result<(), WhyNot> {
        drop(self.following.take());
        let standing = become_state(&self.target, VbucketState::Pending, None);
        standing.map_err(WhyNot::Target)?;
        let has = self.target.high_seqno();
        if has != high {
            let why = format!("it has {has}, its source {high}");
            return Err(WhyNot::Target(OperationError::BadReplication(why)));
        }
        // Its disk may still say what it was before, which may have been active.
        self.target.stored().await.map_err(WhyNot::Target)
    }

    fn leave(&mut self) -> Result<(), WhyNot> {
        let Some(hold) = self.hold else {
            return Err(WhyNot::TooSlow);
        };
        self.left = self.source.identity().topology.clone();
        let left = caught(|| self.source.leave(hold));
        became(&self.source, VbucketState::Dead, left, WhyNot::Source)
    }

    fn crown(&self) -> Result<(), WhyNot> {
        let topology = Some(self.topology.clone());
        let crowned = caught(|| become_state(&self.target, VbucketState::Active, topology));
        became(&self.target, VbucketState::Active, crowned, WhyNot::Target)
    }

    fn release(&mut self) {
        if let Some(hold) = self.hold {
            self.source.let_go_of(hold);
        }
        drop(self.following.take());
        self.resign();
    }

    fn give_back(&mut self) -> Result<(), WhyNot> {
        self.resign();
        if let Some(hold) = self.hold {
            self.source.let_go_of(hold);
        }
        let topology = Some(self.left.clone());
        let given = caught(|| become_state(&self.source, VbucketState::Active, topology));
        became(&self.source, VbucketState::Active, given, WhyNot::Source)
    }

    /// The target waits for nothing any more.
    fn resign(&self) {
        if self.target.state() == VbucketState::Pending {
            // One that is out of reach stays pending, which is no more than a replica.
            drop(become_state(&self.target, VbucketState::Replica, None));
        }
    }
}

fn become_state(
    core: &VbucketCore,
    state: VbucketState,
    topology: Option<Topology>,
) -> Result<(), OperationError> {
    let is_takeover = true;
    let change = SetVbucketState {
        state,
        topology,
        is_takeover,
    };
    core.set_state(change).map(drop)
}

/// What came of a change of state: what it became it is, whoever panicked behind that, once it is repaired.
fn became(
    core: &VbucketCore,
    state: VbucketState,
    asked: Result<Result<(), OperationError>, String>,
    refused: fn(OperationError) -> WhyNot,
) -> Result<(), WhyNot> {
    if core.identity().state == state {
        return Ok(());
    }
    asked.map_err(WhyNot::Panic)?.map_err(refused)
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        match self.machine.undo() {
            Undo::Nothing => {}
            Undo::Release => self.release(),
            Undo::GiveBack => {
                if let Err(why) = self.give_back() {
                    tracing::error!(vbucket = %self.source.id(), %why, "a vbucket that was given up midway is active nowhere");
                }
            }
        }
    }
}
