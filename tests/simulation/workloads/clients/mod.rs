//! Clients that write one document after the other, each to keys of its own, through both doors, and remember what they
//! were answered.
//!
//! Invariant: a client asks for its next write only after the last was answered. One that fails goes on; one that is not
//! answered at all ends there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;

use piggin::messages::OperationError;
use piggin::messages::vbucket::{
    Acknowledge, Add, Append, Delete, Mutated, Replace, Set, Write, WriteBatch, WriteOptions,
};
use piggin::storage::{CollectionId, DocumentKey};
use piggin::{Bucket, VbucketAddr};
use supervisor::testing::{Random, SimulatedRandom, World};

use crate::history::{History, Outcome, Place};

/// Keys of one client.
const KEYS: u64 = 6;
/// Most bytes of a value.
const VALUE_BYTES_MAX: u64 = 2000;
/// Longer values are not appended to.
const GROWN: usize = 8000;
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
            let ended = match self.random.below(5) {
                0 => self.write_batch().await,
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
        let through_actor = self.random.chance(400);
        let answer = async {
            match self.bucket.vbucket(place.0).filter(|_| through_actor) {
                Some(vbucket) => send(&vbucket, write).await,
                None => single(self.bucket.write_batch(vec![write]).await),
            }
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        self.note(&place, acknowledge, answer.ok().as_ref())
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

    fn acknowledge(&self) -> Acknowledge {
        if self.random.chance(500) {
            Acknowledge::Persisted
        } else {
            Acknowledge::InMemory
        }
    }

    fn write(&self, key: u64, acknowledge: Acknowledge) -> (Place, Write) {
        let name = format!("client {} key {key}", self.number);
        let place = (self.bucket.vbucket_of(name.as_bytes()), name);
        let key = DocumentKey::new(CollectionId::DEFAULT, place.1.as_bytes());
        let key = key.expect("a short name");
        let value = self.value();
        let options = WriteOptions {
            acknowledge,
            ..WriteOptions::default()
        };
        let asked = Some(value.clone());
        let (write, asked) = match self.random.below(8) {
            0 => {
                let cas = None;
                let delete = Delete {
                    key,
                    cas,
                    acknowledge,
                };
                (Write::Delete(delete), None)
            }
            1 => {
                let add = Add {
                    key,
                    value,
                    options,
                };
                (Write::Add(add), asked)
            }
            2 => {
                let replace = Replace {
                    key,
                    value,
                    options,
                };
                (Write::Replace(replace), asked)
            }
            // More and more of it, if it is known what there is.
            3 if let Some(known) = self
                .history
                .known(&place)
                .filter(|known| known.len() < GROWN) =>
            {
                let asked = Bytes::from([&known[..], &value].concat());
                let append = Append {
                    key,
                    value,
                    cas: None,
                    acknowledge,
                };
                (Write::Append(append), Some(asked))
            }
            _ => {
                let set = Set {
                    key,
                    value,
                    options,
                };
                (Write::Set(set), asked)
            }
        };
        self.history.asked(&place, asked);
        (place, write)
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
            Some(Err(OperationError::KeyNotFound | OperationError::KeyExists)) => {
                self.history.refused(place);
                Ended::Done
            }
            Some(Err(OperationError::TemporaryFailure(_))) => {
                self.history.refused(place);
                Ended::Failed
            }
            Some(Err(_)) => Ended::Failed,
            None => Ended::Unanswered,
        }
    }

    /// No two values are the same.
    fn value(&self) -> Bytes {
        let length = self.random.below(VALUE_BYTES_MAX);
        let mut value = format!("{:016x} ", self.random.next_u64());
        while (value.len() as u64) < length {
            value.push_str("value ");
        }
        value.into()
    }
}

/// Through the vbucket's actor. A mailbox that answers nothing says as much as an actor that crashed.
async fn send(vbucket: &VbucketAddr, write: Write) -> Result<Mutated, OperationError> {
    let answer = match write {
        Write::Set(set) => vbucket.send(set).await,
        Write::Add(add) => vbucket.send(add).await,
        Write::Replace(replace) => vbucket.send(replace).await,
        Write::Delete(delete) => vbucket.send(delete).await,
        Write::Append(append) => vbucket.send(append).await,
        write @ (Write::Touch(_)
        | Write::Prepend(_)
        | Write::Count(_)
        | Write::SetWithMeta(_)
        | Write::DeleteWithMeta(_)) => {
            let batch = WriteBatch {
                writes: vec![write],
            };
            vbucket.send(batch).await.map(single)
        }
    };
    answer.unwrap_or(Err(OperationError::Closed))
}

fn single(answers: Vec<Result<Mutated, OperationError>>) -> Result<Mutated, OperationError> {
    let mut answers = answers.into_iter();
    answers.next().unwrap_or(Err(OperationError::Closed))
}
