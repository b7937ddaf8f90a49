//! Real vbuckets, as a warmup makes them for whatever works on them next.
//!
//! Invariant: a vbucket has one core, also when its state is read a second time.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use messages::DownCause;
use piggin_actors::environment::Environment;
use piggin_actors::vbucket::checkpoint::CheckpointLimits;
use piggin_actors::vbucket::{DirtyVbuckets, VbucketConfig, VbucketCore};
use piggin_actors::warmup::{VbucketTable, Warmable};
use storage::{
    MemoryAccount, MemoryPool, VbucketId, VbucketIdentity, VbucketPosition, VbucketStateRecord,
};

#[derive(Debug)]
pub(crate) struct Table {
    environment: Environment,
    dirty: Arc<DirtyVbuckets>,
    checkpoints: CheckpointLimits,
    cores: Mutex<BTreeMap<VbucketId, Arc<VbucketCore>>>,
}

impl Table {
    pub(crate) fn new(
        environment: Environment,
        dirty: &Arc<DirtyVbuckets>,
        checkpoints: CheckpointLimits,
    ) -> Arc<Table> {
        Arc::new(Table {
            environment,
            dirty: Arc::clone(dirty),
            checkpoints,
            cores: Mutex::default(),
        })
    }

    /// Those that were made, in order.
    pub(crate) fn cores(&self) -> Vec<Arc<VbucketCore>> {
        self.cores.lock().values().cloned().collect()
    }
}

impl VbucketTable for Table {
    fn make(
        &self,
        vbucket: VbucketId,
        state: VbucketStateRecord,
        position: VbucketPosition,
    ) -> Arc<dyn Warmable> {
        let make = || {
            Arc::new(VbucketCore::new(VbucketConfig {
                id: vbucket,
                state,
                position,
                environment: self.environment.clone(),
                memory: Arc::new(MemoryAccount::new(Arc::new(MemoryPool::new(1 << 30)))),
                dirty: Arc::clone(&self.dirty),
                checkpoints: self.checkpoints,
                on_suspect: Arc::new(|_| {}),
            }))
        };
        let mut cores = self.cores.lock();
        Arc::<VbucketCore>::clone(cores.entry(vbucket).or_insert_with(make))
    }

    fn identity(&self, vbucket: VbucketId) -> Option<Arc<VbucketIdentity>> {
        self.cores.lock().get(&vbucket).map(|core| core.identity())
    }

    fn note_down(&self, vbucket: VbucketId, cause: DownCause) {
        panic!("{vbucket} is down: {cause}");
    }
}
