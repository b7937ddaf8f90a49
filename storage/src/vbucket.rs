//! Vbuckets: the partitions of a bucket, and the record that says what a vbucket is.
//!
//! Invariant: everything that names a vbucket's data carries `(VbucketId, Incarnation, RollbackEpoch)`, so that
//! data of a deleted or rolled-back past can be told from data of the present (rule R2).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::failover_table::FailoverTable;
use crate::seqno::{Seqno, SnapshotRange};

/// Number of a vbucket, below [`VbucketId::COUNT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VbucketId(u16);

impl VbucketId {
    /// Most vbuckets a bucket may have.
    pub const COUNT_MAX: u16 = 1024;

    /// The one every bucket has.
    pub const FIRST: VbucketId = VbucketId(0);

    /// The vbucket of that number, or `None` at or above [`VbucketId::COUNT_MAX`].
    #[must_use]
    pub const fn new(number: u16) -> Option<VbucketId> {
        if number < Self::COUNT_MAX {
            Some(VbucketId(number))
        } else {
            None
        }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Its number, to index a table of vbuckets.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl TryFrom<u16> for VbucketId {
    type Error = VbucketIdOutOfRange;

    fn try_from(number: u16) -> Result<Self, Self::Error> {
        VbucketId::new(number).ok_or(VbucketIdOutOfRange(number))
    }
}

impl From<VbucketId> for u16 {
    fn from(id: VbucketId) -> u16 {
        id.0
    }
}

impl std::fmt::Display for VbucketId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A vbucket number at or above [`VbucketId::COUNT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("vbucket {0} is out of range; the highest is {highest}", highest = VbucketId::COUNT_MAX - 1)]
pub struct VbucketIdOutOfRange(pub u16);

/// Which life of a vbucket: creating a vbucket anew gives it a higher incarnation, never used before in its store.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Incarnation(pub u64);

/// How often this incarnation was rolled back; a batch of an older epoch is refused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct RollbackEpoch(pub u32);

/// Identity of one branch of a vbucket's history. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VbucketUuid(pub u64);

/// What a vbucket may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VbucketState {
    /// Serves clients and feeds replicas.
    Active,
    /// Follows an active vbucket.
    Replica,
    /// About to become active; clients wait.
    Pending,
    /// Serves nobody; kept until deleted.
    Dead,
}

/// Kind of the snapshot the newest persisted items came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotKind {
    /// From a checkpoint in memory: nothing was left out but by deduplication of the source's checkpoint.
    #[default]
    Memory,
    /// From a disk snapshot: complete only at its end (MB-35631, MB-36112).
    Disk,
}

/// The replication chains of a vbucket, as stored: names of nodes, the active first; `None` is a position not
/// filled. No chain at all means no topology was set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// One chain, or two while nodes are being exchanged.
    pub chains: Vec<Vec<Option<String>>>,
}

impl Topology {
    /// One chain of these nodes, the active first, every place filled.
    pub fn of_chain(nodes: impl IntoIterator<Item = impl Into<String>>) -> Topology {
        let places = nodes.into_iter().map(|node| Some(node.into()));
        Topology {
            chains: vec![places.collect()],
        }
    }

    /// Bytes it takes, about.
    fn bytes(&self) -> usize {
        let name = |name: &Option<String>| name.as_ref().map_or(0, String::len);
        let of = |chain: &Vec<Option<String>>| {
            let names = chain.iter().map(|one| name(one).saturating_add(10));
            names.fold(10, usize::saturating_add)
        };
        self.chains.iter().map(of).fold(0, usize::saturating_add)
    }
}

/// What a vbucket is: changes rarely, so a batch names it only when it changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VbucketIdentity {
    /// What the vbucket may do.
    pub state: VbucketState,
    /// The branches of its history, newest first.
    pub failover_table: FailoverTable,
    /// Its replication chains.
    pub topology: Topology,
    /// Uid of the newest collections manifest this vbucket applied.
    pub manifest_uid: u64,
}

impl VbucketIdentity {
    /// Most bytes of a topology: it stands in every batch that changes the identity, and in every manifest.
    pub const TOPOLOGY_BYTES_MAX: usize = 1 << 20;

    pub(crate) fn topology_bytes(&self) -> usize {
        self.topology.bytes()
    }
}

/// How far a vbucket has come: changes with every batch, and is stored with every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermarks {
    /// Highest seqno of the batch and everything before it.
    pub high_seqno: Seqno,
    /// Highest seqno of an item that readers without sync-write support may see.
    pub max_visible_seqno: Seqno,
    /// Highest persisted prepare.
    pub prepared_seqno: Seqno,
    /// Highest prepare known to be completed (committed or aborted).
    pub completed_seqno: Seqno,
    /// Highest prepare acknowledged to the active (moves at snapshot ends only).
    pub high_prepared_seqno: Seqno,
    /// Highest tombstone purged; only ever raised (MB-48384).
    pub purge_seqno: Seqno,
    /// The snapshot the newest items belong to.
    pub snapshot: SnapshotRange,
    /// Where that snapshot came from.
    pub snapshot_kind: SnapshotKind,
    /// When the batch was committed, in milliseconds since the Unix epoch by the injected clock; the store keeps
    /// it monotone per vbucket.
    pub commit_time_ms: u64,
}

/// Everything a store remembers of a vbucket besides its items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VbucketStateRecord {
    /// What it is.
    pub identity: Arc<VbucketIdentity>,
    /// How far it has come.
    pub watermarks: Watermarks,
}

impl VbucketStateRecord {
    /// A new active vbucket, whose history begins as `uuid`.
    #[must_use]
    pub fn new(uuid: VbucketUuid) -> VbucketStateRecord {
        let identity = VbucketIdentity {
            state: VbucketState::Active,
            failover_table: FailoverTable::new(uuid),
            topology: Topology::default(),
            manifest_uid: 0,
        };
        VbucketStateRecord {
            identity: Arc::new(identity),
            watermarks: Watermarks::default(),
        }
    }
}

impl Watermarks {
    /// All of it but the kind of snapshot, in the order of every encoding.
    pub(crate) fn numbers(&self) -> [u64; 9] {
        [
            self.high_seqno.0,
            self.max_visible_seqno.0,
            self.prepared_seqno.0,
            self.completed_seqno.0,
            self.high_prepared_seqno.0,
            self.purge_seqno.0,
            self.snapshot.start.0,
            self.snapshot.end.0,
            self.commit_time_ms,
        ]
    }

    /// The watermarks that have these [`Watermarks::numbers`].
    pub(crate) fn of_numbers(numbers: [u64; 9], snapshot_kind: SnapshotKind) -> Watermarks {
        let [
            high,
            max_visible,
            prepared,
            completed,
            high_prepared,
            purge,
            start,
            end,
            commit_time_ms,
        ] = numbers;
        Watermarks {
            high_seqno: Seqno(high),
            max_visible_seqno: Seqno(max_visible),
            prepared_seqno: Seqno(prepared),
            completed_seqno: Seqno(completed),
            high_prepared_seqno: Seqno(high_prepared),
            purge_seqno: Seqno(purge),
            snapshot: SnapshotRange {
                start: Seqno(start),
                end: Seqno(end),
            },
            snapshot_kind,
            commit_time_ms,
        }
    }

    /// Those of a batch of documents that ends at `high_seqno`, committed at `commit_time_ms` in one snapshot of its
    /// own.
    #[must_use]
    pub fn at(high_seqno: Seqno, commit_time_ms: u64) -> Watermarks {
        Watermarks {
            high_seqno,
            max_visible_seqno: high_seqno,
            snapshot: SnapshotRange {
                start: high_seqno,
                end: high_seqno,
            },
            commit_time_ms,
            ..Watermarks::default()
        }
    }
}
