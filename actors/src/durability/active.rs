//! The active monitor: decides of each durable write whether it is committed or given up.
//!
//! Invariant: a write is decided when every one before it is (MB-34812: order beats punctuality); the decided lie in one
//! queue, in the order of their prepares, with one consumer. Who holds what is one number for each node, the highest
//! seqno it acknowledged, so nothing is counted that could be counted twice, or lost when the topology changes (MB-34318).
//!
//! Whoever drives it looks, after every call, at [`ActiveMonitor::next_decision`] and [`ActiveMonitor::next_tick`]: both
//! are states, not events, so none can be missed.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use storage::{CollectionId, DocumentKey, DurabilityLevel, Seqno};

use super::prepare::{OutOfOrder, Prepare, Tracked, first_above, pop_front_if, take_out};
use super::topology::{Chains, NodeName, Requirements};
use super::words::Words;

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is committed.
    Commit {
        /// A majority holds it; not so when the fallback of a chain that is too short was enough.
        has_majority: bool,
    },
    /// It is given up: whoever waits is told that its outcome is not known.
    Abort,
}

/// A write that is decided and not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    write: Tracked,
    verdict: Verdict,
}

impl Decision {
    /// Which.
    #[must_use]
    pub fn prepare(&self) -> &Prepare {
        &self.write.prepare
    }

    /// What becomes of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}

/// What was done about a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The commit is in the log.
    Committed,
    /// The abort is.
    Aborted,
    /// Nothing was written: the collection is no longer the one it was prepared in (MB-43176).
    CollectionGone,
}

/// Something else is to be done first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("prepare {seqno} is not the next to be done; make the monitor anew")]
pub struct OutOfTurn {
    /// What was said to be done.
    pub seqno: Seqno,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct ActiveMonitor {
    requirements: Requirements,
    chains: Option<Chains>,
    tracked: VecDeque<Tracked>,
    decided: VecDeque<Decision>,
    /// Deadlines of what is tracked that have not passed.
    ahead: BTreeSet<(Duration, Seqno)>,
    /// Of every node but this one, also of such as are in no chain yet.
    words: Words,
    /// Fences that are given up and not done.
    fences_given_up: BTreeSet<Seqno>,
    /// What the log holds up to here was tracked when the monitor was made.
    read_before: Seqno,
    last_tracked: Seqno,
    last_committed: Seqno,
    pub(super) high_prepared: Seqno,
    pub(super) high_completed: Seqno,
    persisted: Seqno,
}

/// What an active monitor begins with.
#[derive(Clone, Debug)]
pub(super) struct Inherited {
    pub(super) tracked: VecDeque<Tracked>,
    pub(super) high_prepared: Seqno,
    pub(super) high_completed: Seqno,
    pub(super) persisted: Seqno,
}

impl ActiveMonitor {
    /// A monitor that goes on with what is there; without a topology, so it decides nothing yet.
    pub(super) fn new(inherited: Inherited, requirements: Requirements) -> ActiveMonitor {
        let Inherited {
            tracked,
            high_prepared,
            high_completed,
            persisted,
        } = inherited;
        let deadline = |one: &Tracked| one.deadline.map(|at| (at, one.seqno()));
        let last = tracked.back().map_or(high_completed, Tracked::seqno);
        let mut monitor = ActiveMonitor {
            requirements,
            chains: None,
            ahead: tracked.iter().filter_map(deadline).collect(),
            tracked,
            decided: VecDeque::new(),
            words: Words::default(),
            fences_given_up: BTreeSet::new(),
            read_before: Seqno::ZERO,
            last_tracked: last,
            last_committed: Seqno::ZERO,
            high_prepared,
            high_completed,
            persisted,
        };
        monitor.advance();
        monitor
    }

    /// What the one before it heard, and how far it had read, or could have: what comes again is passed over.
    pub(super) fn resume(&mut self, words: Words, read_before: Seqno) {
        self.words = words;
        self.read_before = read_before;
    }

