//! The streaming side of a bucket: who reads for streams, a producer on each actor thread, and the way to them.
//!
//! Invariant: a vbucket's streams are made by the producer of its own thread, whose edge it marks; when streaming is
//! stopped nothing of it holds the store any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::Addr;

use actors::backfill::{BackfillConfig, BackfillFigures, BackfillLimits, Backfills};
use actors::environment::Environment;
use actors::shell::Shell;
use actors::store_handle::StoreHandle;
use actors::stream::{Farewells, ProducerConfig, ProducerCore, StreamNumbers};
use actors::vbucket::DirtyVbuckets;
use messages::ChildName;
use storage::VbucketId;

use crate::vbucket_table::Table;

/// The address of a producer; stays valid when the actor is restarted.
pub type ProducerAddr = Addr<Shell<ProducerCore>>;

/// What a running bucket streams with.
#[derive(Debug)]
pub(crate) struct Streaming {
    backfills: Backfills,
    /// By actor thread.
    producers: Vec<Producing>,
    /// Consumers without a name of their own, so far.
    nameless: AtomicU64,
}

/// A producer, and how it is told that something changed.
#[derive(Clone, Debug)]
pub(crate) struct Producing {
    pub(crate) address: ProducerAddr,
    pub(crate) edge: Arc<DirtyVbuckets>,
}

impl Streaming {
    pub(crate) fn new(backfills: Backfills, producers: Vec<Producing>) -> Streaming {
        Streaming {
            backfills,
            producers,
            nameless: AtomicU64::new(0),
        }
    }

    /// A name for a consumer of that kind that has none.
    pub(crate) fn name(&self, kind: &str) -> String {
        let number = self.nameless.fetch_add(1, Ordering::Relaxed);
        format!("{kind}-{number}")
    }

    /// The producer of a vbucket's thread.
    pub(crate) fn producer(&self, table: &Table, vbucket: VbucketId) -> Option<&Producing> {
        self.producers.get(table.thread_of(vbucket))
    }

    /// Who reads from disk, also ranges of keys and what left memory.
    pub(crate) fn readers(&self) -> &Backfills {
        &self.backfills
    }

    pub(crate) fn figures(&self) -> BackfillFigures {
        self.backfills.figures()
    }

    /// Nothing is read any more.
    pub(crate) fn stop(&self) {
        self.backfills.stop();
    }
}

/// How the readers of a bucket read.
pub(crate) fn backfill_config(store: &StoreHandle, environment: &Environment) -> BackfillConfig {
    BackfillConfig {
        name: ChildName::new("reader"),
        store: store.clone(),
        environment: environment.clone(),
        limits: BackfillLimits::default(),
    }
}

/// The name of a thread's producer in the tree.
pub(crate) fn producer_child(number: usize) -> ChildName {
    ChildName::new(format!("producer-{number}"))
}

/// What the producer of each thread works with.
pub(crate) fn links(table: &Table, backfills: &Backfills) -> Vec<ProducerConfig> {
    let numbers = StreamNumbers::default();
    // A bucket has at most 1,024 vbuckets.
    let vbuckets = u16::try_from(table.slots.len()).unwrap_or(u16::MAX);
    let of_thread = |thread: usize| {
        let slots = table.slots.iter();
        slots
            .filter(|slot| table.thread_of(slot.id()) == thread)
            .map(Arc::clone)
            .collect()
    };
    let link = |thread: usize| ProducerConfig {
        vbuckets: of_thread(thread),
        edge: Arc::new(DirtyVbuckets::new(vbuckets)),
        backfills: backfills.clone(),
        numbers: numbers.clone(),
        farewells: Farewells::default(),
    };
    (0..table.threads()).map(link).collect()
}
