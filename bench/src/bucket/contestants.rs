//! Whoever gets and sets documents by key from several threads, behind the same two calls.
//!
//! The calls are async because ours are; a map's and a peer's are ready at once, which costs them nothing. A set copies
//! the value, for whoever sets must have one of its own; a get from the bucket or the map ends with a handle to the
//! value, one from a peer hands over the value where it lies.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dashmap::DashMap;
use futures_executor::block_on;
use messages::vbucket::{Set, Write, WriteOptions};
use storage::{CollectionId, DocumentKey};
use supervisor::{Bucket, BucketConfig};

use crate::stores::{Background, Column, Durability, Store, open};
use crate::workload::{Batch, Key, Mutation, Name, Pool, key_of};

/// Far more than any row needs, so that nothing is refused.
const QUOTA_BYTES: u64 = 1 << 40;
const LOAD_BATCH: u64 = 1024;

/// A document by number, and its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub(crate) document: u64,
    pub(crate) key: Key,
}

impl Subject {
    /// Of this number.
    pub(crate) fn of(document: u64) -> Subject {
        let key = key_of(document);
        Subject { document, key }
    }
}

/// Gets and sets by key, from any thread.
pub(crate) trait Contestant: Sync {
    /// Hands the value to `visit`. Ends the program when the document is missing.
    async fn get(&self, subject: &Subject, visit: &mut dyn FnMut(&[u8]));
    /// Sets a document, whatever was there.
    async fn set(&self, subject: &Subject, value: &[u8], durability: Durability);
    /// Inserts these documents, at their first version, and brings them where they are read from.
    fn load(&self, documents: std::ops::Range<u64>, pool: &Pool, value_length: usize);
    /// Ends it in an orderly way.
    fn close(self);
}

/// Our bucket.
#[derive(Debug)]
pub(crate) struct Ours(pub(crate) Bucket);

impl Ours {
    /// A new bucket.
    pub(crate) fn create(directory: &Path, vbuckets: u16) -> Ours {
        Ours(block_on(Bucket::create(config(directory, Some(vbuckets)))).unwrap())
    }

    /// A new bucket that others know by this name.
    pub(crate) fn create_node(directory: &Path, vbuckets: u16, name: &str) -> Ours {
        let mut config = config(directory, Some(vbuckets));
        config.node_name = Some(name.to_owned());
        Ours(block_on(Bucket::create(config)).unwrap())
    }

    /// The same, with a harness inside.
    #[cfg(feature = "panics")]
    pub(crate) fn create_hooked(
        directory: &Path,
        vbuckets: u16,
        hooks: supervisor::testing::Hooks,
    ) -> Ours {
        let mut config = config(directory, Some(vbuckets));
        config.hooks = hooks;
        Ours(block_on(Bucket::create(config)).unwrap())
    }

    /// One that is there.
    pub(crate) fn open(directory: &Path) -> Ours {
        Ours(block_on(Bucket::open(config(directory, None))).unwrap())
    }
}

fn config(directory: &Path, vbuckets: Option<u16>) -> BucketConfig {
    let mut config = BucketConfig::at(directory);
    config.vbuckets = vbuckets;
    config.memory_quota_bytes = QUOTA_BYTES;
    config
}

impl Contestant for Ours {
    async fn get(&self, subject: &Subject, visit: &mut dyn FnMut(&[u8])) {
        let found = self.0.get(subject.key).await.unwrap();
        visit(&found.value);
    }

    async fn set(&self, subject: &Subject, value: &[u8], durability: Durability) {
        let request = self.0.set(subject.key, Bytes::copy_from_slice(value));
        let request = match durability {
            Durability::Synced => request.persisted(),
            Durability::Buffered => request,
        };
        request.await.unwrap();
    }

    fn load(&self, documents: std::ops::Range<u64>, pool: &Pool, value_length: usize) {
        for first in documents.clone().step_by(LOAD_BATCH as usize) {
            let batch = first..documents.end.min(first + LOAD_BATCH);
            let write = |document| {
                let value = pool.value(document, 1, value_length);
                Write::Set(set_message(&Subject::of(document), value))
            };
            for answer in block_on(self.0.write_batch(batch.map(write).collect())) {
                answer.unwrap();
            }
        }
        block_on(self.0.flush()).unwrap();
    }

    fn close(self) {
        block_on(self.0.shutdown()).unwrap();
    }
}

