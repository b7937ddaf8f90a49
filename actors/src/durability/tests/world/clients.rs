//! What clients do with the active, and what becomes of what they asked.

use super::*;

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::durability) enum Answer {
    Success,
    Ambiguous,
    CollectionGone,
    /// Its connection broke.
    Lost,
}

/// A durable write that was accepted.
#[derive(Clone, Debug)]
pub(in crate::durability) struct Client {
    pub(in crate::durability) key: DocumentKey,
    pub(in crate::durability) level: DurabilityLevel,
    pub(in crate::durability) prepare: Seqno,
    pub(in crate::durability) answers: Vec<Answer>,
    /// Its collection ended, or a fault no durability survives came upon it.
    pub(in crate::durability) is_excused: bool,
}

impl World {
    pub(in crate::durability) fn answer(&mut self, ids: Vec<WriteId>, answer: Answer) {
        for id in ids {
            self.clients.get_mut(&id).unwrap().answers.push(answer);
        }
    }

    /// A durable write, if it is accepted.
    pub(in crate::durability) fn write(&mut self, level: DurabilityLevel) {
        let key = self.some_key();
        let deadline = self.now + Duration::from_millis(1 + self.random.below(60));
        let Some(at) = self.active else { return };
        let node = &self.nodes[at];
        let is_possible = |chains: &Chains| chains.is_possible(REQUIREMENTS);
        // Without a topology, or with one that cannot: nothing is accepted.
        if !node.topology.as_ref().is_some_and(is_possible) || node.pending_of(&key).is_some() {
            return;
        }
        self.leave_ended_life(at, &key);
        let id = self.id();
        let node = &mut self.nodes[at];
        let seqno = node.high().next();
        let operation = Operation::Prepare(level);
        node.enter(Item::new(seqno, key.clone(), operation, id));
        node.ledger.park(seqno, Some(deadline), id);
        let prepare = Prepare {
            seqno,
            key: key.clone(),
            level,
        };
        node.unread.push((prepare, Some(deadline)));
        let client = Client {
            key,
            level,
            prepare: seqno,
            answers: Vec::new(),
            is_excused: false,
        };
        self.clients.insert(id, client);
    }

    pub(in crate::durability) fn write_plain(&mut self) {
        let key = self.some_key();
        let Some(at) = self.active else { return };
        if self.nodes[at].pending_of(&key).is_some() {
            return;
        }
        self.leave_ended_life(at, &key);
        let id = self.id();
        let node = &mut self.nodes[at];
        let seqno = node.high().next();
        node.enter(Item::new(seqno, key, Operation::Mutation, id));
    }

    /// A write comes upon the prepare of a life that is over: nobody will ask for that any more.
    fn leave_ended_life(&mut self, at: usize, key: &DocumentKey) {
        if let Some(pending) = self.nodes[at].take_ended_pending(key) {
            let reply = self.nodes[at].ledger.complete(pending.seqno);
            self.answer(reply.into_iter().collect(), Answer::CollectionGone);
        }
    }

    pub(in crate::durability) fn read(&mut self) {
        let key = self.some_key();
        let Some(at) = self.active else { return };
        if let Some(pending) = self.nodes[at].pending_of(&key) {
            self.reads_refused += u64::from(pending.is_maybe_visible);
        }
    }

    /// The collection ends, and begins anew.
    pub(in crate::durability) fn drop_collection(&mut self) {
        let Some(at) = self.active else { return };
        self.catch_up(at);
        let id = self.id();
        let node = &mut self.nodes[at];
        let seqno = node.high().next();
        let key = DocumentKey::new(COLLECTION, b"end").unwrap();
        node.enter(Item::new(seqno, key, Operation::End, id));
        node.monitor.note_collection_dropped(COLLECTION, seqno);
        for client in self.clients.values_mut() {
            client.is_excused |= client.key.collection() == COLLECTION;
        }
    }

    /// The monitor reads what is new in the log.
    pub(in crate::durability) fn catch_up(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let unread = std::mem::take(&mut node.unread);
        if let Monitor::Active(active) = &mut node.monitor {
            for (prepare, deadline) in unread {
                active.track(prepare, deadline).unwrap();
            }
        }
        node.note_high();
    }

