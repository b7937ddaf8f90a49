//! Clients that write one document after the other, each to keys of its own, through both doors, and remember what they
//! were answered; now and then one locks a document, or scans its keys.
//!
//! Invariant: a client asks for its next write only after the last was answered. One that fails goes on; one that is not
//! answered at all ends there.

pub(crate) mod locks;
pub(crate) mod scans;
pub(crate) mod writes;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use piggin::Bucket;
use piggin::messages::OperationError;
use piggin::messages::vbucket::{Acknowledge, Mutated, Write};
use supervisor::testing::{SimulatedRandom, World};

use crate::history::{History, Outcome, Place};
use writes::{send, single};

/// Keys of one client.
const KEYS: u64 = 6;
/// Longer than any write takes: virtual time.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a client came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ended {
    /// All its writes were acknowledged.
    Done,
    /// A write was answered with an error.
    Failed,
    /// A write was not answered at all.
    Unanswered,
}

/// Starts clients that each do so many writes, in this order.
pub(crate) fn start(
    world: &World,
    bucket: &Bucket,
    history: &History,
    clients: &[u64],
    writes: u64,
) -> Vec<JoinHandle<Ended>> {
    let start = |number: &u64| {
        let client = Client {
            number: *number,
            random: world.random(&format!("client {number}")),
            world: world.clone(),
            bucket: bucket.clone(),
            history: history.clone(),
        };
        tokio::task::spawn_local(client.write_all(writes))
    };
    clients.iter().map(start).collect()
}

struct Client {
    number: u64,
    random: Arc<SimulatedRandom>,
    world: World,
    bucket: Bucket,
    history: History,
}

impl Client {
    async fn write_all(self, writes: u64) -> Ended {
        let mut worst = Ended::Done;
        for _ in 0..writes {
            let pause = self.random.between(0..=3);
            self.world.sleep(Duration::from_millis(pause)).await;
            let ended = match self.random.below(20) {
                0..4 => self.write_batch().await,
                4 => self.lock_and_write().await,
                5 => self.scan().await,
                _ => self.write_one().await,
            };
            let who = format!("client {}", self.number);
            let code = u64::from(ended != Ended::Done);
            self.world.trace().event("answered", &who, &[code]);
            worst = worst.max(ended);
            if ended == Ended::Unanswered {
                break;
            }
        }
        worst
    }

    async fn write_one(&self) -> Ended {
        let acknowledge = self.acknowledge();
        let (place, write) = self.write(self.random.below(KEYS), acknowledge);
        let answer = self.ask(&place, write).await;
        self.note(&place, acknowledge, answer.as_ref())
    }

    /// Through either door; none where it is not answered.
    async fn ask(&self, place: &Place, write: Write) -> Option<Result<Mutated, OperationError>> {
        let through_actor = self.random.chance(400);
        let kind = writes::from_elsewhere(&write);
        let answer = async {
            match self.bucket.vbucket(place.0).filter(|_| through_actor) {
                Some(vbucket) => send(&vbucket, write).await,
                None => single(self.bucket.write_batch(vec![write]).await),
            }
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await.ok();
        match (kind, &answer) {
            (Some(kind), Some(Ok(_))) => self.history.did(kind),
            (Some(_), Some(Err(OperationError::ConflictLost { .. }))) => {
                self.history.did(writes::LOST);
            }
            _ => {}
        }
        answer
    }

    /// A few writes of different keys at once.
    async fn write_batch(&self) -> Ended {
        let acknowledge = self.acknowledge();
        let first = self.random.below(KEYS);
        let numbers = (0..3).map(|next| (first + next) % KEYS);
        let (places, writes): (Vec<Place>, Vec<Write>) =
            numbers.map(|key| self.write(key, acknowledge)).unzip();
        let answers = tokio::time::timeout(PATIENCE, self.bucket.write_batch(writes)).await;
        let Ok(answers) = answers else {
            return Ended::Unanswered;
        };
        let noted = places.iter().zip(answers);
        let noted = noted.map(|(place, answer)| self.note(place, acknowledge, Some(&answer)));
        noted.max().unwrap_or(Ended::Failed)
    }

    /// A key of this client's.
    fn place(&self, key: u64) -> Place {
        let name = format!("client {} key {key}", self.number);
        (self.bucket.vbucket_of(name.as_bytes()), name)
    }

    fn acknowledge(&self) -> Acknowledge {
        if self.random.chance(500) {
            Acknowledge::Persisted
        } else {
            Acknowledge::InMemory
        }
    }

    fn note(
        &self,
        place: &Place,
        acknowledge: Acknowledge,
        answer: Option<&Result<Mutated, OperationError>>,
    ) -> Ended {
        match answer {
            Some(Ok(mutated)) => {
                let seqno = mutated.token.seqno;
                let outcome = match acknowledge {
                    Acknowledge::InMemory => Outcome::InMemory(seqno),
                    Acknowledge::Persisted => Outcome::Persisted(seqno),
                };
                self.history.answered(place, outcome);
                Ended::Done
            }
            // That is how the document stands, and a good answer.
            Some(Err(
                OperationError::KeyNotFound
                | OperationError::KeyExists
                | OperationError::ConflictLost { .. },
            )) => {
                self.history.refused(place);
                Ended::Done
            }
            Some(Err(OperationError::TemporaryFailure(_) | OperationError::Locked)) => {
                self.history.refused(place);
                Ended::Failed
            }
            Some(Err(_)) => Ended::Failed,
            None => Ended::Unanswered,
        }
    }
}
