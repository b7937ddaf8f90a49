//! Maintenance and writers of a store, run by an executor.

use std::sync::Arc;

use messages::ChildName;
use piggin_actors::backoff::Backoff;
use piggin_actors::environment::Environment;
use piggin_actors::guardian::Guardian;
use piggin_actors::maintenance::{self, AmpleMemory, MaintenanceConfig};
use piggin_actors::store_handle::StoreHandle;
use piggin_actors::writer::{self, GroupLimits, WriterConfig, WriterLink, WriterQueue};

/// Starts them; the way to each writer.
pub(crate) fn start(
    environment: &Environment,
    store: &StoreHandle,
    guardian: &Arc<dyn Guardian>,
    backoff: Backoff,
    log_shards: u16,
) -> Vec<WriterLink> {
    let config = MaintenanceConfig {
        name: ChildName::new("maintenance"),
        store: store.clone(),
        environment: environment.clone(),
        backoff,
        after_seal: None,
        memory: AmpleMemory::shared(),
        expiry: None,
    };
    let maintenance = maintenance::start(config, Arc::clone(guardian)).unwrap();
    let start_writer = |log_shard| {
        let config = WriterConfig {
            name: ChildName::new(format!("writer-{log_shard}")),
            log_shard,
            store: store.clone(),
            environment: environment.clone(),
            limits: GroupLimits::default(),
            backoff,
            maintenance: Some(maintenance.clone()),
            memory: AmpleMemory::shared(),
        };
        let queue = WriterQueue::new(4, 1);
        writer::start(config, &queue, Arc::clone(guardian)).unwrap()
    };
    (0..log_shards).map(start_writer).collect()
}
