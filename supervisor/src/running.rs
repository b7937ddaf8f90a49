//! A bucket that runs, as all its handles share it.
//!
//! Invariant: holds no thread; the engine that runs the actors is told to stop when the last handle goes.

use std::sync::Arc;

use actors::compactor::Compactor;
use actors::maintenance::MemoryUse;
use actors::store_handle::StoreHandle;
use actors::vbucket::{TrafficFigures, VbucketSlot};
use actors::warmup::Warmup;
use messages::vbucket::VbucketDescription;
use storage::MemoryPool;

use crate::bucket::{CompactorAddr, VbucketAddr};
use crate::collections::Collections;
use crate::durability::DurabilityFigures;
use crate::failure_bus::FailureBus;
use crate::guardian::Supervisor;
use crate::replication::Replicating;
use crate::statistics::{BucketStatistics, MemoryStatistics};
use crate::stop::StopRequest;
use crate::streaming::Streaming;
use crate::vbucket_table::Table;

/// What a running bucket consists of.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) table: Arc<Table>,
    pub(crate) collections: Collections,
    /// By vbucket number.
    pub(crate) addresses: Vec<VbucketAddr>,
    pub(crate) compactor: Compactor,
    pub(crate) compactor_address: CompactorAddr,
    pub(crate) memory: Arc<MemoryPool>,
    /// What the bucket is called in replication chains.
    pub(crate) node_name: Arc<str>,
    pub(crate) store: StoreHandle,
    pub(crate) warmup: Warmup,
    pub(crate) streaming: Streaming,
    pub(crate) replicating: Replicating,
    pub(crate) tree: Arc<Supervisor>,
    pub(crate) failures: Arc<FailureBus>,
    pub(crate) stop: Arc<StopRequest>,
}

/// What every handle holds; the last one that goes stops the engine.
#[derive(Debug)]
pub(crate) struct Held(pub(crate) Arc<Running>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.stop.abandon();
    }
}

impl Running {
    /// Its process was ended: nothing of it does anything more, and whoever asks learns why.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn perish(&self, why: &str) {
        self.tree.forsake(why);
        self.streaming.stop();
        self.replicating.stop();
        self.table.close();
        self.compactor.close();
        self.stop.over(&crate::ShutdownReport {
            failed: Some(why.to_owned()),
            ..crate::ShutdownReport::default()
        });
    }

    /// Looks at the store for documents that are not in memory.
    pub(crate) fn statistics(&self) -> BucketStatistics {
        if let Ok(lease) = self.store.lease() {
            self.table.count_stored(lease.store());
        }
        self.statistics_of_memory()
    }

    /// Without waiting for the disk.
    pub(crate) fn statistics_of_memory(&self) -> BucketStatistics {
        let vbuckets: Vec<_> = self
            .table
            .slots
            .iter()
            .map(|slot| described(slot))
            .collect();
        let memory = self.memory_statistics();
        let documents = self.table.cores().map(|(_, core)| core.documents_known());
        let documents: u64 = documents.sum();
        let mut durability = DurabilityFigures::default();
        for (_, core) in self.table.cores() {
            durability.add(&core.durability_figures());
        }
        let streaming = self.streaming.figures();
        let replicating = self.replicating.figures();
        let mut statistics = BucketStatistics {
            documents,
            memory,
            disk_bytes: 0,
            live_bytes: 0,
            compaction: self.compactor.figures(),
            unpersisted_items: vbuckets.iter().map(unpersisted).sum(),
            expired_by_sweep: self
                .table
                .cores()
                .map(|(_, core)| core.traffic().expired)
                .sum(),
            backfills: streaming.backfills as u64,
            backfill_buffer_bytes: streaming.buffered_bytes,
            stream_cursors_dropped: self
                .table
                .cores()
                .map(|(_, core)| core.cursors_dropped())
                .sum(),
            replicas: replicating.vbuckets,
            replication_unacknowledged_bytes: replicating.unacknowledged_bytes,
            durability,
            failures: self
                .failures
                .counters()
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect(),
            children: self.tree.children(),
            vbuckets,
        };
        if let Ok(lease) = self.store.lease() {
            let store = lease.store().statistics();
            statistics.disk_bytes = store.log_bytes.saturating_add(store.container_bytes);
            statistics.live_bytes = store.live_extent_bytes.saturating_add(store.unsealed_bytes);
        }
        statistics
    }

    pub(crate) fn memory_statistics(&self) -> MemoryStatistics {
        let mut statistics = MemoryStatistics {
            bytes: 0,
            quota_bytes: self.memory.quota_bytes(),
            eviction: self.table.eviction(),
            resident_documents: 0,
            evicted: 0,
            fetched: 0,
            fetched_at_once: 0,
            restored: 0,
            pager_rounds: self.table.pager_rounds(),
        };
        let mut traffic = TrafficFigures::default();
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        for (_, core) in self.table.cores() {
            // Of the accounts, not of the pool, which learns of them in steps.
            add(&mut statistics.bytes, core.memory_bytes());
            add(
                &mut statistics.resident_documents,
                core.documents_in_memory(),
            );
            traffic.add(&core.traffic());
        }
        MemoryStatistics {
            evicted: traffic.evicted,
            fetched: traffic.fetched,
            fetched_at_once: traffic.fetched_at_once,
            restored: traffic.restored,
            ..statistics
        }
    }
}

/// A vbucket without a core is described as what it is: out of service, or not read yet.
fn described(slot: &VbucketSlot) -> VbucketDescription {
    match slot.core() {
        Ok(core) => core.describe(),
        Err(_) => VbucketDescription::without_core(slot.id(), slot.down().cloned()),
    }
}

fn unpersisted(vbucket: &VbucketDescription) -> u64 {
    vbucket
        .high_seqno
        .0
        .saturating_sub(vbucket.persisted_seqno.0)
}
