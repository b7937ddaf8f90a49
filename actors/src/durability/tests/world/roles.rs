//! Who is what: failovers, changes of state, topologies, and a monitor that is made anew.

use super::*;

impl World {
    /// The node becomes the active.
    pub(in crate::durability) fn promote(&mut self, at: usize) {
        let uuid = self.id();
        for to in 0..self.nodes.len() {
            self.links[to] = None;
        }
        let view = self.nodes[at].view();
        let node = &mut self.nodes[at];
        let whole = node.newest_whole(node.high());
        node.begin_branch(uuid, whole);
        if node.receiving.take().is_some() {
            node.floor = node.high();
        }
        node.own_from = node.high();
        node.state = VbucketState::Active;
        let replies = node.ledger.begin_role();
        node.monitor.become_state(VbucketState::Active, &view);
        node.note_high();
        self.active = Some(at);
        self.held.clear();
        self.judged.clear();
        self.answer(replies, Answer::Ambiguous);
    }

    /// The node is nobody's active any more, whatever it becomes.
    pub(super) fn leave_role(&mut self, at: usize, answer: Answer) {
        self.links[at] = None;
        if self.active != Some(at) {
            return;
        }
        for to in 0..self.nodes.len() {
            self.links[to] = None;
        }
        self.catch_up(at);
        self.active = None;
        let node = &mut self.nodes[at];
        let whole = node.newest_whole(node.high());
        // Its own items are whole wherever the disk ends.
        let on_disk = node.newest_whole(node.persisted);
        for end in [on_disk, whole] {
            let newest = node.whole.last().map_or(Seqno::ZERO, |(end, _)| end.seqno);
            if end > newest {
                node.whole.push((SnapshotEnd::memory(end), Seqno::ZERO));
            }
        }
        for pending in node.pending.values_mut() {
            pending.is_maybe_visible = true;
        }
        node.topology = None;
        let replies = node.ledger.begin_role();
        self.answer(replies, answer);
    }

    /// The node becomes something that does not write.
    pub(in crate::durability) fn become_passive(&mut self, at: usize, state: VbucketState) {
        if !self.nodes[at].is_up {
            return;
        }
        self.leave_role(at, Answer::Ambiguous);
        let node = &mut self.nodes[at];
        let view = node.view();
        node.state = state;
        node.monitor.become_state(state, &view);
        node.note_high();
    }

    /// The active goes, in order or not, and the replica that holds most takes its place.
    pub(in crate::durability) fn fail_over(&mut self, crashes: bool) {
        if let Some(at) = self.active {
            if crashes {
                self.crash(at);
            } else {
                let state = [VbucketState::Dead, VbucketState::Replica][self.pick(2)];
                self.become_passive(at, state);
            }
            // One that is going is not what takes its own place.
            self.nodes[at].is_up &= !crashes;
        }
        let may_serve = |at: &usize| {
            let node = &self.nodes[*at];
            node.is_up && node.state != VbucketState::Dead
        };
        let all: Vec<_> = (0..self.nodes.len()).filter(may_serve).collect();
        // Seqnos are compared only within one history: that of the active that goes.
        let newest = self
            .nodes
            .iter()
            .filter_map(|node| node.branches.last())
            .max();
        let newest = newest.copied();
        let is_of_it = |at: &usize| self.nodes[*at].branches.last().copied() == newest;
        let same: Vec<_> = all.iter().copied().filter(is_of_it).collect();
        let candidates = if same.is_empty() { all } else { same };
        let rank = |at: &&usize| {
            let node = &self.nodes[**at];
            (node.monitor.high_prepared(), node.high())
        };
        let Some(best) = candidates.iter().max_by_key(rank).copied() else {
            return;
        };
        self.failovers += 1;
        self.judge_failover(best, &candidates);
        self.promote(best);
    }

    /// Invariant 11: what a client was told of is there.
    fn judge_failover(&mut self, best: usize, candidates: &[usize]) {
        for (id, client) in &mut self.clients {
            if client.is_excused || !client.answers.contains(&Answer::Success) {
                continue;
            }
            let said = self.held.get(id);
            let holds = |at: &&usize| {
                self.nodes[**at].has(client, *id) && said.is_some_and(|held| held.contains(*at))
            };
            if candidates.iter().any(|at| holds(&at)) {
                self.promises_judged += 1;
                if !self.nodes[best].has(client, *id) {
                    let what = format!("11: {client:?} is gone with the failover to node {best}");
                    self.faults.push(what);
                }
            } else {
                // Its holders went one after the other: more than one failover.
                client.is_excused = true;
            }
        }
    }

    pub(in crate::durability) fn set_topology(&mut self, chains: Option<Chains>) {
        let Some(at) = self.active else { return };
        self.catch_up(at);
        self.judge_decisions();
        let node = &mut self.nodes[at];
        node.ledger.set_chains(chains.as_ref());
        node.topology.clone_from(&chains);
        node.monitor_mut().set_chains(chains);
        node.note_high();
    }

    /// Whoever drove the monitor panicked.
    pub(in crate::durability) fn make_monitor_anew(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !node.is_up {
            return;
        }
        if self.active == Some(at) {
            self.judged.clear();
        }
        let node = &mut self.nodes[at];
        let completed = node.monitor.high_completed();
        let prepares = node.pending_prepares();
        let orphans = node.ledger.complete_all_but(&prepares);
        node.rebuild_monitor(prepares, completed);
        node.note_high();
        self.answer(orphans, Answer::Ambiguous);
        self.acknowledge_due(at);
    }
}

impl Node {
    pub(super) fn monitor_mut(&mut self) -> &mut ActiveMonitor {
        match &mut self.monitor {
            Monitor::Active(active) => active,
            other @ (Monitor::Passive(_) | Monitor::Dead(_)) => panic!("{other:?} is not active"),
        }
    }
}