    pub(in crate::durability) fn pass_time(&mut self) {
        self.now += Duration::from_millis(self.random.below(20));
        let Some(at) = self.active else { return };
        let Monitor::Active(active) = &mut self.nodes[at].monitor else {
            return;
        };
        let overdue = active.tick(self.now);
        for seqno in overdue {
            let reply = self.nodes[at].ledger.answer_early(seqno);
            self.answer(reply.into_iter().collect(), Answer::Ambiguous);
        }
    }

    /// Does some of what is decided.
    pub(in crate::durability) fn drain(&mut self, most: usize) {
        for _ in 0..most {
            self.judge_decisions();
            if !self.drain_one() {
                return;
            }
        }
    }

    fn drain_one(&mut self) -> bool {
        let panics = self.random.chance(20);
        let Some(at) = self.active else { return false };
        let node = &mut self.nodes[at];
        let Monitor::Active(active) = &mut node.monitor else {
            return false;
        };
        let Some(decision) = active.next_decision().cloned() else {
            return false;
        };
        let Prepare { seqno, key, .. } = decision.prepare().clone();
        if node.is_of_ended_life(&key, seqno) {
            node.monitor_mut()
                .settle(seqno, Settled::CollectionGone)
                .unwrap();
            node.note_high();
            let reply = node.ledger.complete(seqno);
            self.answer(reply.into_iter().collect(), Answer::CollectionGone);
            return true;
        }
        let Some(pending) = node
            .pending
            .get(&key)
            .copied()
            .filter(|one| one.seqno == seqno)
        else {
            self.fault(format!("decided prepare {seqno} is not pending"));
            return false;
        };
        let id = pending.id;
        let next = node.high().next();
        let (operation, settled, answer) = match decision.verdict() {
            Verdict::Commit { .. } => (
                Operation::Commit(seqno),
                Settled::Committed,
                Answer::Success,
            ),
            Verdict::Abort => (Operation::Abort(seqno), Settled::Aborted, Answer::Ambiguous),
        };
        node.enter(Item::new(next, key, operation, id));
        if panics {
            // The commit is in the log; whoever was to say so is gone.
            self.judged.remove(&seqno);
            self.make_monitor_anew(at);
            return true;
        }
        node.monitor_mut().settle(seqno, settled).unwrap();
        node.note_high();
        let reply = node.ledger.complete(seqno);
        self.answer(reply.into_iter().collect(), answer);
        true
    }

    /// Judges what was decided since this was last called, under the topology it was decided with.
    pub(in crate::durability) fn judge_decisions(&mut self) {
        let Some(at) = self.active else { return };
        let Monitor::Active(active) = &self.nodes[at].monitor else {
            return;
        };
        let decisions: Vec<_> = active.decisions().cloned().collect();
        let mut judged = BTreeSet::new();
        for decision in decisions {
            let Prepare { seqno, key, level } = decision.prepare().clone();
            judged.insert(seqno);
            let is_commit = decision.verdict() != Verdict::Abort;
            let is_live = !self.nodes[at].is_of_ended_life(&key, seqno);
            if is_commit && is_live && !self.judged.contains(&seqno) {
                let pending = self.nodes[at].pending.get(&key);
                match pending.filter(|one| one.seqno == seqno).map(|one| one.id) {
                    Some(id) => self.judge_commit(at, id, seqno, level),
                    None => self.fault(format!("decided prepare {seqno} is not pending")),
                }
            }
        }
        self.judged = judged;
    }

    /// Invariant 10: enough nodes of each chain hold it, and the active as strongly as it must.
    fn judge_commit(&mut self, at: usize, id: WriteId, seqno: Seqno, level: DurabilityLevel) {
        self.commits_judged += 1;
        let node = &self.nodes[at];
        if level != Majority && node.persisted < seqno {
            self.fault(format!(
                "10: {seqno} is committed and not on the active's disk"
            ));
        }
        let node = &self.nodes[at];
        let chains = node.topology.clone().unwrap();
        for chain in chains.iter() {
            let holds = |name: &&NodeName| {
                let of = self
                    .nodes
                    .iter()
                    .position(|node| node.name == **name)
                    .unwrap();
                of == at || self.held.get(&id).is_some_and(|held| held.contains(&of))
            };
            let held = chain.nodes().iter().filter(holds).count();
            let first = chain.nodes().iter().take(1).filter(holds).count();
            if held < chain.majority() || first == 0 {
                let what = format!("10: {seqno} is committed, held by {held} of {chain:?}");
                self.faults.push(what);
            }
        }
    }
}
