//! The writes of a load: waiting, and under way.
//!
//! Invariant: a key is under way at most once, retries included, and documents start in the order of their lines; so
//! of two lines with one key the later one is written later, although batches overtake each other.

use std::collections::{BTreeSet, VecDeque};
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};

use piggin::Bucket;
use piggin::messages::OperationError;
use piggin::messages::vbucket::{Acknowledge, Mutated, Set, Write, WriteOptions};
use piggin::storage::{Datatype, DocumentKey};

use crate::input::NewDocument;

/// Documents of a batch: enough to share a sync and a lock, few enough to answer soon.
const BATCH_DOCUMENTS_MAX: usize = 512;
/// Bytes of a batch, so that large documents do not pile up.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Batches under way: while one waits for its sync, the next ones gather for the following.
const BATCHES_MAX: usize = 4;

pub(super) struct Writes<'a> {
    bucket: &'a Bucket,
    acknowledge: Acknowledge,
    /// To be written, in the order of their lines.
    waiting: VecDeque<NewDocument>,
    /// Of all documents under way, or about to be tried again.
    keys: BTreeSet<DocumentKey>,
    under_way: FuturesUnordered<BoxFuture<'a, Written>>,
}

/// A batch and its answers, in the same order.
pub(super) struct Written {
    documents: Vec<NewDocument>,
    answers: Vec<Result<Mutated, OperationError>>,
}

impl Written {
    pub(super) fn into_answers(
        self,
    ) -> impl Iterator<Item = (NewDocument, Result<Mutated, OperationError>)> {
        self.documents.into_iter().zip(self.answers)
    }
}

impl<'a> Writes<'a> {
    pub(super) fn new(bucket: &'a Bucket, is_durable: bool) -> Writes<'a> {
        Writes {
            bucket,
            acknowledge: if is_durable {
                Acknowledge::Persisted
            } else {
                Acknowledge::InMemory
            },
            waiting: VecDeque::new(),
            keys: BTreeSet::new(),
            under_way: FuturesUnordered::new(),
        }
    }

    pub(super) fn add(&mut self, document: NewDocument) {
        self.waiting.push_back(document);
    }

    /// Whether more should be read.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }

    /// Starts what may be started.
    pub(super) fn start(&mut self) {
        while self.under_way.len() < BATCHES_MAX {
            let batch = self.next_batch();
            if batch.is_empty() {
                return;
            }
            self.write(batch);
        }
    }

    /// Takes documents from the front, up to one whose key is under way.
    fn next_batch(&mut self) -> Vec<NewDocument> {
        let mut batch = Vec::new();
        let mut bytes: usize = 0;
        while let Some(document) = self.waiting.pop_front() {
            if !self.keys.insert(document.key.clone()) {
                self.waiting.push_front(document);
                break;
            }
            bytes = bytes.saturating_add(document.value.len());
            batch.push(document);
            if batch.len() >= BATCH_DOCUMENTS_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
        }
        batch
    }

    /// Writes documents again, whose keys are still under way.
    pub(super) fn again(&mut self, documents: Vec<NewDocument>) {
        self.write(documents);
    }

    fn write(&self, documents: Vec<NewDocument>) {
        let options = WriteOptions {
            datatype: Datatype::JSON,
            acknowledge: self.acknowledge,
            ..WriteOptions::default()
        };
        let writes = documents.iter().map(|document| {
            Write::Set(Set {
                key: document.key.clone(),
                value: document.value.clone(),
                options,
            })
        });
        let writes: Vec<Write> = writes.collect();
        let bucket = self.bucket;
        let written = async move {
            let answers = bucket.write_batch(writes).await;
            Written { documents, answers }
        };
        self.under_way.push(written.boxed());
    }

    pub(super) fn poll_written(&mut self, context: &mut Context<'_>) -> Poll<Option<Written>> {
        self.under_way.poll_next_unpin(context)
    }

    /// A document has its final answer: another one of its key may start.
    pub(super) fn settled(&mut self, document: &NewDocument) {
        self.keys.remove(&document.key);
    }

    /// Drops what was not started.
    pub(super) fn forget_unstarted(&mut self) {
        self.waiting.clear();
    }
}
