//! Builds a bucket from its parts, last stage first; the only file that names all of them.
//!
//! Invariant: nothing is served before everything it needs stands: the store, then who writes to it, then the vbuckets,
//! then their flushers and doors.

use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, ArbiterHandle};
use tokio::time::timeout;

use actors::backfill::Backfills;
use actors::backoff::Backoff;
use actors::compactor::{Compactor, CompactorConfig, CompactorCore, CompactorLimits};
use actors::durability::DriverCore;
use actors::environment::{Clock, Environment, Random};
use actors::executor::{Executor, StopWorkers, WakeWorker};
use actors::flusher::actor::wake_with;
use actors::flusher::{FlushLimits, FlushedVbucket, FlusherConfig, FlusherCore, FlusherEdge};
use actors::guardian::Guardian;
use actors::hooks::Hooks;
use actors::maintenance::{self, ExpirySweep, MaintenanceConfig};
use actors::rollback::{RollbackConfig, Rollbacks};
use actors::shell::{self, Shell, ShellConfig};
use actors::store_handle::StoreHandle;
use actors::stream::consumer::{ConsumerCore, Follows};
use actors::stream::{ProducerConfig, ProducerCore};
use actors::vbucket::{VbucketActor, VbucketSlot};
use actors::warmup::{Absent, Warmup, WarmupConfig, WarmupEnd};
use actors::writer::{self, GroupLimits, WriterConfig, WriterLink, WriterQueue};
use messages::{ChildName, OperationError};
use storage::disk::Disk;
use storage::{CreateOptions, LogStore, VbucketId};

use crate::bucket::{CompactorAddr, VbucketAddr};
use crate::bucket_config::BucketConfig;
use crate::bucket_error::BucketError;
use crate::collections::Collections;
use crate::durability::{self, Durable};
use crate::failure_bus::FailureBus;
use crate::guardian::{Supervisor, SupervisorParts};
use crate::opening::{self, Opened};
use crate::replication::{self, Replicating};
use crate::running::Running;
use crate::shutdown::Engine;
use crate::stop::StopRequest;
use crate::streaming::{self, Producing, Streaming};
use crate::tree::{self, Child, Excess, Group, Kind, Tree};
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

fn environment(ground: Ground, failures: &Arc<FailureBus>) -> Environment {
    let executor: Arc<dyn Executor> = Arc::clone(&ground.executor) as Arc<dyn Executor>;
    Environment {
        clock: ground.clock,
        random: ground.random,
        failures: Arc::clone(failures) as _,
        executor,
        hooks: ground.hooks,
    }
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
    let executor = Arc::clone(&ground.executor);
    let environment = environment(ground, &failures);
    let shape = opened.store.shape();
    let memory = config.memory_pool();
    let threads = arbiters.len().max(1);
    let table = Table::new(
        shape.vbuckets,
        threads,
        Arc::clone(&memory),
        environment.clone(),
        Durable::new(config, shape.vbuckets, threads),
    );
    let table = Arc::new(table.of_store(&opened.store));
    let node_name = node_name(config, &opened.store);
    let store = handle(config, opened.store, &opened.disk, &environment);
    let tree = tree(config, shape, threads);
    let compactor = compactor(config, &store, &environment, &table);
    let (out_of_service, uncompacted) = (Arc::clone(&table), compactor.on_out_of_service());
    let (follows, rollbacks) = (Arc::<Follows>::default(), rollbacks(&store, &environment));
    let (unfed, stuck) = (Arc::clone(&follows), rollbacks.clone());
    let backfills = Backfills::new(streaming::backfill_config(&store, &environment));
    let unread = backfills.clone();
    let supervisor = Supervisor::new(
        tree,
        SupervisorParts {
            clock: Arc::clone(&environment.clock),
            random: Arc::clone(&environment.random),
            failures: Arc::clone(&failures) as _,
            hooks: environment.hooks.clone(),
            on_out_of_service: Box::new(move |what| {
                out_of_service.take_down(what);
                durability::out_of_service(&out_of_service, what);
                replication::out_of_service(&out_of_service, &unfed, &stuck, what);
                if what.is_whole_tree {
                    uncompacted(&what.scope, &what.why);
                    unread.answer_waiting();
                }
            }),
        },
    )?;
    let parts = Parts {
        config,
        shape,
        guardian: Arc::clone(&supervisor) as _,
        environment,
        store,
        table,
        follows,
        rollbacks,
        backfills,
    };
    let (writers, maintenance) = parts.start_writers(&compactor)?;
    let compactor_address = parts.start_compactor(&compactor, &arbiters)?;
    let warmup = parts.start_warmup(&opened.disk)?;
    let warm = warmup.wait();
    let closed = |_| OperationError::Closed;
    warmup.wait_for_states().await.map_err(closed)?;
    let collections = Collections::open(&parts.table)?;
    let flushers = parts.start_flushers(&writers, &arbiters);
    let streaming = parts.start_streaming(&arbiters, maintenance)?;
    let addresses = parts.start_vbuckets(&arbiters, streaming.readers());
    let replicating = parts.start_replication(&arbiters)?;
    parts.start_durability(&replicating, &arbiters);
    if config.waits_for_warmup {
        // What could not be loaded is out of service and says so; the rest serves.
        let WarmupEnd { .. } = warm.await.map_err(closed)??;
    }
    // Whoever looks at the children of a bucket that was opened finds them at work. One that hangs in its beginning is
    // the supervisor's business.
    drop(timeout(config.stall_limit, supervisor.all_begun()).await);
    let running = Running {
        addresses,
        compactor,
        compactor_address,
        table: parts.table,
        collections,
        memory,
        node_name,
        store: parts.store,
        warmup,
        streaming,
        replicating,
        tree: supervisor,
        failures,
        stop: Arc::new(StopRequest::default()),
    };
    Ok(Engine {
        running: Arc::new(running),
        flushers,
        executor,
        environment: parts.environment,
        disk: opened.disk,
        deadline: config.stop_deadline,
        metrics_every: config.metrics_every,
    })
}

