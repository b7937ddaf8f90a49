//! Warmup: from what the store holds to vbuckets that serve.
//!
//! Four phases. *State*: the mark of a clean shutdown is read and cleared; each vbucket's state record is read, and its
//! system events, which say what collections it has; its core is made, and a vbucket that was not shut down in order gets a new branch in its failover table. *Persist*:
//! these new records are committed, before any new mutation is accepted (MB-45755). *Prepares*: of each vbucket those
//! that are not over are read. *Documents*: it is read, in bounded steps, several at a time. When the disk takes no writes, reads are served all the same and
//! traffic stays off until it does (MB-39338).
//!
//! Invariant: a vbucket takes part only when all of it was read; one whose state or documents cannot be read is out
//! of service with the cause, and never looks empty or complete (MB-47933).

pub mod clean_shutdown;
pub(crate) mod events;
pub(crate) mod prepares;
mod plan;
mod reading;
mod states;
mod worker;

use std::fmt::Debug;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use messages::{ChildName, DownCause, Generation, OperationError};
use storage::disk::Disk;
use storage::{
    Item, Seqno, SystemEvent, VbucketId, VbucketIdentity, VbucketPosition, VbucketStateRecord,
};

use crate::backoff::Backoff;
use crate::environment::Environment;
use crate::executor::{StartError, WakeWorker, Worker, WorkerSpec};
use crate::guardian::Guardian;
use crate::store_handle::StoreHandle;
use crate::vbucket::VbucketCore;

pub use self::clean_shutdown::CleanMark;
pub use self::plan::{WarmupEnd, WarmupProgress};
pub use self::worker::WarmupWorker;

use self::plan::Plan;

/// A vbucket, seen from warmup.
pub trait Warmable: Debug + Send + Sync + 'static {
    /// A version the store holds, tombstones too; kept unless the vbucket has the key already (rule R21). Never
    /// refused for lack of memory.
    fn warm_insert(&self, item: Item);
    /// The system events the store holds, the newest of each slot: before anything is inserted.
    fn warm_collections(&self, events: Vec<(Seqno, SystemEvent)>);
    /// The prepares the store holds that are not over, all of them: before anything is inserted.
    fn warm_prepares(&self, prepares: Vec<Item>);
    /// Every version was inserted: what is not in memory is not there.
    fn warm_done(&self);
    /// While set, clients' writes are answered with a temporary failure; reads go on. Nothing but this takes it back.
    fn hold_writes(&self, is_held: bool);
    /// Takes the vbucket out of service.
    fn take_down(&self, cause: DownCause);
}

impl Warmable for VbucketCore {
    fn warm_insert(&self, item: Item) {
        VbucketCore::warm_insert(self, Arc::new(item));
    }

    fn warm_collections(&self, events: Vec<(Seqno, SystemEvent)>) {
        VbucketCore::warm_collections(self, events);
    }

    fn warm_prepares(&self, prepares: Vec<Item>) {
        VbucketCore::warm_prepares(self, prepares);
    }

    fn warm_done(&self) {
        VbucketCore::warm_done(self);
    }

    fn hold_writes(&self, is_held: bool) {
        VbucketCore::hold_writes(self, is_held);
    }

    fn take_down(&self, cause: DownCause) {
        VbucketCore::take_down(self, cause);
    }
}

/// The bucket's table of vbuckets, seen from warmup.
pub trait VbucketTable: Debug + Send + Sync + 'static {
    /// Makes the core of a vbucket and puts it in its place, or gives the one it made for an earlier call. It serves
    /// as one that is warming.
    fn make(
        &self,
        vbucket: VbucketId,
        state: VbucketStateRecord,
        position: VbucketPosition,
    ) -> Arc<dyn Warmable>;
    /// What the core that was made for an earlier call is, if there is one.
    fn identity(&self, vbucket: VbucketId) -> Option<Arc<VbucketIdentity>>;
    /// There is such a vbucket, but its state cannot be read or written: it is out of service, whether it has a core or
    /// not.
    fn note_down(&self, vbucket: VbucketId, cause: DownCause);
}

/// What becomes of vbuckets the store does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// They are created, active and empty: a bucket whose creation was interrupted is completed.
    Create,
    /// They are left out.
    Skip,
}

/// What a warmup works with.
#[derive(Clone, Debug)]
pub struct WarmupConfig {
    /// What its workers' names in the tree begin with: each appends a number.
    pub name: ChildName,
    /// The store.
    pub store: StoreHandle,
    /// The directory the store lies in, for the mark of a clean shutdown.
    pub disk: Arc<dyn Disk>,
    /// Time, randomness, failures.
    pub environment: Environment,
    /// How long to wait after the disk took no writes.
    pub backoff: Backoff,
    /// Where vbuckets are put.
    pub table: Arc<dyn VbucketTable>,
    /// What becomes of vbuckets the store does not have.
    pub absent: Absent,
    /// Bytes read in one step.
    pub step_bytes: usize,
}

impl WarmupConfig {
    /// Bytes read in one step, unless said otherwise: a fraction of a millisecond of a fast disk.
    pub const STEP_BYTES: usize = 1 << 20;
}

/// One warmup, shared by its workers and whoever waits for it. Clones are the same warmup.
#[derive(Clone, Debug)]
pub struct Warmup {
    config: Arc<WarmupConfig>,
    plan: Arc<Mutex<Plan>>,
    workers: Arc<Mutex<Vec<WakeWorker>>>,
}

impl Warmup {
    /// A warmup that begins with its first worker's first step.
    #[must_use]
    pub fn new(config: WarmupConfig) -> Warmup {
        Warmup {
            config: Arc::new(config),
            plan: Arc::default(),
            workers: Arc::default(),
        }
    }

    /// Starts `count` workers (at least one).
    pub fn start(&self, count: u16, guardian: &Arc<dyn Guardian>) -> Result<(), StartError> {
        for number in 0..count.max(1) {
            let name = ChildName::new(format!("{}-{number}", self.config.name));
            let (warmup, called) = (self.clone(), name.clone());
            let make = move |generation: Generation| -> Box<dyn Worker> {
                let (warmup, name) = (warmup.clone(), called.clone());
                Box::new(WarmupWorker::new(warmup, name, generation))
            };
            let wake = self.config.environment.executor.start(WorkerSpec {
                name,
                make: Box::new(make),
                guardian: Arc::clone(guardian),
            })?;
            self.config.store.watch(wake.clone());
            self.workers.lock().push(wake);
        }
        Ok(())
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> WarmupProgress {
        self.plan.lock().progress()
    }

    /// Answered when everything was read (or given up), or with `Closed` when the warmup is stopped.
    #[must_use]
    pub fn wait(&self) -> oneshot::Receiver<Result<WarmupEnd, OperationError>> {
        let (sender, receiver) = oneshot::channel();
        self.plan.lock().wait(sender);
        receiver
    }

    /// Answered when the first phase is done: every vbucket there is has its place, and serves as one that is warming.
    /// Dropped without an answer when the warmup is stopped before.
    #[must_use]
    pub fn wait_for_states(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.plan.lock().wait_for_states(sender);
        receiver
    }

    /// Ends it where it is: whoever waits is answered, and the workers end after their step.
    pub fn stop(&self) {
        self.plan.lock().stop();
        self.wake();
    }

    fn wake(&self) {
        let workers = self.workers.lock().clone();
        for worker in workers {
            worker.wake();
        }
    }
}
