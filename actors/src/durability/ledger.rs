//! What must survive the one who drives a monitor: who waits for which durable write and how long, who acknowledged what,
//! and how far that led. Belongs to the vbucket, not to an actor (rule R20).
//!
//! Invariant: whoever waits is answered exactly once: a reply can only be taken out, and everything that ends a wait takes
//! it out here. What was acknowledged in one role of the vbucket says nothing in the next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use storage::Seqno;

use super::prepare::Prepare;
use super::topology::{Chains, NodeName};
use super::words::Words;

/// Counts the roles a vbucket had; a commit or abort names the one it was decided in, and is refused in another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoleEpoch(u64);

/// A durable write somebody waits, or waited, for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parked<R> {
    /// When it is given up (monotonic).
    deadline: Option<Duration>,
    /// Whom to answer; `None` once that was done.
    reply: Option<R>,
}

/// The ledger of one vbucket; `R` is how an answer reaches who waits for it.
#[derive(Clone, Debug)]
pub struct Ledger<R> {
    role: RoleEpoch,
    parked: BTreeMap<Seqno, Parked<R>>,
    words: Words,
    high_prepared: Seqno,
}

impl<R> Default for Ledger<R> {
    fn default() -> Ledger<R> {
        Ledger {
            role: RoleEpoch::default(),
            parked: BTreeMap::new(),
            words: Words::default(),
            high_prepared: Seqno::ZERO,
        }
    }
}

impl<R> Ledger<R> {
    /// Somebody waits for the prepare at `seqno`.
    pub fn park(&mut self, seqno: Seqno, deadline: Option<Duration>, reply: R) {
        let reply = Some(reply);
        self.parked.insert(seqno, Parked { deadline, reply });
    }

    /// Who waits for it, to be answered before it is over: it has waited long enough. Its deadline stays.
    #[must_use]
    pub fn answer_early(&mut self, seqno: Seqno) -> Option<R> {
        self.parked.get_mut(&seqno)?.reply.take()
    }

    /// Who waits for anything whose deadline was before `now`, to be answered early. Their deadlines stay.
    #[must_use]
    pub fn answer_overdue(&mut self, now: Duration) -> Vec<R> {
        let parked = self.parked.values_mut();
        let overdue = parked.filter(|one| one.deadline.is_some_and(|deadline| deadline < now));
        overdue.filter_map(|one| one.reply.take()).collect()
    }

    /// When there is somebody to be answered early, if ever.
    #[must_use]
    pub fn next_overdue(&self) -> Option<Duration> {
        let waiting = self.parked.values().filter(|one| one.reply.is_some());
        let first = waiting.filter_map(|one| one.deadline).min()?;
        // A deadline has passed only behind it.
        Some(first.saturating_add(Duration::from_nanos(1)))
    }

    /// It is over: who waits for it, if somebody still does.
    #[must_use]
    pub fn complete(&mut self, seqno: Seqno) -> Option<R> {
        self.parked.remove(&seqno)?.reply
    }

    /// Everybody who waits, in the order of the prepares, to be answered because the bucket shuts down. Nothing else
    /// changes: what was decided is done in its order all the same (MB-46272).
    #[must_use]
    pub fn answer_all(&mut self) -> Vec<R> {
        let replies = self.parked.values_mut();
        replies.filter_map(|parked| parked.reply.take()).collect()
    }

    /// The vbucket becomes something else: whoever waits is to be told that the outcome is not known.
    #[must_use]
    pub fn begin_role(&mut self) -> Vec<R> {
        self.role = RoleEpoch(self.role.0.saturating_add(1));
        self.words.clear();
        let parked = std::mem::take(&mut self.parked);
        parked.into_values().filter_map(|one| one.reply).collect()
    }

    /// The role of now.
    #[must_use]
    pub fn role(&self) -> RoleEpoch {
        self.role
    }

    /// When the prepare at `seqno` is given up; `None` also of one that this vbucket did not accept in this role.
    #[must_use]
    pub fn deadline(&self, seqno: Seqno) -> Option<Duration> {
        self.parked.get(&seqno)?.deadline
    }

    /// Whether the prepare at `seqno` was accepted from a client in this role, and is not over.
    #[must_use]
    pub fn is_parked(&self, seqno: Seqno) -> bool {
        self.parked.contains_key(&seqno)
    }

    /// A node acknowledged everything up to `seqno`, in this role and on a stream that lives: whoever calls this has
    /// checked both, and that the stream sent as much. Never goes back.
    pub fn acknowledge(&mut self, node: &NodeName, seqno: Seqno) {
        let _is_more = self.words.hear(node, seqno);
    }

    /// The stream to a node ended; as [`super::ActiveMonitor::end_stream`].
    pub fn end_stream(&mut self, node: &NodeName, chains: Option<&Chains>) {
        self.words.end_stream(node, chains);
    }

