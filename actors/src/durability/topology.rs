//! Replication chains: who must hold a durable write before it is committed. What is stored is text; this is what the
//! text says.
//!
//! Invariant: chains are checked as a whole before anything is made of them; a majority counts the places of a chain, filled
//! or not.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use storage::{Seqno, Topology};

/// Name of a node in a replication chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The node called `name`.
    #[must_use]
    pub fn new(name: &str) -> NodeName {
        NodeName(name.into())
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a bucket asks of its chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requirements {
    /// Replicas a chain may have for durable writes to be possible (MB-34453).
    pub replicas_max: usize,
    /// Whether a chain with too few nodes for a majority is content with its active node.
    pub is_fallback: bool,
}

impl Default for Requirements {
    fn default() -> Requirements {
        Requirements {
            replicas_max: 2,
            is_fallback: false,
        }
    }
}

/// One chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The active first.
    nodes: Vec<NodeName>,
    majority: usize,
}

/// The chains of a vbucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chains {
    first: Chain,
    /// While nodes are being exchanged.
    second: Option<Chain>,
}

/// Why a topology was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// At most two chains.
    #[error("a topology of {0} chains; give one, or two while nodes are exchanged")]
    TooManyChains(usize),
    /// A chain has at least its active.
    #[error("a chain without places; name its active node at least")]
    EmptyChain,
    /// A chain is too long.
    #[error("a chain of {0} places; the most is {max}", max = Chains::PLACES_MAX)]
    TooManyNodes(usize),
    /// The first place of a chain is the active's.
    #[error("a chain whose first place is empty; name its active node there")]
    NoActive,
    /// A node stands twice in a chain.
    #[error("a chain that names a node twice; name each once")]
    DuplicateNode,
}

impl Chain {
    fn of(places: &[Option<String>]) -> Result<Chain, TopologyError> {
        if places.len() > Chains::PLACES_MAX {
            return Err(TopologyError::TooManyNodes(places.len()));
        }
        let active = places.first().ok_or(TopologyError::EmptyChain)?;
        if active.is_none() {
            return Err(TopologyError::NoActive);
        }
        let nodes: Vec<_> = places
            .iter()
            .flatten()
            .map(|name| NodeName::new(name))
            .collect();
        let distinct: BTreeSet<_> = nodes.iter().collect();
        if distinct.len() < nodes.len() {
            return Err(TopologyError::DuplicateNode);
        }
        let majority = (places.len() / 2).saturating_add(1);
        Ok(Chain { nodes, majority })
    }

    /// Its nodes, the active first.
    #[must_use]
    pub fn nodes(&self) -> &[NodeName] {
        &self.nodes
    }

    /// How many of them must hold a write.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.majority
    }

    fn has_majority(&self) -> bool {
        self.nodes.len() >= self.majority
    }

    fn is_possible(&self, requirements: Requirements) -> bool {
        self.nodes.len() <= requirements.replicas_max.saturating_add(1)
            && (self.has_majority() || requirements.is_fallback)
    }

    /// Up to here everything is held by as many nodes as it must be, the active among them.
    fn held(&self, acknowledged: impl Fn(&NodeName) -> Seqno, is_fallback: bool) -> Seqno {
        let mut seqnos: Vec<Seqno> = self.nodes.iter().map(acknowledged).collect();
        // The active's, also of a new one in a rebalance (MB-35190, MB-33959).
        let active = seqnos.first().copied().unwrap_or_default();
        if is_fallback && !self.has_majority() {
            return active;
        }
        seqnos.sort_unstable_by(|one, other| other.cmp(one));
        let last_needed = seqnos.get(self.majority.saturating_sub(1));
        last_needed.copied().unwrap_or_default().min(active)
    }
}

impl Chains {
    /// Most places of a chain: the active and three replicas.
    pub const PLACES_MAX: usize = 4;

    /// What a stored topology says; `None` where none was set.
    pub fn of(topology: &Topology) -> Result<Option<Chains>, TopologyError> {
        let chains = &topology.chains;
        if chains.len() > 2 {
            return Err(TopologyError::TooManyChains(chains.len()));
        }
        let Some(first) = chains.first() else {
            return Ok(None);
        };
        let first = Chain::of(first)?;
        let second = chains.get(1).map(|places| Chain::of(places)).transpose()?;
        Ok(Some(Chains { first, second }))
    }

    /// Both, or the one there is.
    pub fn iter(&self) -> impl Iterator<Item = &Chain> {
        std::iter::once(&self.first).chain(&self.second)
    }

