//! Durable writes of a bucket: what it asks of its replication chains, who drives its vbuckets, and the topology an
//! embedder sets.
//!
//! Invariant: a topology is looked at as a whole before any vbucket gets it; a vbucket whose chain does not begin with this
//! bucket never takes one through here.

use std::collections::BTreeSet;
use std::sync::Arc;

use actors::durability::{Chain, Chains, DriverConfig, Requirements, TopologyError};
use actors::environment::Environment;
use actors::vbucket::{DirtyVbuckets, VbucketCore};
use messages::durability::{DurabilityStatus, DurableWrites};
use messages::{ChildName, DownCause, OperationError};
use storage::{DurabilityLevel, Topology, VbucketId, VbucketState};

use crate::bucket::Bucket;
use crate::bucket_config::BucketConfig;
use crate::replication::Replicating;
use crate::restart::OutOfService;
use crate::vbucket_table::Table;

/// What every vbucket of a bucket is told of durable writes when it is made.
#[derive(Debug)]
pub(crate) struct Durable {
    requirements: Requirements,
    level_min: Option<DurabilityLevel>,
    /// Where they say that there is something to do, by actor thread.
    edges: Vec<Arc<DirtyVbuckets>>,
}

impl Durable {
    pub(crate) fn new(config: &BucketConfig, vbuckets: u16, threads: usize) -> Durable {
        let edge = |_| Arc::new(DirtyVbuckets::new(vbuckets));
        Durable {
            requirements: Requirements {
                replicas_max: config.replicas_max,
                is_fallback: config.durability_fallback,
            },
            level_min: config.durability_level_min,
            edges: (0..threads.max(1)).map(edge).collect(),
        }
    }

    /// A core of that thread was made.
    pub(crate) fn tell(&self, core: &VbucketCore, thread: usize) {
        core.set_requirements(self.requirements);
        core.set_durability_level_min(self.level_min);
        if let Some(edge) = self.edges.get(thread) {
            core.set_durability_edge(Arc::clone(edge));
        }
    }

    /// What the driver of each thread works with.
    pub(crate) fn links(
        &self,
        table: &Table,
        replicating: &Replicating,
        environment: &Environment,
    ) -> Vec<DriverConfig> {
        let consumers = replicating.edges().iter();
        let link = |(thread, (edge, consumer)): (usize, (&Arc<_>, &Arc<_>))| {
            let slots = table.slots.iter();
            let of_thread = slots.filter(|slot| table.thread_of(slot.id()) == thread);
            DriverConfig {
                vbuckets: of_thread.map(Arc::clone).collect(),
                edge: Arc::clone(edge),
                consumer: Arc::clone(consumer),
                environment: environment.clone(),
            }
        };
        self.edges
            .iter()
            .zip(consumers)
            .enumerate()
            .map(link)
            .collect()
    }
}

/// The name in the tree of who drives the durable writes of a thread.
pub(crate) fn driver_child(number: usize) -> ChildName {
    ChildName::new(format!("durability-{number}"))
}

/// Children were taken out of service: where one drove durable writes, nobody decides any.
pub(crate) fn out_of_service(table: &Table, what: &OutOfService) {
    for (thread, child) in drivers(table) {
        if what.children.contains(&child) {
            let cause = DownCause::Escalated(what.why.clone());
            let why = OperationError::ActorDown { child, cause };
            for core in cores_of(table, thread) {
                core.stop_durability(why.clone());
            }
        }
    }
}

/// A child is made anew: if it drives durable writes, they are decided again.
pub(crate) fn bring_back(table: &Table, child: &ChildName) {
    for (thread, driver) in drivers(table) {
        if driver == *child {
            cores_of(table, thread).for_each(|core| core.resume_durability());
        }
    }
}

fn drivers(table: &Table) -> impl Iterator<Item = (usize, ChildName)> {
    (0..table.threads()).map(|thread| (thread, driver_child(thread)))
}

fn cores_of(table: &Table, thread: usize) -> impl Iterator<Item = &Arc<VbucketCore>> {
    let cores = table.cores();
    let of_thread = cores.filter(move |(id, _)| table.thread_of(*id) == thread);
    of_thread.map(|(_, core)| core)
}