    /// A prepare is in the log. With `deadline` (monotonic) it is given up when that has passed.
    pub fn track(
        &mut self,
        prepare: Prepare,
        deadline: Option<Duration>,
    ) -> Result<(), OutOfOrder> {
        let (seqno, last) = (prepare.seqno, self.last_tracked);
        if seqno <= self.read_before {
            return Ok(());
        }
        if seqno <= last {
            return Err(OutOfOrder { seqno, last });
        }
        self.last_tracked = seqno;
        if let Some(at) = deadline {
            self.ahead.insert((at, seqno));
        }
        self.tracked.push_back(Tracked {
            deadline,
            ..Tracked::inherited(prepare)
        });
        self.advance();
        Ok(())
    }

    /// Everything up to `seqno` is on this node's disk.
    pub fn note_persisted(&mut self, seqno: Seqno) {
        self.persisted = self.persisted.max(seqno);
        self.advance();
    }

    /// The store says that this is prepared, which a monitor that is made anew would begin with: what came from the disk of
    /// a source before this node was promoted holds no prepare that tells of it.
    pub fn note_stored(&mut self, high_prepared: Seqno) {
        if high_prepared > self.high_prepared {
            self.high_prepared = high_prepared;
            self.advance();
        }
    }

    /// A node holds everything up to `seqno`, each prepare as strongly as it asks. Kept for one that is in no chain yet
    /// (MB-34091); one that says less than before says nothing. Whoever calls this has checked that the word is of this role
    /// and of a stream that lives, and that the stream sent as much.
    pub fn acknowledge(&mut self, node: &NodeName, seqno: Seqno) {
        if self.words.hear(node, seqno) {
            self.decide_held();
        }
    }

    /// The stream to a node ended: what it acknowledged is forgotten, unless it is in a chain, or once it is in none.
    pub fn end_stream(&mut self, node: &NodeName) {
        self.words.end_stream(node, self.chains.as_ref());
    }

    /// The topology is this from now on. What a node holds counts in the new chains as it did in the old, also when it
    /// left them and comes back on the same stream. Everything in the log is tracked by now.
    pub fn set_chains(&mut self, chains: Option<Chains>) {
        self.chains = chains;
        self.words.forget(self.chains.as_ref());
        self.give_up_impossible();
        self.advance();
        if self.chains.is_some() {
            // The high prepared seqno passed what it could; what is over holds nobody up any more.
            self.tracked.retain(|one| !one.is_completed);
            self.advance();
        }
    }

    /// The bucket asks this of its chains from now on; what is under way, too.
    pub fn set_requirements(&mut self, requirements: Requirements) {
        self.requirements = requirements;
        self.give_up_impossible();
        self.decide_held();
    }

    /// Gives up what is overdue and first in line, and says who else is overdue: of these nothing is decided yet, but who
    /// waits for them has waited long enough, and is to be told that their outcome is not known.
    #[must_use]
    pub fn tick(&mut self, now: Duration) -> Vec<Seqno> {
        let mut overdue = BTreeSet::new();
        while let Some((deadline, seqno)) = self.ahead.first().copied()
            && deadline < now
        {
            self.ahead.pop_first();
            overdue.insert(seqno);
        }
        while self.tracked.front().is_some_and(|one| self.is_overdue(one))
            && let Some(first) = self.tracked.pop_front()
        {
            overdue.remove(&first.seqno());
            self.decide(first, Verdict::Abort);
        }
        overdue.into_iter().collect()
    }

    /// When [`ActiveMonitor::tick`] has something to do, if ever.
    #[must_use]
    pub fn next_tick(&self) -> Option<Duration> {
        let first = self.tracked.front();
        let overdue = first.filter(|one| self.is_overdue(one));
        let ahead = self.ahead.first().map(|(deadline, _)| *deadline);
        let deadline = overdue.and_then(|one| one.deadline).or(ahead)?;
        // A deadline has passed only behind it.
        Some(deadline.saturating_add(Duration::from_nanos(1)))
    }

    /// What is to be done next; then [`ActiveMonitor::settle`] it.
    #[must_use]
    pub fn next_decision(&self) -> Option<&Decision> {
        self.decided.front()
    }

