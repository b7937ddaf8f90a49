//! The monitor of a vbucket, whatever the vbucket is, and how one becomes another.
//!
//! Invariant: a change of state loses no prepare and no high seqno; what was decided and not done is undecided again, and
//! nothing has a deadline any more: the next active may have committed it. Whoever waits is answered from the ledger
//! ([`Ledger::begin_role`]), not from here.

use std::collections::BTreeMap;

use storage::{CollectionId, DocumentKey, Seqno, VbucketState, Watermarks};

use super::active::{ActiveMonitor, Inherited};
use super::dead::DeadMonitor;
use super::ledger::Ledger;
use super::passive::{PassiveMonitor, SnapshotEnd};
use super::prepare::{Prepare, Tracked};
use super::topology::{Chains, NodeName, Requirements};

/// One of the three.
#[derive(Clone, Debug)]
pub enum Monitor {
    /// Of an active vbucket.
    Active(ActiveMonitor),
    /// Of a replica, or of one that is about to become active.
    Passive(PassiveMonitor),
    /// Of a dead one.
    Dead(DeadMonitor),
}

/// Where the vbucket stands when its monitor is made or becomes another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// Highest seqno in memory.
    pub high_seqno: Seqno,
    /// Highest seqno on disk.
    pub persisted: Seqno,
    /// A disk snapshot that came whole is not known to be on disk.
    pub is_behind_disk: bool,
    /// What the bucket asks of its chains.
    pub requirements: Requirements,
}

/// What the vbucket's memory and its store know of durable writes: all a monitor needs besides the ledger.
#[derive(Clone, Debug, Default)]
pub struct Outstanding {
    /// Prepares that are not over, in any order.
    pub prepares: Vec<Prepare>,
    /// What the store says is prepared; see [`high_prepared_on_disk`].
    pub high_prepared: Seqno,
    /// Highest prepare that is over.
    pub high_completed: Seqno,
    /// End of the last snapshot that came whole, of a vbucket that is not active.
    pub whole: Option<SnapshotEnd>,
    /// Collections that are dropped and not erased yet, and their ends.
    pub dropped: BTreeMap<CollectionId, Seqno>,
}

impl Monitor {
    /// A monitor from what outlived the last one: after a warmup or a rollback, with an empty ledger, or after the one
    /// who drove it was made anew.
    #[must_use]
    pub fn rebuild<R>(
        state: VbucketState,
        chains: Option<Chains>,
        outstanding: Outstanding,
        view: &Standing,
        ledger: &Ledger<R>,
    ) -> Monitor {
        let mut prepares = outstanding.prepares;
        prepares.sort_unstable_by_key(|prepare| prepare.seqno);
        let tracked = prepares.into_iter().map(|prepare| {
            // Only an active gives anything up.
            let is_active = state == VbucketState::Active;
            let deadline = ledger.deadline(prepare.seqno).filter(|_| is_active);
            let mut tracked = Tracked::inherited(prepare);
            tracked.deadline = deadline;
            for (collection, end) in &outstanding.dropped {
                tracked.note_dropped(*collection, *end);
            }
            tracked
        });
        // Nobody completes what is dropped, and as a rule nobody waits for it.
        let is_asked_for = |one: &Tracked| !one.is_dropped || ledger.is_parked(one.seqno());
        let tracked = tracked.filter(is_asked_for);
        let high_prepared = outstanding.high_prepared.max(ledger.high_prepared());
        let inherited = Inherited {
            tracked: tracked.collect(),
            high_prepared: high_prepared.min(view.high_seqno),
            high_completed: outstanding.high_completed,
            persisted: view.persisted,
        };
        match state {
            VbucketState::Active => {
                let mut active = ActiveMonitor::new(inherited, view.requirements);
                active.resume(ledger.words().clone(), view.high_seqno);
                active.set_chains(chains);
                Monitor::Active(active)
            }
            VbucketState::Replica | VbucketState::Pending => {
                Monitor::Passive(PassiveMonitor::new(inherited, outstanding.whole))
            }
            VbucketState::Dead => Monitor::Dead(DeadMonitor::new(inherited, outstanding.whole)),
        }
    }

    /// The vbucket becomes this; what the log holds up to [`Standing::high_seqno`] is tracked by now. An active one begins
    /// without a topology, whatever it was before. Whatever fails, the monitor is what it was, or what it shall be (MB-72147).
    pub fn become_state(&mut self, state: VbucketState, view: &Standing) {
        let stays = match self {
            Monitor::Active(_) => state == VbucketState::Active,
            Monitor::Passive(_) => matches!(state, VbucketState::Replica | VbucketState::Pending),
            Monitor::Dead(_) => state == VbucketState::Dead,
        };
        if stays {
            return;
        }
        let (inherited, whole) = self.clone().retire(view);
        *self = match state {
            VbucketState::Active => promoted(inherited, view.requirements),
            VbucketState::Replica | VbucketState::Pending => {
                Monitor::Passive(PassiveMonitor::new(inherited, whole))
            }
            VbucketState::Dead => Monitor::Dead(DeadMonitor::new(inherited, whole)),
        };
    }