/// What the stages are built from.
struct Parts<'c> {
    config: &'c BucketConfig,
    shape: CreateOptions,
    guardian: Arc<dyn Guardian>,
    environment: Environment,
    store: StoreHandle,
    table: Arc<Table>,
    follows: Arc<Follows>,
    rollbacks: Rollbacks,
    backfills: Backfills,
}

impl Parts<'_> {
    fn shell(&self, name: &ChildName) -> ShellConfig {
        ShellConfig::new(name.clone(), Arc::clone(&self.guardian)).hooks(&self.environment.hooks)
    }

    /// Who is asked for compactions, and who does them.
    fn start_compactor(
        &self,
        compactor: &Compactor,
        arbiters: &[ArbiterHandle],
    ) -> Result<CompactorAddr, BucketError> {
        let arbiter = arbiters.first().ok_or_else(|| BucketError::Engine {
            what: "the compactor".to_owned(),
            cause: "there is no thread for actors".to_owned(),
        })?;
        let shell = self.shell(&ChildName::new("compactor"));
        let shell = shell.mailbox(self.config.mailbox_messages_max);
        let asked = compactor.clone();
        let make = move |_| CompactorCore::new(asked.clone());
        let address = shell::start(arbiter, shell, make);
        compactor
            .start(self.config.compaction.threads, &self.guardian)
            .map_err(not_started)?;
        Ok(address)
    }

    /// The store's background work, and a writer for each log.
    fn start_writers(
        &self,
        compactor: &Compactor,
    ) -> Result<(Vec<WriterLink>, WakeWorker), BucketError> {
        let look = compactor.clone();
        let config = MaintenanceConfig {
            name: ChildName::new("maintenance"),
            store: self.store.clone(),
            environment: self.environment.clone(),
            backoff: Backoff::DISK,
            after_seal: Some(WakeWorker::new(move || look.look_soon())),
            memory: Arc::clone(&self.table) as _,
            expiry: ExpirySweep::every(
                self.config.expiry_sweep_every,
                Arc::clone(&self.table) as _,
            ),
        };
        let maintenance =
            maintenance::start(config, Arc::clone(&self.guardian)).map_err(not_started)?;
        let vbuckets = usize::from(self.shape.vbuckets.div_ceil(self.shape.log_shards));
        let start = |log_shard: u16| {
            let config = WriterConfig {
                name: ChildName::new(format!("writer-{log_shard}")),
                log_shard,
                store: self.store.clone(),
                environment: self.environment.clone(),
                limits: GroupLimits::default(),
                backoff: Backoff::DISK,
                maintenance: Some(maintenance.clone()),
                memory: Arc::clone(&self.table) as _,
            };
            let queue = WriterQueue::new(vbuckets, self.table.threads());
            writer::start(config, &queue, Arc::clone(&self.guardian)).map_err(not_started)
        };
        let writers: Result<_, _> = (0..self.shape.log_shards).map(start).collect();
        Ok((writers?, maintenance))
    }

    /// Makes the vbuckets of what the store holds, and loads them.
    fn start_warmup(&self, disk: &Arc<dyn Disk>) -> Result<Warmup, BucketError> {
        let warmup = Warmup::new(WarmupConfig {
            name: ChildName::new("warmup"),
            store: self.store.clone(),
            disk: Arc::clone(disk),
            environment: self.environment.clone(),
            backoff: Backoff::DISK,
            table: Arc::clone(&self.table) as _,
            absent: Absent::Create,
            step_bytes: WarmupConfig::STEP_BYTES,
        });
        warmup
            .start(self.config.warmup_threads, &self.guardian)
            .map_err(not_started)?;
        Ok(warmup)
    }

    fn start_flushers(
        &self,
        writers: &[WriterLink],
        arbiters: &[ArbiterHandle],
    ) -> Vec<Addr<Shell<FlusherCore>>> {
        let start = |(number, arbiter): (usize, &ArbiterHandle)| {
            let dirty = self.table.edge(number);
            let config = FlusherConfig {
                name: ChildName::new(format!("flusher-{number}")),
                environment: self.environment.clone(),
                limits: FlushLimits::default(),
                vbuckets: self.flushed_by(number),
                writers: writers.to_vec(),
                edge: FlusherEdge::new(),
                dirty: Arc::clone(dirty) as _,
                store: self.store.clone(),
            };
            // A store that was opened anew may hold less than it had said.
            let edge = Arc::clone(&config.edge);
            self.store.watch(WakeWorker::new(move || edge.nudge()));
            let shell = self.shell(&config.name);
            let make = move |generation| FlusherCore::new(config.clone(), generation);
            let address = shell::start(arbiter, shell, make);
            wake_with(dirty, address.clone().recipient());
            address
        };
        arbiters.iter().enumerate().map(start).collect()
    }

    /// The vbuckets of an actor thread, as its flusher sees them.
    fn flushed_by(&self, thread: usize) -> Vec<FlushedVbucket> {
        let log_shards = self.shape.log_shards;
        let cores = self.table.cores();
        cores
            .filter(|(id, _)| self.table.thread_of(*id) == thread)
            .map(|(id, core)| FlushedVbucket {
                id,
                vbucket: Arc::clone(core) as _,
                log_shard: id.get().checked_rem(log_shards).unwrap_or(0),
            })
            .collect()
    }

    /// Who reads for streams, and the producers.
    fn start_streaming(
        &self,
        arbiters: &[ArbiterHandle],
        maintenance: WakeWorker,
    ) -> Result<Streaming, BucketError> {
        let backfills = self.backfills.clone();
        backfills.relieve_with(maintenance.clone());
        self.table.when_memory_is_wanted(maintenance);
        backfills
            .start(self.config.reader_threads, &self.guardian)
            .map_err(not_started)?;
        let start = |((number, config), arbiter): ((usize, ProducerConfig), &ArbiterHandle)| {
            let shell = self.shell(&streaming::producer_child(number));
            let edge = Arc::clone(&config.edge);
            let make = move |_| ProducerCore::new(config.clone());
            Producing {
                address: shell::start(arbiter, shell, make),
                edge,
            }
        };
        let configs = streaming::links(&self.table, &backfills).into_iter();
        let producers = configs.enumerate().zip(arbiters).map(start).collect();
        Ok(Streaming::new(backfills, producers))
    }

    /// Who takes replicas back, and the consumers that feed them.
    fn start_replication(&self, arbiters: &[ArbiterHandle]) -> Result<Replicating, BucketError> {
        let rollbacks = self.rollbacks.clone();
        rollbacks.start(&self.guardian).map_err(not_started)?;
        let replicating = Replicating::new(&self.table, Arc::clone(&self.follows), rollbacks);
        let configs = replicating
            .links(&self.table, &self.environment)
            .into_iter();
        for ((number, config), arbiter) in configs.enumerate().zip(arbiters) {
            let shell = self.shell(&replication::consumer_child(number));
            let make = move |_| ConsumerCore::new(config.clone());
            // Told by its edge, never by its address.
            drop(shell::start(arbiter, shell, make));
        }
        Ok(replicating)
    }

    /// Who has decided durable writes done.
    fn start_durability(&self, replicating: &Replicating, arbiters: &[ArbiterHandle]) {
        let durable = &self.table.durable;
        let configs = durable.links(&self.table, replicating, &self.environment);
        for ((number, config), arbiter) in configs.into_iter().enumerate().zip(arbiters) {
            let shell = self.shell(&durability::driver_child(number));
            let make = move |_| DriverCore::new(config.clone());
            // Told by its edge, never by its address.
            drop(shell::start(arbiter, shell, make));
        }
    }

    /// The other door of every vbucket.
    fn start_vbuckets(&self, arbiters: &[ArbiterHandle], readers: &Backfills) -> Vec<VbucketAddr> {
        let start = |slot: &Arc<VbucketSlot>| {
            let arbiter = arbiters.get(self.table.thread_of(slot.id()))?;
            let name = vbucket_child(slot.id());
            let shell = self.shell(&name).mailbox(self.config.mailbox_messages_max);
            let slot = Arc::clone(slot);
            let readers = readers.clone();
            let make = move |_| VbucketActor::at(Arc::clone(&slot)).reading(readers.clone());
            Some(shell::start(arbiter, shell, make))
        };
        self.table.slots.iter().filter_map(start).collect()
    }
}

