//! A small cluster of vbuckets with monitors, for one run of the property test: what a vbucket, its disk and its streams
//! are to a monitor, and no more.
//!
//! Invariant: the model keeps the promises the engine makes (a stream loses nothing but its end, a batch is whole, a
//! rollback goes to the end of a whole snapshot), so that whatever an invariant says is said of the monitors.

mod node;
mod disk;
mod link;
mod clients;
mod roles;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub(super) use clients::{Answer, Client};
pub(super) use link::Link;
pub(super) use node::{Item, Node, Operation, Pending};

use super::*;
use crate::simulation::SimulatedRandom;

/// Names a client's write, wherever it is.
pub(super) type WriteId = u64;

/// What the bucket asks of its chains.
pub(super) const REQUIREMENTS: Requirements = Requirements {
    replicas_max: 3,
    is_fallback: false,
};

pub(super) const COLLECTION: CollectionId = CollectionId(8);
const NODES: [&str; 4] = ["a", "b", "c", "d"];

/// The cluster.
#[derive(Debug)]
pub(super) struct World {
    pub(super) random: SimulatedRandom,
    pub(super) nodes: Vec<Node>,
    /// The stream of the active to each node.
    pub(super) links: Vec<Option<Link>>,
    pub(super) active: Option<usize>,
    pub(super) now: Duration,
    pub(super) clients: BTreeMap<WriteId, Client>,
    next_id: u64,
    /// Which nodes held a write as strongly as it asks when they said so.
    pub(super) held: BTreeMap<WriteId, BTreeSet<usize>>,
    /// Decisions that were judged and are not done.
    pub(super) judged: BTreeSet<Seqno>,
    /// What was found wrong where it happened.
    pub(super) faults: Vec<String>,
    /// Decisions to commit that were looked at, promotions too.
    pub(super) commits_judged: u64,
    pub(super) failovers: u64,
    /// Writes a client was told of, at a failover somebody who held them survived.
    pub(super) promises_judged: u64,
    pub(super) rollbacks: u64,
    pub(super) warmups_judged: u64,
    pub(super) erasures: u64,
    pub(super) failed_compactions: u64,
    pub(super) reads_refused: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let nodes = NODES.iter().map(|name| Node::new(node(name)));
        let mut world = World {
            random: SimulatedRandom::new(seed),
            nodes: nodes.collect(),
            links: NODES.iter().map(|_| None).collect(),
            active: None,
            now: Duration::ZERO,
            clients: BTreeMap::new(),
            next_id: 0,
            held: BTreeMap::new(),
            judged: BTreeSet::new(),
            faults: Vec::new(),
            commits_judged: 0,
            failovers: 0,
            promises_judged: 0,
            rollbacks: 0,
            warmups_judged: 0,
            erasures: 0,
            failed_compactions: 0,
            reads_refused: 0,
        };
        world.promote(0);
        world.set_topology(chains(&[&["a", "b", "c"]]));
        world
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn pick(&self, limit: usize) -> usize {
        usize::try_from(self.random.below(limit as u64)).unwrap()
    }

    pub(super) fn fault(&mut self, what: String) {
        self.faults.push(what);
    }

    /// Writes clients were told of that no promise covers any more.
    pub(super) fn excused(&self) -> u64 {
        let told = self
            .clients
            .values()
            .filter(|one| one.answers.contains(&Answer::Success));
        told.filter(|one| one.is_excused).count() as u64
    }

    pub(super) fn replicas(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|at| Some(*at) != self.active)
    }

    /// One of the keys, of the default collection or of the one that is dropped now and then.
    pub(super) fn some_key(&self) -> DocumentKey {
        let collection = if self.random.chance(300) {
            COLLECTION
        } else {
            CollectionId::DEFAULT
        };
        let name = [b'k', b'0' + u8::try_from(self.random.below(4)).unwrap()];
        DocumentKey::new(collection, &name).unwrap()
    }

    pub(super) fn healthy_topology(&self) -> Option<Chains> {
        let active = self.active?;
        let others: Vec<_> = self.replicas().collect();
        chains(&[&[NODES[active], NODES[others[0]], NODES[others[1]]]])
    }

    /// Names of some nodes, the active's first.
    pub(super) fn some_topology(&self) -> Option<Chains> {
        let active = self.active?;
        let mut others: Vec<_> = self.replicas().collect();
        for at in (1..others.len()).rev() {
            others.swap(at, self.pick(at + 1));
        }
        let name = |at: usize| NODES[at];
        let (a, b, c, d) = (
            name(active),
            name(others[0]),
            name(others[1]),
            name(others[2]),
        );
        match self.random.below(10) {
            0 | 2 | 3 => chains(&[&[a, b, c]]),
            4 => chains(&[&[a, b]]),
            5 => chains(&[&[a]]),
            6 => chains(&[&[a, b, ""]]),
            // A node is exchanged, or the active.
            7 => chains(&[&[a, b, c], &[a, b, d]]),
            // A majority that needs two of the others.
            1 => chains(&[&[a, b, c, d]]),
            8 => chains(&[&[a, b, c], &[b, a, c]]),
            // Nothing can be committed.
            _ => chains(&[&[a, "", ""]]),
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, node) in self.nodes.iter().enumerate() {
            let is_active = if Some(at) == self.active { "*" } else { " " };
            let (prepared, completed) =
                (node.monitor.high_prepared(), node.monitor.high_completed());
            write!(
                f,
                "  {is_active}{} {:?} up {} high {}",
                node.name,
                node.state,
                node.is_up,
                node.high()
            )?;
            write!(f, " disk {} {:?}", node.persisted, node.record())?;
            write!(
                f,
                " prepared {prepared} completed {completed} branches {:?}",
                node.branches
            )?;
            let pending: Vec<_> = node.pending.values().map(|one| one.seqno.0).collect();
            write!(f, " pending {pending:?} ended {:?}", node.ended)?;
            if let Some(one) = &node.receiving {
                write!(f, " receiving {}-{} {:?}", one.start, one.end, one.kind)?;
            }
            if let Some(link) = &self.links[at] {
                write!(
                    f,
                    " linked, {} items and {:?} under way",
                    link.under_way.len(),
                    link.acks
                )?;
            }
            let short = |item: &Item| format!("{} {:?} {:?}", item.seqno, item.key, item.operation);
            let tail: Vec<_> = node.log.iter().rev().take(12).map(short).collect();
            writeln!(f, "\n      {}", tail.join(", "))?;
        }
        Ok(())
    }
}