    fn retire(self, view: &Standing) -> (Inherited, Option<SnapshotEnd>) {
        let (mut inherited, whole) = match self {
            // What it wrote itself is whole, and may be acknowledged to the next active.
            Monitor::Active(active) => {
                let end = SnapshotEnd::memory(view.high_seqno);
                let is_behind_disk = view.is_behind_disk;
                let end = if is_behind_disk { end.as_disk() } else { end };
                (active.retire(), Some(end))
            }
            Monitor::Passive(passive) => passive.retire(),
            Monitor::Dead(dead) => (dead.inherited, dead.whole),
        };
        inherited.persisted = inherited.persisted.max(view.persisted);
        (inherited, whole)
    }

    /// Everything up to `seqno` is on this node's disk.
    pub fn note_persisted(&mut self, seqno: Seqno) {
        match self {
            Monitor::Active(active) => active.note_persisted(seqno),
            Monitor::Passive(passive) => passive.note_persisted(seqno),
            Monitor::Dead(_) => {}
        }
    }

    /// The store says that this is prepared.
    pub fn note_stored(&mut self, high_prepared: Seqno) {
        match self {
            Monitor::Active(active) => active.note_stored(high_prepared),
            Monitor::Passive(passive) => passive.note_stored(high_prepared),
            Monitor::Dead(_) => {}
        }
    }

    /// A node holds everything up to `seqno`. Says nothing to one that is not active.
    pub fn acknowledge(&mut self, node: &NodeName, seqno: Seqno) {
        match self {
            Monitor::Active(active) => active.acknowledge(node, seqno),
            Monitor::Passive(_) | Monitor::Dead(_) => {}
        }
    }

    /// A collection ended at `end`. Its prepares stay until they are decided or erased from the disk, but a replica waits
    /// for nobody to complete them.
    pub fn note_collection_dropped(&mut self, collection: CollectionId, end: Seqno) {
        match self {
            Monitor::Active(active) => active.note_collection_dropped(collection, end),
            Monitor::Passive(passive) => passive.note_collection_dropped(collection, end),
            Monitor::Dead(dead) => dead.note_collection_dropped(collection, end),
        }
    }

    /// The prepare is erased from the disk, with its collection; whether it was there. Of one that is not there nothing
    /// is said: a compaction may come twice.
    pub fn erase(&mut self, key: &DocumentKey, seqno: Seqno) -> bool {
        match self {
            Monitor::Active(active) => active.erase(key, seqno),
            Monitor::Passive(passive) => passive.erase(key, seqno),
            Monitor::Dead(dead) => dead.erase(key, seqno),
        }
    }

    /// Highest prepare this node holds as strongly as it asks.
    #[must_use]
    pub fn high_prepared(&self) -> Seqno {
        match self {
            Monitor::Active(active) => active.high_prepared(),
            Monitor::Passive(passive) => passive.high_prepared(),
            Monitor::Dead(dead) => dead.high_prepared(),
        }
    }

    /// Highest prepare that is over.
    #[must_use]
    pub fn high_completed(&self) -> Seqno {
        match self {
            Monitor::Active(active) => active.high_completed(),
            Monitor::Passive(passive) => passive.high_completed(),
            Monitor::Dead(dead) => dead.high_completed(),
        }
    }
}

/// The high prepared seqno of a vbucket whose store says this. The one that is stored may lag, where a batch was the last
/// and nothing was written when the monitor went on; but what lies on disk in snapshots that came whole is prepared,
/// however strongly it was to be (MB-51639, MB-51806).
#[must_use]
pub fn high_prepared_on_disk(watermarks: &Watermarks) -> Seqno {
    let (snapshot, high) = (watermarks.snapshot, watermarks.high_seqno);
    let whole = if snapshot.end <= high {
        high
    } else {
        snapshot.start
    };
    let known = [watermarks.prepared_seqno, watermarks.completed_seqno];
    let held = known.into_iter().filter(|seqno| *seqno <= whole);
    held.fold(watermarks.high_prepared_seqno, Seqno::max)
}

fn promoted(mut inherited: Inherited, requirements: Requirements) -> Monitor {
    let passed = inherited.high_prepared;
    // What is over is a stepping stone for the high prepared seqno, and no more; what is dropped is nothing.
    let is_stone = |one: &Tracked| one.is_completed && one.seqno() > passed;
    let is_needed = |one: &Tracked| is_stone(one) || !one.is_completed && !one.is_dropped;
    inherited.tracked.retain(is_needed);
    Monitor::Active(ActiveMonitor::new(inherited, requirements))
}