    /// What was decided about this prepare is done.
    pub fn settle(&mut self, seqno: Seqno, settled: Settled) -> Result<(), OutOfTurn> {
        let is_next = |next: &Decision| next.write.seqno() == seqno;
        if pop_front_if(&mut self.decided, is_next).is_none() {
            return Err(OutOfTurn { seqno });
        }
        self.fences_given_up.remove(&seqno);
        if settled == Settled::Committed {
            self.last_committed = seqno;
        }
        if settled != Settled::CollectionGone {
            self.high_completed = self.high_completed.max(seqno);
        }
        self.advance();
        Ok(())
    }

    /// Whether this prepare is to be decided, or what was decided of it to be done.
    #[must_use]
    pub fn tracks(&self, seqno: Seqno) -> bool {
        let is_decided = self.decided.iter().any(|one| one.write.seqno() == seqno);
        let undecided = self.tracked.binary_search_by_key(&seqno, Tracked::seqno);
        is_decided || undecided.is_ok()
    }

    /// The prepare is erased from the disk, with its collection: there is nothing to decide. Whether it was there; whoever
    /// waits is to be told, in any case, that its outcome is not known (MB-44167).
    pub fn erase(&mut self, key: &DocumentKey, seqno: Seqno) -> bool {
        let is_it = |one: &Decision| one.write.seqno() == seqno && one.prepare().key == *key;
        let was_there = if let Some(erased) = take_out(&mut self.tracked, key, seqno) {
            self.forget_deadline(&erased);
            true
        } else if let Some(at) = self.decided.iter().position(is_it) {
            self.fences_given_up.remove(&seqno);
            self.decided.remove(at).is_some()
        } else {
            false
        };
        self.advance();
        was_there
    }

    /// A collection ended at `end`. Its prepares stay until they are decided or erased.
    pub fn note_collection_dropped(&mut self, collection: CollectionId, end: Seqno) {
        let decided = self.decided.iter_mut().map(|one| &mut one.write);
        for one in decided.chain(&mut self.tracked) {
            one.note_dropped(collection, end);
        }
    }

    /// Highest prepare this node holds as strongly as it asks.
    #[must_use]
    pub fn high_prepared(&self) -> Seqno {
        self.high_prepared
    }

    /// Highest prepare that is over.
    #[must_use]
    pub fn high_completed(&self) -> Seqno {
        self.high_completed
    }

    /// The chains, if a topology was set.
    #[must_use]
    pub fn chains(&self) -> Option<&Chains> {
        self.chains.as_ref()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tracked.is_empty() && self.decided.is_empty()
    }

    /// This node has no word any more: what it decided and did not do is undecided again (MB-36102), for the next active
    /// to complete.
    pub(super) fn retire(self) -> Inherited {
        let undecided = self.decided.into_iter().map(|one| one.write);
        let mut tracked: VecDeque<_> = undecided.chain(self.tracked).collect();
        for one in &mut tracked {
            // It may be committed elsewhere from now on.
            one.deadline = None;
        }
        Inherited {
            tracked,
            high_prepared: self.high_prepared,
            high_completed: self.high_completed,
            persisted: self.persisted,
        }
    }

    /// Moves the high prepared seqno over what this node holds strongly enough: what is on disk, and behind that what
    /// need not be, up to the first that must (the fence). Without a topology only over what is completed: nothing else
    /// was asked of this node yet.
    fn advance(&mut self) {
        let before = self.high_prepared;
        // What is given up and not done may be undecided again, and then must not be passed already.
        let unheld = (Bound::Excluded(self.persisted), Bound::Unbounded);
        let fence = self.fences_given_up.range(unheld).next();
        let fence = fence.copied().unwrap_or(Seqno::MAX);
        let from = first_above(&self.tracked, before);
        for one in self.tracked.range(from..) {
            let may_pass = one.seqno() < fence && is_held(one, self.persisted);
            if !may_pass || (self.chains.is_none() && !one.is_completed) {
                break;
            }
            self.high_prepared = one.seqno();
        }
        // Under a topology nothing that is over is kept.
        if self.chains.is_none() && self.high_prepared > before {
            let passed = self.high_prepared;
            let is_needed = |one: &Tracked| !one.is_completed || one.seqno() > passed;
            self.tracked.retain(is_needed);
        }
        self.decide_held();
    }

