//! Builds a bucket from its parts, last stage first; the only file that names all of them.
//!
//! Invariant: nothing is served before everything it needs stands: the store, then who writes to it, then the vbuckets,
//! then their flushers and doors.

use std::sync::Arc;

use actix::{Addr, ArbiterHandle};
use actors::backoff::Backoff;
use actors::environment::{Clock, Environment, Random};
use actors::executor::{Executor, StopWorkers};
use actors::flusher::actor::wake_with;
use actors::flusher::{FlushLimits, FlushedVbucket, FlusherConfig, FlusherCore, FlusherEdge};
use actors::guardian::Guardian;
use actors::hooks::Hooks;
use actors::maintenance::{self, MaintenanceConfig};
use actors::shell::{self, Shell, ShellConfig};
use actors::store_handle::StoreHandle;
use actors::vbucket::{DirtyVbuckets, VbucketActor, VbucketSlot};
use actors::warmup::{Absent, Warmup, WarmupConfig, WarmupEnd};
use actors::writer::{self, GroupLimits, WriterConfig, WriterQueue};
use messages::ChildName;
use storage::disk::Disk;
use storage::{CreateOptions, LogStore, MemoryPool, VbucketId};

use crate::bucket::VbucketAddr;
use crate::bucket_config::BucketConfig;
use crate::bucket_error::BucketError;
use crate::failure_bus::FailureBus;
use crate::guardian::{Supervisor, SupervisorParts};
use crate::opening::{self, Opened};
use crate::running::Running;
use crate::shutdown::Engine;
use crate::stop::StopRequest;
use crate::tree::{Child, Excess, Group, Kind, Tree};
use crate::vbucket_table::Table;

/// What a bucket stands on: real in production, simulated in a world.
pub(crate) struct Ground {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) executor: Arc<dyn StopWorkers>,
    pub(crate) hooks: Hooks,
}

/// How many threads run actors.
pub(crate) fn actor_threads(config: &BucketConfig) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    config.actor_threads.unwrap_or_else(cores).clamp(1, 8)
}

/// Starts everything. Called in the System the actors shall live in, with an arbiter for each actor thread.
pub(crate) async fn start(
    config: &BucketConfig,
    opened: Opened,
    ground: Ground,
    arbiters: Vec<ArbiterHandle>,
) -> Result<Engine, BucketError> {
    let failures = Arc::new(FailureBus::new(
        Arc::clone(&ground.clock),
        config.failure_history_max,
    ));
    let executor: Arc<dyn Executor> = Arc::clone(&ground.executor) as Arc<dyn Executor>;
    let environment = Environment {
        clock: ground.clock,
        random: ground.random,
        failures: Arc::clone(&failures) as _,
        executor,
        hooks: ground.hooks,
    };
    let shape = opened.store.shape();
    let memory = Arc::new(MemoryPool::new(config.memory_quota_bytes));
    let threads = arbiters.len().max(1);
    let of = environment.clone();
    let table = Arc::new(Table::new(shape.vbuckets, threads, Arc::clone(&memory), of));
    let store = handle(opened.store, &opened.disk, &environment);
    let tree = tree(config, shape, threads);
    let out_of_service = Arc::clone(&table);
    let supervisor = Supervisor::new(
        tree,
        SupervisorParts {
            clock: Arc::clone(&environment.clock),
            random: Arc::clone(&environment.random),
            failures: Arc::clone(&failures) as _,
            on_out_of_service: Box::new(move |what| out_of_service.take_down(what)),
        },
    )?;
    let guardian: Arc<dyn Guardian> = Arc::clone(&supervisor) as _;

    let maintenance = maintenance::start(
        MaintenanceConfig {
            name: ChildName::new("maintenance"),
            store: store.clone(),
            environment: environment.clone(),
            backoff: Backoff::DISK,
        },
        Arc::clone(&guardian),
    )
    .map_err(not_started)?;
    let mut writers = Vec::new();
    for log_shard in 0..shape.log_shards {
        let dealt = shape.vbuckets.div_ceil(shape.log_shards);
        let queue = WriterQueue::new(usize::from(dealt), threads);
        let config = WriterConfig {
            name: ChildName::new(format!("writer-{log_shard}")),
            log_shard,
            store: store.clone(),
            environment: environment.clone(),
            limits: GroupLimits::default(),
            backoff: Backoff::DISK,
            maintenance: Some(maintenance.clone()),
        };
        writers.push(writer::start(config, &queue, Arc::clone(&guardian)).map_err(not_started)?);
    }

    let warmup = Warmup::new(WarmupConfig {
        name: ChildName::new("warmup"),
        store: store.clone(),
        disk: Arc::clone(&opened.disk),
        environment: environment.clone(),
        backoff: Backoff::DISK,
        table: Arc::clone(&table) as _,
        absent: Absent::Create,
        step_bytes: WarmupConfig::STEP_BYTES,
    });
    let ended = warmup.wait();
    warmup
        .start(config.warmup_threads, &guardian)
        .map_err(not_started)?;
    let WarmupEnd { .. } = ended
        .await
        .unwrap_or(Err(messages::OperationError::Closed))?;

    let mut flushers = Vec::new();
    for (number, arbiter) in arbiters.iter().enumerate() {
        let config = FlusherConfig {
            name: ChildName::new(format!("flusher-{number}")),
            environment: environment.clone(),
            limits: FlushLimits::default(),
            vbuckets: flushed(&table, shape.log_shards, number),
            writers: writers.clone(),
            edge: FlusherEdge::new(),
            dirty: Arc::clone(table.edge(number)) as _,
            store: store.clone(),
        };
        flushers.push(start_flusher(
            config,
            table.edge(number),
            arbiter,
            &guardian,
        ));
    }
    let addresses = addresses(config, &table, &arbiters, &guardian);
    let running = Running {
        table,
        addresses,
        memory,
        store,
        warmup,
        tree: supervisor,
        failures,
        stop: Arc::new(StopRequest::default()),
    };
    Ok(Engine {
        running: Arc::new(running),
        flushers,
        executor: ground.executor,
        environment,
        disk: opened.disk,
        deadline: config.stop_deadline,
    })
}

