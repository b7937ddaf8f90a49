//! Clients that write one document after the other, each to keys of its own, and remember what they were answered.
//!
//! Invariant: a client asks for its next write only after the last was answered, so the writes of a key have one order.
//! One that failed has an unknown outcome until a later one of its key is acknowledged; the client goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use piggin::storage;
use storage::{CollectionId, DocumentKey, VbucketId};
use supervisor::testing::{SimulatedRandom, World};

use crate::engine::{Engine, VBUCKETS};

/// Keys of one client.
const KEYS: u64 = 6;
/// Most bytes of a value.
const VALUE_BYTES_MAX: u64 = 2000;

/// What was asked of a key and what was answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyHistory {
    /// The newest write that was acknowledged, or found when the engine was opened again.
    pub(crate) settled: Option<Bytes>,
    /// The writes after it, whose outcome nobody knows.
    pub(crate) unknown: Vec<Bytes>,
}

/// What all clients asked and were answered, over all openings.
#[derive(Clone, Default)]
pub(crate) struct History {
    keys: Arc<Mutex<BTreeMap<(VbucketId, DocumentKey), KeyHistory>>>,
}

impl History {
    pub(crate) fn keys(&self) -> BTreeMap<(VbucketId, DocumentKey), KeyHistory> {
        self.keys.lock().clone()
    }

    /// The outcome is known: of a write that was acknowledged, or of all when the engine was opened again. What is not
    /// there then must not return.
    pub(crate) fn settle(&self, place: &(VbucketId, DocumentKey), found: Option<Bytes>) {
        let mut keys = self.keys.lock();
        let history = keys.entry(place.clone()).or_default();
        history.unknown.clear();
        history.settled = found;
    }

    fn asked(&self, place: &(VbucketId, DocumentKey), value: &Bytes) {
        let mut keys = self.keys.lock();
        let history = keys.entry(place.clone()).or_default();
        history.unknown.push(value.clone());
    }
}

/// What a client came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All its writes were acknowledged.
    Done,
    /// A write was answered with an error, or the writer was gone.
    Failed,
    /// A write was not answered at all.
    Unanswered,
}

/// Longer than any write takes: virtual time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts clients that each do so many writes.
pub(crate) fn start(
    world: &World,
    engine: &Arc<Engine>,
    history: &History,
    clients: u64,
    writes: u64,
) -> Vec<JoinHandle<Ended>> {
    let each = 0..clients;
    each.map(|number| {
        let client = Client {
            number,
            random: world.random(&format!("client {number}")),
            world: world.clone(),
            engine: Arc::clone(engine),
            history: history.clone(),
        };
        tokio::task::spawn_local(client.write_all(writes))
    })
    .collect()
}

struct Client {
    number: u64,
    random: Arc<SimulatedRandom>,
    world: World,
    engine: Arc<Engine>,
    history: History,
}

impl Client {
    async fn write_all(self, writes: u64) -> Ended {
        let mut worst = Ended::Done;
        for _ in 0..writes {
            let pause = self.random.between(0..=3);
            self.world.sleep(Duration::from_millis(pause)).await;
            let ended = self.write().await;
            let code = [Ended::Done, Ended::Failed, Ended::Unanswered];
            let code = code.iter().position(|one| *one == ended).unwrap_or(9);
            let who = format!("client {}", self.number);
            self.world.trace().event("answered", &who, &[code as u64]);
            match ended {
                Ended::Done => {}
                Ended::Failed => worst = Ended::Failed,
                Ended::Unanswered => return Ended::Unanswered,
            }
        }
        worst
    }

    async fn write(&self) -> Ended {
        let Some(place) = self.place() else {
            return Ended::Failed;
        };
        let value = self.value();
        self.history.asked(&place, &value);
        let (vbucket, key) = place.clone();
        let answer = self.engine.write(vbucket, key, value.clone());
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(_))) => {
                self.history.settle(&place, Some(value));
                Ended::Done
            }
            Ok(Ok(Err(_)) | Err(_)) => Ended::Failed,
            Err(_) => Ended::Unanswered,
        }
    }

    fn place(&self) -> Option<(VbucketId, DocumentKey)> {
        let key = self.random.below(KEYS);
        // A key lies always in the same vbucket.
        let vbucket = u16::try_from((self.number + key) % u64::from(VBUCKETS)).ok()?;
        let name = format!("client {} key {key}", self.number);
        let key = DocumentKey::new(CollectionId::DEFAULT, name.as_bytes()).ok()?;
        Some((VbucketId::new(vbucket)?, key))
    }

    /// No two values are the same.
    fn value(&self) -> Bytes {
        use supervisor::testing::Random;
        let length = self.random.below(VALUE_BYTES_MAX);
        let mut value = format!("{:016x} ", self.random.next_u64());
        while (value.len() as u64) < length {
            value.push_str("value ");
        }
        value.into()
    }
}