/// Durable writes of a bucket at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurabilityFigures {
    /// Prepares that are not over, those of replicas included.
    pub prepares: u64,
    /// Of these, such as may have been committed elsewhere: their keys cannot be read.
    pub maybe_visible: u64,
    /// Clients that wait for an answer.
    pub waiting: u64,
    /// What was done since the bucket was opened.
    pub counts: DurableWrites,
}

impl DurabilityFigures {
    pub(crate) fn add(&mut self, of: &DurabilityStatus) {
        let figure = |figure: usize| u64::try_from(figure).unwrap_or(u64::MAX);
        self.prepares = self.prepares.saturating_add(figure(of.prepares));
        self.maybe_visible = self.maybe_visible.saturating_add(figure(of.maybe_visible));
        self.waiting = self.waiting.saturating_add(figure(of.waiting));
        let (sum, counts) = (&mut self.counts, of.counts);
        sum.accepted = sum.accepted.saturating_add(counts.accepted);
        sum.committed = sum.committed.saturating_add(counts.committed);
        sum.aborted = sum.aborted.saturating_add(counts.aborted);
    }
}

impl Bucket {
    /// What this bucket is called in replication chains: [`BucketConfig::node_name`], or a name drawn when it was created.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.running().node_name
    }

    /// How a vbucket stands with durable writes.
    pub fn durability_status(
        &self,
        vbucket: VbucketId,
    ) -> Result<DurabilityStatus, OperationError> {
        Ok(self.running().table.core(vbucket)?.durability_figures())
    }

    /// Sets the replication chains of active vbuckets of this bucket: the nodes that must hold a durable write, each by its
    /// name, this bucket first ([`Bucket::node_name`]). One chain, or two while nodes are exchanged; none takes them
    /// away. In force at once, also for the writes under way. Of a topology no vbucket can have nothing is set; an error on
    /// the way leaves the vbuckets before it with the new one.
    ///
    /// ```
    /// # use piggin_supervisor::Bucket;
    /// # use storage::Topology;
    /// # fn chained(bucket: &Bucket, copy: &Bucket) -> Result<(), messages::OperationError> {
    /// let chain = [bucket.node_name(), copy.node_name()];
    /// bucket.set_topology(bucket.vbuckets(), &Topology::of_chain(chain))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_topology(
        &self,
        vbuckets: impl IntoIterator<Item = VbucketId>,
        topology: &Topology,
    ) -> Result<(), OperationError> {
        self.check_topology(topology)?;
        let vbuckets: BTreeSet<VbucketId> = vbuckets.into_iter().collect();
        let active = |vbucket: &VbucketId| {
            let core = self.running().table.core(*vbucket)?;
            match core.state() {
                VbucketState::Active => Ok(core),
                state @ (VbucketState::Replica | VbucketState::Pending | VbucketState::Dead) => {
                    let vbucket = *vbucket;
                    Err(OperationError::NotMyVbucket { vbucket, state })
                }
            }
        };
        let cores: Vec<_> = vbuckets.iter().map(active).collect::<Result<_, _>>()?;
        for core in cores {
            // Looks at the state again: one that is a replica meanwhile stays one.
            core.set_topology(topology)?;
        }
        Ok(())
    }

    /// Whether active vbuckets of this bucket can have this topology.
    pub(crate) fn check_topology(&self, topology: &Topology) -> Result<(), OperationError> {
        let invalid = |what: String| OperationError::InvalidTopology(what);
        let chains = Chains::of(topology);
        let chains = chains.map_err(|error: TopologyError| invalid(error.to_string()))?;
        let nodes = chains.iter().flat_map(Chains::iter);
        let mut names = nodes.flat_map(Chain::nodes).map(ToString::to_string);
        if let Some(name) =
            names.find(|name| name.is_empty() || name.len() > BucketConfig::NODE_NAME_BYTES_MAX)
        {
            let length = name.len();
            let what = format!("the name of a node is 1 to 200 bytes, this one is {length}");
            return Err(invalid(what));
        }
        let active = chains.as_ref().and_then(Chains::active);
        let active = active.map(ToString::to_string);
        match active.filter(|active| active != self.node_name()) {
            None => Ok(()),
            Some(other) => Err(invalid(format!(
                "the active node is {other}, and this one is {}; name the bucket whose vbuckets are active first",
                self.node_name()
            ))),
        }
    }
}
