//! What the nodes said they hold: one number each.
//!
//! Invariant: a number never falls while the node's stream lives or the node is in a chain; what a node said whose stream
//! ended and that is in no chain is forgotten, since the next of that name may be another.

use std::collections::BTreeMap;

use storage::Seqno;

use super::topology::{Chains, NodeName};

#[derive(Clone, Copy, Debug, Default)]
struct Word {
    seqno: Seqno,
    /// The stream it came by has ended.
    is_last: bool,
}

/// Of each node the highest seqno it acknowledged.
#[derive(Clone, Debug, Default)]
pub(super) struct Words(BTreeMap<NodeName, Word>);

impl Words {
    /// A node said this; whether that is more than before.
    pub(super) fn hear(&mut self, node: &NodeName, seqno: Seqno) -> bool {
        let Some(word) = self.0.get_mut(node) else {
            let word = Word {
                seqno,
                is_last: false,
            };
            self.0.insert(node.clone(), word);
            return true;
        };
        let is_more = seqno > word.seqno;
        word.seqno = seqno.max(word.seqno);
        word.is_last = false;
        is_more
    }

    pub(super) fn end_stream(&mut self, node: &NodeName, chains: Option<&Chains>) {
        if let Some(word) = self.0.get_mut(node) {
            word.is_last = true;
        }
        self.forget(chains);
    }

    /// Forgets who is in no chain and has no stream.
    pub(super) fn forget(&mut self, chains: Option<&Chains>) {
        let is_member = |node: &NodeName| chains.is_some_and(|chains| chains.contains(node));
        self.0.retain(|node, word| !word.is_last || is_member(node));
    }

    pub(super) fn of(&self, node: &NodeName) -> Seqno {
        self.0.get(node).map_or(Seqno::ZERO, |word| word.seqno)
    }

    pub(super) fn heard(&self) -> impl Iterator<Item = (&NodeName, Seqno)> {
        self.0.iter().map(|(node, word)| (node, word.seqno))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