/// A set as a message.
pub(crate) fn set_message(subject: &Subject, value: &[u8]) -> Set {
    Set {
        key: DocumentKey::new(CollectionId::DEFAULT, &subject.key).unwrap(),
        value: Bytes::copy_from_slice(value),
        options: WriteOptions::default(),
    }
}

/// A map, with its own hash function, of keys of any length.
#[derive(Debug, Default)]
pub(crate) struct Map(DashMap<Box<[u8]>, Bytes>);

impl Contestant for Map {
    async fn get(&self, subject: &Subject, visit: &mut dyn FnMut(&[u8])) {
        let value = self.0.get(subject.key.as_slice());
        let value = value.expect("a document is missing").value().clone();
        visit(&value);
    }

    async fn set(&self, subject: &Subject, value: &[u8], _: Durability) {
        let key = subject.key.as_slice().into();
        drop(self.0.insert(key, Bytes::copy_from_slice(value)));
    }

    fn load(&self, documents: std::ops::Range<u64>, pool: &Pool, value_length: usize) {
        for document in documents {
            let value = pool.value(document, 1, value_length);
            block_on(self.set(&Subject::of(document), value, Durability::Buffered));
        }
    }

    fn close(self) {}
}

/// A peer, with what an engine on top of it would keep in memory: the newest seqno of every vbucket and document.
pub(crate) struct Peer {
    store: Box<dyn Store>,
    vbuckets: u16,
    high_seqnos: Vec<AtomicU64>,
    newest: Vec<AtomicU64>,
}

impl Peer {
    /// In an empty directory, for up to `documents` documents.
    pub(crate) fn open(column: Column, directory: &Path, vbuckets: u16, documents: u64) -> Peer {
        let numbers = |count: u64| (0..count).map(|_| AtomicU64::new(0)).collect();
        Peer {
            store: open(column, directory, vbuckets, Background::Running),
            vbuckets,
            high_seqnos: numbers(u64::from(vbuckets)),
            newest: numbers(documents),
        }
    }

    /// While nobody else writes: writes are so durable from now on.
    pub(crate) fn begin(&self, durability: Durability, pool: &Pool, value_length: usize) {
        let value = pool.value(0, 1, value_length);
        block_on(self.set(&Subject::of(0), value, durability));
    }

    fn mutation(&self, subject: &Subject, value_length: usize) -> Mutation {
        let name = self.name(subject);
        let high_seqno = &self.high_seqnos[usize::from(name.vbucket)];
        let seqno = high_seqno.fetch_add(1, Ordering::Relaxed) + 1;
        let newest = &self.newest[subject.document as usize];
        let replaces = newest.swap(seqno, Ordering::Relaxed);
        Mutation::alone(name, seqno, replaces, value_length)
    }

    fn name(&self, subject: &Subject) -> Name {
        Name {
            vbucket: (subject.document % u64::from(self.vbuckets)) as u16,
            key: subject.key,
        }
    }
}

impl Contestant for Peer {
    async fn get(&self, subject: &Subject, visit: &mut dyn FnMut(&[u8])) {
        self.store.get(&[self.name(subject)], visit);
    }

    async fn set(&self, subject: &Subject, value: &[u8], durability: Durability) {
        let mutation = self.mutation(subject, value.len());
        self.store
            .write(Batch::of_one(&mutation, value), durability);
    }

    fn load(&self, documents: std::ops::Range<u64>, pool: &Pool, value_length: usize) {
        let mut workload =
            crate::workload::Workload::new(self.vbuckets, value_length, documents.end);
        for first in documents.clone().step_by(LOAD_BATCH as usize) {
            let batch = first..documents.end.min(first + LOAD_BATCH);
            let batch = workload.batch(batch);
            for mutation in batch.mutations {
                let high_seqno = &self.high_seqnos[usize::from(mutation.vbucket)];
                high_seqno.store(mutation.seqno, Ordering::Relaxed);
            }
            for (document, mutation) in (first..).zip(batch.mutations) {
                self.newest[document as usize].store(mutation.seqno, Ordering::Relaxed);
                debug_assert_eq!(
                    pool.value(document, mutation.seqno, value_length),
                    batch.value(mutation)
                );
            }
            self.store.write(batch, Durability::Buffered);
        }
        self.store.sync();
        self.store.settle();
    }

    fn close(self) {
        self.store.close();
    }
}