    /// Commits what enough nodes hold. That is a prefix: who holds a prepare holds all before it. What this node inherited
    /// it may hold as a replica must, which is less than an active must.
    fn decide_held(&mut self) {
        let Some(chains) = self.chains.as_ref().filter(|_| !self.tracked.is_empty()) else {
            return;
        };
        let acknowledged = |node: &NodeName| self.acknowledged_by(chains, node);
        let held = chains.held(acknowledged, self.requirements.is_fallback);
        let by_majority = if self.requirements.is_fallback {
            chains.held(acknowledged, false)
        } else {
            held
        };
        let persisted = self.persisted;
        let is_enough = |one: &Tracked| one.seqno() <= held && is_held(one, persisted);
        while let Some(first) = pop_front_if(&mut self.tracked, is_enough) {
            if !first.is_completed {
                let has_majority = first.seqno() <= by_majority;
                self.decide(first, Verdict::Commit { has_majority });
            }
        }
    }

    /// Durable writes became impossible: gives up those that may be given up (MB-34771), which are those before the first
    /// that may not, because it may be committed elsewhere (MB-34996).
    fn give_up_impossible(&mut self) {
        let is_possible = |chains: &Chains| chains.is_possible(self.requirements);
        if self.chains.as_ref().is_none_or(is_possible) {
            return;
        }
        let may_end = |one: &Tracked| one.deadline.is_some() || one.is_completed;
        while let Some(first) = pop_front_if(&mut self.tracked, may_end) {
            if !first.is_completed {
                self.decide(first, Verdict::Abort);
            }
        }
    }

    fn decide(&mut self, write: Tracked, verdict: Verdict) {
        self.forget_deadline(&write);
        let is_fence = write.prepare.level != DurabilityLevel::Majority;
        if is_fence && verdict == Verdict::Abort {
            self.fences_given_up.insert(write.seqno());
        }
        self.decided.push_back(Decision { write, verdict });
    }

    fn forget_deadline(&mut self, write: &Tracked) {
        if let Some(deadline) = write.deadline {
            self.ahead.remove(&(deadline, write.seqno()));
        }
    }

    fn is_overdue(&self, write: &Tracked) -> bool {
        let is_ahead = |deadline| self.ahead.contains(&(deadline, write.seqno()));
        write.deadline.is_some_and(|deadline| !is_ahead(deadline))
    }

    fn acknowledged_by(&self, chains: &Chains, node: &NodeName) -> Seqno {
        if chains.active() == Some(node) {
            return self.high_prepared;
        }
        self.words.of(node)
    }
}

/// Whether a node that is persisted so far holds a prepare as strongly as it asks of the active.
fn is_held(write: &Tracked, persisted: Seqno) -> bool {
    write.prepare.level == DurabilityLevel::Majority || write.seqno() <= persisted
}

/// For tests and the predicates they check.
impl ActiveMonitor {
    /// What is tracked and undecided.
    pub fn undecided(&self) -> impl Iterator<Item = &Prepare> {
        let incomplete = self.tracked.iter().filter(|one| !one.is_completed);
        incomplete.map(|one| &one.prepare)
    }

    /// What is decided and not done.
    pub fn decisions(&self) -> impl Iterator<Item = &Decision> {
        self.decided.iter()
    }

    /// How far a node is, in the eyes of this one.
    #[must_use]
    pub fn held_by(&self, node: &NodeName) -> Seqno {
        match &self.chains {
            Some(chains) => self.acknowledged_by(chains, node),
            None => self.words.of(node),
        }
    }

    /// Last prepare tracked.
    #[must_use]
    pub fn last_tracked(&self) -> Seqno {
        self.last_tracked
    }

    /// Last prepare committed by this monitor.
    #[must_use]
    pub fn last_committed(&self) -> Seqno {
        self.last_committed
    }

    /// How far it was told the disk is.
    #[must_use]
    pub fn persisted(&self) -> Seqno {
        self.persisted
    }

    /// What it asks of its chains.
    #[must_use]
    pub fn requirements(&self) -> Requirements {
        self.requirements
    }
}