    /// The node these chains make the active.
    #[must_use]
    pub fn active(&self) -> Option<&NodeName> {
        self.first.nodes.first()
    }

    /// Whether a node is in one of them.
    #[must_use]
    pub fn contains(&self, node: &NodeName) -> bool {
        self.iter().any(|chain| chain.nodes.contains(node))
    }

    /// Whether a durable write can be committed at all.
    #[must_use]
    pub fn is_possible(&self, requirements: Requirements) -> bool {
        self.iter().all(|chain| chain.is_possible(requirements))
    }

    /// Up to here every write is held by enough nodes of each chain, its active among them; with `is_fallback` the
    /// active of a chain that is too short for a majority is enough.
    pub(super) fn held(
        &self,
        acknowledged: impl Fn(&NodeName) -> Seqno,
        is_fallback: bool,
    ) -> Seqno {
        let held = self.iter().map(|one| one.held(&acknowledged, is_fallback));
        held.min().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(names: &[&str]) -> Vec<Option<String>> {
        let place = |name: &&str| (!name.is_empty()).then(|| (*name).to_owned());
        names.iter().map(place).collect()
    }

    fn chains(of: &[&[&str]]) -> Result<Option<Chains>, TopologyError> {
        let chains = of.iter().map(|names| chain(names)).collect();
        Chains::of(&Topology { chains })
    }

    #[test]
    fn a_malformed_topology_is_refused_for_what_it_is() {
        assert_eq!(chains(&[]), Ok(None));
        assert_eq!(chains(&[&[]]), Err(TopologyError::EmptyChain));
        assert_eq!(chains(&[&["", "b"]]), Err(TopologyError::NoActive));
        assert_eq!(
            chains(&[&["a", "b", "a"]]),
            Err(TopologyError::DuplicateNode)
        );
        assert_eq!(
            chains(&[&["a", "b", "c", "d", "e"]]),
            Err(TopologyError::TooManyNodes(5))
        );
        assert_eq!(
            chains(&[&["a"], &["a"], &["a"]]),
            Err(TopologyError::TooManyChains(3))
        );
        // The second is looked at, too; and a node may be in both.
        assert_eq!(chains(&[&["a"], &["", "b"]]), Err(TopologyError::NoActive));
        assert!(chains(&[&["a", "b"], &["b", "a"]]).is_ok());
    }

    #[test]
    fn what_is_possible_depends_on_filled_places() {
        let is_possible = |of: &[&[&str]], requirements| {
            let chains = chains(of).unwrap().unwrap();
            chains.is_possible(requirements)
        };
        let usual = Requirements::default();
        assert!(is_possible(&[&["a"]], usual));
        assert!(!is_possible(&[&["a", ""]], usual));
        assert!(is_possible(&[&["a", "b", ""]], usual));
        assert!(!is_possible(&[&["a", "b"], &["a", ""]], usual));
        // Three replicas are more than is usual (MB-34453).
        assert!(!is_possible(&[&["a", "b", "c", "d"]], usual));
        let three = Requirements {
            replicas_max: 3,
            ..usual
        };
        assert!(is_possible(&[&["a", "b", "c", "d"]], three));
        let fallback = Requirements {
            is_fallback: true,
            ..usual
        };
        assert!(is_possible(&[&["a", ""]], fallback));
    }

    #[test]
    fn a_majority_is_nothing_without_the_active() {
        let held = |of: &[&[&str]], acks: &[(&str, u64)], is_fallback| {
            let chains = chains(of).unwrap().unwrap();
            let ack = |node: &NodeName| {
                let of_node = acks.iter().find(|(name, _)| *name == &*node.0);
                Seqno(of_node.map_or(0, |(_, seqno)| *seqno))
            };
            chains.held(ack, is_fallback).0
        };
        let three: &[&[&str]] = &[&["a", "b", "c"]];
        assert_eq!(held(three, &[("a", 9), ("b", 5), ("c", 3)], false), 5);
        assert_eq!(held(three, &[("a", 2), ("b", 5), ("c", 5)], false), 2);
        // Both chains, each by itself, with its own active.
        let moving: &[&[&str]] = &[&["a", "b"], &["b", "a"]];
        assert_eq!(held(moving, &[("a", 9), ("b", 4)], false), 4);
        // Too short for a majority: the active alone, and only by the fallback.
        let short: &[&[&str]] = &[&["a", ""]];
        assert_eq!(held(short, &[("a", 9)], false), 0);
        assert_eq!(held(short, &[("a", 9)], true), 9);
    }
}
