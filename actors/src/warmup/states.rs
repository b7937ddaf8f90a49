//! The first phase: which vbuckets there are, what they are, and which of them begin a new branch of history.
//!
//! Invariant: nothing is written here but vbuckets that did not exist; a branch begins where the vbucket's last
//! complete snapshot ends (MB-35003), and only where it is active: a replica's branches come from its active.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::environment::{Environment, Random};
use crate::warmup::clean_shutdown::CleanMark;
use crate::warmup::events;
use crate::warmup::plan::Load;
use crate::warmup::{Absent, WarmupConfig};
use messages::DownCause;
use storage::{
    Batch, KvStore, LogStore, RollbackEpoch, Seqno, StorageError, VbucketId, VbucketIdentity,
    VbucketPosition, VbucketState, VbucketStateRecord, VbucketUuid,
};

/// Reads the states, one vbucket a step.
#[derive(Debug)]
pub(super) struct StatesJob {
    mark: CleanMark,
    positions: BTreeMap<VbucketId, Result<VbucketPosition, StorageError>>,
    next: u16,
    pub(super) loads: Vec<Load>,
    pub(super) unwritten: Vec<Batch>,
}

/// What one step came to.
pub(super) enum Found {
    Nothing,
    Down(VbucketId, StorageError),
    End,
}

impl StatesJob {
    pub(super) fn new(mark: CleanMark, store: &LogStore) -> StatesJob {
        let vbuckets = store.vbuckets().into_iter();
        StatesJob {
            mark,
            positions: vbuckets
                .map(|status| (status.vbucket, status.position))
                .collect(),
            next: 0,
            loads: Vec::new(),
            unwritten: Vec::new(),
        }
    }

    /// Looks at the next vbucket.
    pub(super) fn step(&mut self, config: &WarmupConfig, store: &LogStore) -> Found {
        let id = VbucketId::new(self.next).filter(|id| id.get() < store.shape().vbuckets);
        let Some(id) = id else { return Found::End };
        let looked = self.look(id, config, store);
        // Somebody else holds the right to write; a store that was closed is noticed by its lease.
        if matches!(looked, Err(StorageError::Closed)) {
            return Found::Nothing;
        }
        self.next = self.next.saturating_add(1);
        match looked {
            Ok(()) => Found::Nothing,
            Err(cause) => {
                let down = DownCause::Storage(Arc::new(cause.clone()));
                config.table.note_down(id, down);
                Found::Down(id, cause)
            }
        }
    }

    fn look(
        &mut self,
        id: VbucketId,
        config: &WarmupConfig,
        store: &LogStore,
    ) -> Result<(), StorageError> {
        let environment = &config.environment;
        let mut events = Vec::new();
        // There when the states are read a second time: memory and disk must not get a branch each.
        let known = config.table.identity(id);
        let (state, position) = match self.positions.get(&id).cloned() {
            Some(Ok(position)) => {
                let stored = store.state(id)?;
                events = events::read(store, id, &stored)?;
                let is_clean = self.mark.is_clean(id, &position);
                let state = if is_clean || stored.identity.state != VbucketState::Active {
                    stored
                } else {
                    let branched = branch(&stored, known, environment);
                    self.unwritten.push(state_batch(id, position, &branched));
                    branched
                };
                (state, position)
            }
            Some(Err(cause)) => return Err(cause),
            None if config.absent == Absent::Skip => return Ok(()),
            None => {
                let mut state = VbucketStateRecord::new(new_uuid(&*environment.random));
                if let Some(known) = known {
                    state.identity = known;
                }
                let incarnation = store.create_vbucket(id, &state)?;
                let position = VbucketPosition {
                    incarnation,
                    epoch: RollbackEpoch(0),
                    high_seqno: Seqno::ZERO,
                };
                (state, position)
            }
        };
        let core = config.table.make(id, state, position);
        core.warm_collections(events);
        self.loads.push(Load {
            vbucket: id,
            core,
            position,
            panics: 0,
        });
        Ok(())
    }
}

/// The state with a new branch of history: what was acknowledged after the store's last word may be lost. A core that
/// is `known` has its branch already.
fn branch(
    stored: &VbucketStateRecord,
    known: Option<Arc<VbucketIdentity>>,
    environment: &Environment,
) -> VbucketStateRecord {
    let marks = &stored.watermarks;
    if let Some(identity) = known {
        return VbucketStateRecord {
            identity,
            watermarks: *marks,
        };
    }
    let is_complete = marks.high_seqno >= marks.snapshot.end;
    let from = if is_complete {
        marks.high_seqno
    } else {
        marks.snapshot.start
    };
    let mut identity = VbucketIdentity::clone(&stored.identity);
    let uuid = new_uuid(&*environment.random);
    identity.failover_table.create_entry(uuid, from);
    VbucketStateRecord {
        identity: Arc::new(identity),
        watermarks: *marks,
    }
}

/// A name for a branch; never zero.
fn new_uuid(random: &dyn Random) -> VbucketUuid {
    VbucketUuid(random.next_u64().max(1))
}

fn state_batch(id: VbucketId, position: VbucketPosition, state: &VbucketStateRecord) -> Batch {
    Batch {
        vbucket: id,
        incarnation: position.incarnation,
        epoch: position.epoch,
        items: Vec::new(),
        watermarks: state.watermarks,
        identity: Some(Arc::clone(&state.identity)),
    }
}