    /// The topology is this from now on; as [`super::ActiveMonitor::set_chains`].
    pub fn set_chains(&mut self, chains: Option<&Chains>) {
        self.words.forget(chains);
    }

    /// Those accepted from a client in this role that are not over, in order.
    pub fn parked(&self) -> impl Iterator<Item = Seqno> {
        self.parked.keys().copied()
    }

    /// How far a node acknowledged in this role.
    #[must_use]
    pub fn heard_of(&self, node: &NodeName) -> Seqno {
        self.words.of(node)
    }

    /// How far every node was heard in this role.
    pub(crate) fn heard(&self) -> impl Iterator<Item = (&NodeName, Seqno)> {
        self.words.heard()
    }

    /// What every node acknowledged in this role.
    pub(super) fn words(&self) -> &Words {
        &self.words
    }

    /// How many nodes it keeps a word of.
    #[cfg(test)]
    pub(crate) fn nodes_heard(&self) -> usize {
        self.words.len()
    }

    /// The monitor is made anew, and these are the prepares that are not over: whoever waits for another is to be told
    /// that its outcome is not known. Its prepare ended, or was erased, and the one who was to tell it panicked.
    #[must_use]
    pub fn complete_all_but(&mut self, outstanding: &[Prepare]) -> Vec<R> {
        let stays: BTreeSet<Seqno> = outstanding.iter().map(|prepare| prepare.seqno).collect();
        let parked = std::mem::take(&mut self.parked);
        let (stay, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = parked
            .into_iter()
            .partition(|(seqno, _)| stays.contains(seqno));
        self.parked = stay;
        gone.into_values().filter_map(|one| one.reply).collect()
    }

    /// The monitor's high prepared seqno is this. Never goes back, but by [`Ledger::roll_back`].
    pub fn raise_high_prepared(&mut self, seqno: Seqno) {
        self.high_prepared = seqno.max(self.high_prepared);
    }

    /// The monitor's high prepared seqno, when it was last told.
    #[must_use]
    pub fn high_prepared(&self) -> Seqno {
        self.high_prepared
    }

    /// The vbucket was rolled back, and its store says this. To be told before the monitor is made anew.
    pub fn roll_back(&mut self, high_prepared: Seqno) {
        self.high_prepared = high_prepared;
    }

    /// How many still wait for an answer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let waits = |one: &&Parked<R>| one.reply.is_some();
        self.parked.values().filter(waits).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_secs(1));

    #[test]
    fn whoever_waits_is_answered_once() {
        let mut ledger = Ledger::default();
        for (seqno, reply) in [(1, "one"), (2, "two"), (3, "three")] {
            ledger.park(Seqno(seqno), SOON, reply);
        }
        assert_eq!(ledger.answer_early(Seqno(2)), Some("two"));
        assert_eq!(ledger.answer_early(Seqno(2)), None);
        // Its deadline stays: a monitor made anew gives it up in its turn.
        assert_eq!(ledger.deadline(Seqno(2)), SOON);
        assert_eq!(ledger.complete(Seqno(2)), None);
        assert_eq!(ledger.complete(Seqno(1)), Some("one"));
        assert_eq!(ledger.complete(Seqno(1)), None);
        assert_eq!(ledger.waiting(), 1);
        assert_eq!(ledger.answer_all(), ["three"]);
        assert_eq!(ledger.complete(Seqno(3)), None);
    }

    #[test]
    fn whoever_waits_for_what_is_over_is_told_by_the_next_monitor() {
        let mut ledger = Ledger::default();
        for (seqno, reply) in [(1, "one"), (2, "two"), (3, "three")] {
            ledger.park(Seqno(seqno), SOON, reply);
        }
        assert_eq!(ledger.answer_early(Seqno(1)), Some("one"));
        let outstanding = Prepare {
            seqno: Seqno(3),
            key: storage::DocumentKey::new(storage::CollectionId::DEFAULT, b"k").unwrap(),
            level: storage::DurabilityLevel::Majority,
        };
        assert_eq!(ledger.complete_all_but(&[outstanding]), ["two"]);
        assert!(!ledger.is_parked(Seqno(1)));
        assert_eq!(ledger.complete(Seqno(3)), Some("three"));
    }

    #[test]
    fn a_new_role_knows_no_acknowledgement_and_no_deadline() {
        let mut ledger = Ledger::default();
        let node = NodeName::new("b");
        ledger.acknowledge(&node, Seqno(9));
        ledger.acknowledge(&node, Seqno(4));
        assert_eq!(ledger.words().of(&node), Seqno(9));
        ledger.park(Seqno(1), SOON, "one");
        ledger.raise_high_prepared(Seqno(7));
        let before = ledger.role();
        assert_eq!(ledger.begin_role(), ["one"]);
        assert!(ledger.role() > before);
        assert_eq!(ledger.words().of(&node), Seqno::ZERO);
        assert_eq!(ledger.deadline(Seqno(1)), None);
        assert_eq!(ledger.high_prepared(), Seqno(7));
    }
}
