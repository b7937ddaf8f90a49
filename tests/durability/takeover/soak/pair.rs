//! Two machines with a bucket on each, and clients that write to whichever takes it and remember what they were told.
//!
//! Whatever is acknowledged here is on a disk, so that the loss of all power costs none of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use piggin::Bucket;
use piggin::actors::vbucket::VbucketCore;
use piggin::messages::OperationError;
use piggin::messages::vbucket::SetVbucketState;
use piggin::storage::{Advice, DurabilityLevel, VbucketState};
use supervisor::testing::World;

use crate::common::{PATIENCE, opened, read, settled};
use crate::takeover::{VBUCKET, alone, key_of, state};

pub(super) const NODES: [&str; 2] = ["a", "b"];
const CLIENTS: usize = 8;
/// Who is refused again and again asks no more often.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// What a client knows of its document.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    asked: u64,
    acknowledged: u64,
}

/// Two machines, and what clients know.
pub(super) struct Pair {
    pub(super) worlds: [World; 2],
    buckets: RefCell<[Bucket; 2]>,
    /// Which of them ended since they were opened.
    ended: [Cell<bool>; 2],
    known: RefCell<BTreeMap<usize, Known>>,
    is_over: Cell<bool>,
}

impl Pair {
    pub(super) fn new(worlds: [World; 2], buckets: [Bucket; 2]) -> Pair {
        Pair {
            worlds,
            buckets: RefCell::new(buckets),
            ended: Default::default(),
            known: RefCell::default(),
            is_over: Cell::new(false),
        }
    }

    pub(super) fn bucket(&self, at: usize) -> Bucket {
        self.buckets.borrow()[at].clone()
    }

    pub(super) fn core(&self, at: usize) -> Option<Arc<VbucketCore>> {
        self.bucket(at).vbucket_core(VBUCKET)
    }

    /// Those whose vbucket is active, of the machines that run.
    pub(super) fn active(&self) -> Vec<usize> {
        let is_active = |at: &usize| {
            let bucket = self.bucket(*at);
            !bucket.is_closed() && state(&bucket) == VbucketState::Active
        };
        (0..2).filter(is_active).collect()
    }

    /// A machine ends, by this.
    pub(super) fn end(&self, at: usize, how: impl FnOnce(&World)) {
        self.ended[at].set(true);
        how(&self.worlds[at]);
    }

    /// Whether a machine ended since it was opened.
    pub(super) fn has_lost_one(&self) -> bool {
        self.ended.iter().any(Cell::get)
    }

    /// What ended is opened again.
    pub(super) async fn open_again(&self) {
        for (at, ended) in self.ended.iter().enumerate() {
            if ended.take() {
                let again = opened(&self.worlds[at], NODES[at]).await;
                self.buckets.borrow_mut()[at] = again;
            }
        }
    }

    /// What panics left is repaired.
    pub(super) async fn repaired(&self) {
        let is_suspect = |at: usize| self.core(at).is_some_and(|core| core.is_suspect());
        let repaired = async {
            while (0..2).any(is_suspect) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, repaired).await.expect("it is repaired");
    }

    /// The disks say what the vbuckets are.
    pub(super) async fn stored(&self) {
        for at in 0..2 {
            let role = state(&self.bucket(at));
            let core = self.core(at).expect("it");
            let stored = timeout(PATIENCE, core.stored_as(role)).await;
            stored.expect("in time").expect("what it is");
        }
    }

    /// As the errors say: the source has everything.
    pub(super) async fn become_active(&self, at: usize) {
        let bucket = self.bucket(at);
        let core = self.core(at).expect("it");
        let active = SetVbucketState {
            state: VbucketState::Active,
            topology: Some(alone(&bucket)),
            is_takeover: true,
        };
        let becomes = async {
            while let Err(error) = core.set_state(active.clone()) {
                assert_eq!(error.advice(), Advice::RetryLater, "{error}");
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, becomes).await.expect("a promotion");
    }

    /// What was acknowledged is there, and nothing that nobody asked for; how many writes that are.
    pub(super) async fn check(&self, at: usize) -> u64 {
        let bucket = self.bucket(at);
        settled(&bucket).await;
        let known = self.known.borrow().clone();
        let mut acknowledged = 0;
        for (number, one) in known {
            let value = read(&bucket, &key_of(&bucket, number)).await;
            let value: u64 = value.map_or(0, |value| value.parse().expect("a number"));
            assert!(
                one.acknowledged <= value && value <= one.asked,
                "client {number}: {value} is read, {one:?}"
            );
            acknowledged += one.acknowledged;
        }
        acknowledged
    }
}

/// Those who write, until they are told to end.
pub(super) struct Clients(Vec<JoinHandle<()>>);

impl Clients {
    pub(super) fn start(pair: &Rc<Pair>) -> Clients {
        pair.is_over.set(false);
        let start = |number| actix::spawn(client(Rc::clone(pair), number));
        Clients((0..CLIENTS).map(start).collect())
    }

    /// Every one of them is answered.
    pub(super) async fn end(self, pair: &Pair) {
        pair.is_over.set(true);
        for client in self.0 {
            let ended = timeout(PATIENCE, client).await;
            ended.expect("every write is answered").expect("no panic");
        }
    }
}

/// Writes rising values to its document, to whichever node takes them.
async fn client(pair: Rc<Pair>, number: usize) {
    let key = key_of(&pair.bucket(0), number);
    let mut at = 0;
    let mut pause = Duration::ZERO;
    while !pair.is_over.get() {
        let value = {
            let mut known = pair.known.borrow_mut();
            let known = known.entry(number).or_default();
            known.asked += 1;
            known.asked
        };
        let bucket = pair.bucket(at);
        let write = bucket.set(&key, value.to_string());
        let answer = if number.is_multiple_of(2) {
            write.persisted().await
        } else {
            write.durability(DurabilityLevel::PersistToMajority).await
        };
        pause = (pause * 2).clamp(Duration::from_millis(1), PAUSE_MAX);
        match answer {
            Ok(_) => {
                let mut known = pair.known.borrow_mut();
                known.entry(number).or_default().acknowledged = value;
                pause = Duration::from_millis(1);
            }
            Err(OperationError::NotMyVbucket { .. } | OperationError::Closed) => at = 1 - at,
            Err(error) => {
                let advice = error.advice();
                let is_transient = matches!(advice, Advice::RetryLater)
                    || matches!(error, OperationError::Crashed { .. });
                assert!(is_transient, "{error}");
            }
        }
        sleep(pause).await;
    }
}