/// What the bucket is called in replication chains.
fn node_name(config: &BucketConfig, store: &LogStore) -> Arc<str> {
    let drawn = || format!("node-{:016x}", store.id());
    config.node_name.clone().unwrap_or_else(drawn).into()
}

/// The name of a vbucket's actor in the tree.
pub(crate) fn vbucket_child(vbucket: VbucketId) -> ChildName {
    ChildName::new(format!("vbucket-{vbucket}"))
}

/// A vbucket's clients wait for its actor, whose making costs nothing.
const AT_ONCE: tree::Backoff = tree::Backoff {
    first: Duration::from_millis(1),
    most: Duration::from_secs(5),
};

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
        .child(child("maintenance", "disk"))
        // Before its workers, so that it ends after them and can still say what became of what they had in hand.
        .child(child("compactor", "disk"));
    for number in 0..config.compaction.threads.max(1) {
        tree = tree.child(child(&format!("compaction-{number}"), "disk"));
    }
    for log_shard in 0..shape.log_shards {
        tree = tree.child(child(&format!("writer-{log_shard}"), "disk"));
    }
    for number in 0..config.warmup_threads.max(1) {
        let name = format!("warmup-{number}");
        tree = tree.child(child(&name, "disk").kind(Kind::Transient));
    }
    for number in 0..config.reader_threads.max(1) {
        tree = tree.child(child(&format!("reader-{number}"), "disk"));
    }
    tree = tree.child(child(replication::ROLLBACK, "disk"));
    tree = tree.group(Group::new("flushers"));
    for number in 0..threads {
        tree = tree.child(child(&format!("flusher-{number}"), "flushers"));
    }
    // Streams hold nothing of each other's threads; their consumers ask again.
    tree = tree.group(Group::new("producers"));
    for number in 0..threads {
        tree = tree.child(child(
            streaming::producer_child(number).as_str(),
            "producers",
        ));
    }
    tree = tree.group(Group::new("consumers"));
    for number in 0..threads {
        tree = tree.child(child(
            replication::consumer_child(number).as_str(),
            "consumers",
        ));
    }
    // What is decided lies in the vbuckets; who does it holds nothing of anybody.
    tree = tree.group(Group::new("durability"));
    for number in 0..threads {
        let name = durability::driver_child(number);
        tree = tree.child(child(name.as_str(), "durability"));
    }
    // A vbucket that fails too often goes out of service alone.
    for id in (0..shape.vbuckets).filter_map(VbucketId::new) {
        let family = format!("vb-{id}");
        tree = tree
            .group(Group::new(&family).excess(Excess::OutOfService))
            .child(
                child(&format!("vbucket-{id}"), &family)
                    .vbucket(id)
                    .backoff(AT_ONCE),
            );
    }
    tree
}