/// Who there is, in the order of the data: the disk first, then who writes to it, then who is written to.
fn tree(config: &BucketConfig, shape: CreateOptions, threads: usize) -> Tree {
    let child = |name: &str, group: &str| {
        Child::new(name)
            .under(group)
            .stall_limit(Some(config.stall_limit))
            .stop_deadline(config.stop_deadline)
    };
    // Workers and flushers only touch the disk and hold nothing of each other.
    let mut tree = Tree::new(Group::new("bucket"))
        .group(Group::new("disk"))
        .child(child("maintenance", "disk"));
    for log_shard in 0..shape.log_shards {
        tree = tree.child(child(&format!("writer-{log_shard}"), "disk"));
    }
    for number in 0..config.warmup_threads.max(1) {
        let name = format!("warmup-{number}");
        tree = tree.child(child(&name, "disk").kind(Kind::Transient));
    }
    tree = tree.group(Group::new("flushers"));
    for number in 0..threads {
        tree = tree.child(child(&format!("flusher-{number}"), "flushers"));
    }
    // A vbucket that fails too often goes out of service alone.
    for id in (0..shape.vbuckets).filter_map(VbucketId::new) {
        let family = format!("vb-{id}");
        tree = tree
            .group(Group::new(&family).excess(Excess::OutOfService))
            .child(child(&format!("vbucket-{id}"), &family).vbucket(id));
    }
    tree
}

fn not_started(error: actors::executor::StartError) -> BucketError {
    BucketError::Engine {
        what: error.name.to_string(),
        cause: error.what,
    }
}

/// The store behind a handle that opens it again when only recovery helps.
fn handle(store: LogStore, disk: &Arc<dyn Disk>, environment: &Environment) -> StoreHandle {
    let (disk, random) = (Arc::clone(disk), Arc::clone(&environment.random));
    let open = move || opening::reopen(&disk, &*random);
    StoreHandle::new(store, Box::new(open))
}

/// The vbuckets of an actor thread, as its flusher sees them.
fn flushed(table: &Table, log_shards: u16, thread: usize) -> Vec<FlushedVbucket> {
    let of_thread = |(id, _): &(VbucketId, _)| table.thread_of(*id) == thread;
    table
        .cores()
        .filter(of_thread)
        .map(|(id, core)| FlushedVbucket {
            id,
            vbucket: Arc::clone(core) as _,
            log_shard: id.get().checked_rem(log_shards).unwrap_or(0),
        })
        .collect()
}

fn start_flusher(
    config: FlusherConfig,
    dirty: &DirtyVbuckets,
    arbiter: &ArbiterHandle,
    guardian: &Arc<dyn Guardian>,
) -> Addr<Shell<FlusherCore>> {
    let shell = ShellConfig::new(config.name.clone(), Arc::clone(guardian));
    let make = move |generation| FlusherCore::new(config.clone(), generation);
    let address = shell::start(arbiter, shell, make);
    wake_with(dirty, address.clone().recipient());
    address
}

/// The other door of every vbucket.
fn addresses(
    config: &BucketConfig,
    table: &Table,
    arbiters: &[ArbiterHandle],
    guardian: &Arc<dyn Guardian>,
) -> Vec<VbucketAddr> {
    let start = |slot: &Arc<VbucketSlot>| {
        let arbiter = arbiters.get(table.thread_of(slot.id()))?;
        let name = ChildName::new(format!("vbucket-{}", slot.id()));
        let mut shell = ShellConfig::new(name, Arc::clone(guardian));
        shell.mailbox = config.mailbox_messages_max;
        let slot = Arc::clone(slot);
        let make = move |_| VbucketActor::at(Arc::clone(&slot));
        Some(shell::start(arbiter, shell, make))
    };
    table.slots.iter().filter_map(start).collect()
}