/// The compactor, without workers yet.
fn compactor(
    config: &BucketConfig,
    store: &StoreHandle,
    environment: &Environment,
    table: &Arc<Table>,
) -> Compactor {
    let (compaction, history_floor) = (&config.compaction, config.store.history_floor);
    Compactor::new(CompactorConfig {
        workers: ChildName::new("compaction"),
        store: store.clone(),
        environment: environment.clone(),
        table: Arc::clone(table) as _,
        limits: CompactorLimits {
            running_max: usize::from(compaction.threads.max(1)),
            waiters_max: compaction.waiters_max,
            backoff: Backoff::DISK,
        },
        policy: compaction.policy,
        purge_age: compaction.purge_age,
        bytes_per_second: compaction.bytes_per_second,
        history_floor,
    })
}

/// Who takes replicas back, not at work yet.
fn rollbacks(store: &StoreHandle, environment: &Environment) -> Rollbacks {
    Rollbacks::new(RollbackConfig {
        name: ChildName::new(replication::ROLLBACK),
        store: store.clone(),
        environment: environment.clone(),
        backoff: Backoff::DISK,
        step_bytes: WarmupConfig::STEP_BYTES,
    })
}

fn not_started(error: actors::executor::StartError) -> BucketError {
    BucketError::Engine {
        what: error.name.to_string(),
        cause: error.what,
    }
}

/// The store behind a handle that opens it again when only recovery helps.
fn handle(
    config: &BucketConfig,
    store: LogStore,
    disk: &Arc<dyn Disk>,
    environment: &Environment,
) -> StoreHandle {
    let (disk, random) = (Arc::clone(disk), Arc::clone(&environment.random));
    let options = config.store;
    let open = move || opening::reopen(&options, &disk, &*random);
    StoreHandle::new(store, Box::new(open))
}
