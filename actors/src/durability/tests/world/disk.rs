//! A node's disk: what is flushed, what a warmup finds, what a rollback and a compaction leave.

use super::node::Receiving;
use super::*;

impl World {
    /// Some of what is in memory goes to disk; the monitor may be told later.
    pub(in crate::durability) fn flush(&mut self, at: usize) {
        let (to, is_told) = (self.random.below(8), self.random.chance(700));
        let node = &mut self.nodes[at];
        if !node.is_up {
            return;
        }
        let to = Seqno((node.persisted.0 + 1 + to).min(node.high().0));
        if to > node.persisted {
            node.flush_to(to);
        }
        if is_told {
            self.tell_flushed(at);
        }
    }

    pub(in crate::durability) fn tell_flushed(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !node.is_up {
            return;
        }
        node.monitor.note_persisted(node.persisted);
        node.note_high();
        self.acknowledge_due(at);
    }

    /// The node goes, and with it all that is not on its disk.
    pub(in crate::durability) fn crash(&mut self, at: usize) {
        self.leave_role(at, Answer::Lost);
        let node = &mut self.nodes[at];
        node.is_up = false;
        node.state = VbucketState::Dead;
        node.lose_memory();
        self.excuse_lost_writes();
    }

    /// It comes back as what it was not: a replica.
    pub(in crate::durability) fn restart(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.is_up {
            return;
        }
        node.is_up = true;
        node.state = VbucketState::Replica;
        self.warm_up(at);
    }

    /// The active goes and comes back as the active, which it never ceased to be.
    pub(in crate::durability) fn restart_active(&mut self) {
        let Some(at) = self.active else { return };
        let topology = self.nodes[at].topology.clone();
        self.crash(at);
        self.nodes[at].is_up = true;
        let uuid = self.id();
        let node = &mut self.nodes[at];
        let whole = node.newest_whole(node.high());
        node.begin_branch(uuid, whole);
        node.state = VbucketState::Active;
        node.own_from = node.high();
        node.receiving = None;
        node.topology = topology;
        self.active = Some(at);
        self.held.clear();
        self.judged.clear();
        self.warm_up(at);
    }

    fn warm_up(&mut self, at: usize) {
        self.warmups_judged += 1;
        let node = &mut self.nodes[at];
        let record = node.record();
        let high = node.high();
        let by_watermark = node.outstanding(high, record.completed);
        let by_sight = node.outstanding(high, Seqno::ZERO);
        let is_live = |one: &&Prepare| !node.is_of_ended_life(&one.key, one.seqno);
        let (one, other): (Vec<_>, Vec<_>) = (
            by_watermark.iter().filter(is_live).collect(),
            by_sight.iter().filter(is_live).collect(),
        );
        if one != other {
            let what = format!("23: node {at} loads {one:?}, but {other:?} is outstanding");
            self.faults.push(what);
        }
        let before = self.nodes[at].acknowledged;
        let node = &mut self.nodes[at];
        node.load(&by_watermark);
        let (prepared, whole) = (node.monitor.high_prepared(), node.newest_whole(node.high()));
        // Whoever said so, and had it whole on disk, says so again (MB-51639, MB-51806).
        if before <= whole && prepared < before {
            self.fault(format!(
                "25: node {at} had said {before}, and says {prepared}"
            ));
        }
    }

    /// A replica goes back to the last whole snapshot on its disk at or below `target`.
    pub(in crate::durability) fn roll_back(&mut self, at: usize, target: Seqno) {
        self.rollbacks += 1;
        let node = &mut self.nodes[at];
        let to = node.newest_whole(target.min(node.persisted));
        // What was erased does not come back: below it there is nothing to go back to.
        let to = if to < node.history_floor {
            Seqno::ZERO
        } else {
            to
        };
        if to == Seqno::ZERO {
            node.history_floor = to;
        }
        node.log.retain(|item| item.seqno <= to);
        node.whole.retain(|(end, _)| end.seqno <= to);
        node.ended.retain(|end| *end <= to);
        node.records.retain(|(end, _)| *end <= to);
        node.branches.retain(|(_, start)| *start <= to);
        node.receiving = None;
        node.went_back = true;
        node.own_from = node.own_from.min(to);
        node.persisted = node.records.last().map_or(Seqno::ZERO, |(end, _)| *end);
        if to > node.persisted {
            node.ledger.roll_back(Seqno::ZERO);
            // The items between the last batch that is whole and there are on disk: as if flushed at once.
            let outstanding = node.outstanding(node.persisted, node.record().completed);
            node.load(&outstanding);
            node.flush_to(to);
        }
        let record = node.record();
        node.floor = to;
        node.ledger.roll_back(record.high_prepared);
        let outstanding = node.outstanding(to, record.completed);
        node.load(&outstanding);
        self.excuse_lost_writes();
    }

    /// What can no longer be found anywhere was on too few disks: no promise covers that.
    fn excuse_lost_writes(&mut self) {
        for (id, client) in &mut self.clients {
            let is_there = self.nodes.iter().any(|node| node.has(client, *id));
            client.is_excused |= !is_there && client.level != PersistToMajority;
        }
    }

    /// What is left of ended lives goes, or, when the pass over the prepares fails, stays all of it.
    pub(in crate::durability) fn compact(&mut self, at: usize, fails: bool) {
        if self.active == Some(at) {
            self.catch_up(at);
        }
        let node = &mut self.nodes[at];
        let ends = node.ended.iter().filter(|end| **end <= node.persisted);
        let Some(end) = ends.copied().max().filter(|_| node.is_up) else {
            return;
        };
        let is_old = |item: &Item| item.key.collection() == COLLECTION && item.seqno < end;
        let is_prepare = |item: &Item| matches!(item.operation, Operation::Prepare(_));
        let items = node.log.iter();
        let found = items.filter(|item| is_old(item) && is_prepare(item));
        let found: Vec<Item> = found.cloned().collect();
        let completed = node.record().completed;
        // A run that fails erased some prepares, and left the rest and the list as they were.
        let done = if fails { found.len() / 2 } else { found.len() };
        let mut gone: BTreeSet<Seqno> = BTreeSet::new();
        for item in found.iter().take(done) {
            gone.insert(item.seqno);
            if item.seqno > completed {
                node.monitor.erase(&item.key, item.seqno);
                // A run that comes again finds nothing.
                assert!(!node.monitor.erase(&item.key, item.seqno));
            }
        }
        let last = node.high();
        if fails {
            self.failed_compactions += 1;
            node.log
                .retain(|item| !gone.contains(&item.seqno) || item.seqno == last);
            node.pending.retain(|_, one| !gone.contains(&one.seqno));
        } else {
            self.erasures += 1;
            // An active decides in its turn what its store took for over; of others memory is rid of all of it.
            if !matches!(node.monitor, Monitor::Active(_)) {
                for item in &found {
                    node.monitor.erase(&item.key, item.seqno);
                }
            }
            node.log.retain(|item| !is_old(item) || item.seqno == last);
            node.pending
                .retain(|key, one| key.collection() != COLLECTION || one.seqno >= end);
            node.ended.retain(|one| *one > end);
        }
        node.note_high();
        node.floor = node.floor.max(end);
        node.history_floor = node.history_floor.max(end);
        let replies = gone
            .into_iter()
            .filter_map(|seqno| node.ledger.complete(seqno));
        let replies = replies.collect();
        self.answer(replies, Answer::Ambiguous);
    }
}

impl Node {
    /// One batch; its state record says how far the vbucket has come with it.
    fn flush_to(&mut self, to: Seqno) {
        let mut record = self.record();
        for item in self
            .log
            .iter()
            .filter(|item| item.seqno > self.persisted && item.seqno <= to)
        {
            match item.operation {
                Operation::Prepare(_) => record.prepared = record.prepared.max(item.seqno),
                Operation::Commit(of) | Operation::Abort(of) if !item.is_from_disk => {
                    record.completed = record.completed.max(of);
                }
                Operation::Commit(_)
                | Operation::Abort(_)
                | Operation::Mutation
                | Operation::End => {}
            }
        }
        for (end, completed) in &self.whole {
            if end.seqno > self.persisted && end.seqno <= to {
                record.completed = record.completed.max(*completed);
            }
        }
        let whole = self.newest_whole(to);
        let mut after = self.monitor.clone();
        after.note_persisted(to);
        let high = after.high_prepared();
        let items = self.log.iter().filter(|item| {
            matches!(item.operation, Operation::Prepare(_)) && item.seqno <= whole.min(high)
        });
        let last = items.map(|item| item.seqno).max().unwrap_or_default();
        let covered = if high <= whole { high } else { last };
        record.high_prepared = record.high_prepared.max(covered);
        self.persisted = to;
        self.records.push((to, record));
        self.ledger.raise_high_prepared(record.high_prepared);
    }

    /// Snapshots that came whole: above what, to where, from where.
    fn whole_ranges(&self) -> Vec<(Seqno, Seqno, SnapshotKind)> {
        let starts =
            std::iter::once(Seqno::ZERO).chain(self.whole.iter().map(|(end, _)| end.seqno));
        let ends = self.whole.iter();
        starts
            .zip(ends)
            .map(|(start, (end, _))| (start, end.seqno, end.kind))
            .collect()
    }

    fn lose_memory(&mut self) {
        let persisted = self.persisted;
        let ranges = self.whole_ranges();
        let inside = ranges
            .iter()
            .find(|(start, end, _)| *start < persisted && persisted < *end);
        let inside = inside.copied();
        if let Some((start, end, kind)) = inside {
            self.receiving = Some(Receiving {
                start,
                end,
                kind,
                completed: Seqno::ZERO,
                prepared: None,
                window: Seqno::ZERO,
                had_prepare: false,
            });
        } else if self
            .receiving
            .as_ref()
            .is_some_and(|one| persisted <= one.start)
        {
            self.receiving = None;
        }
        self.log.retain(|item| item.seqno <= persisted);
        self.whole.retain(|(end, _)| end.seqno <= persisted);
        self.ended.retain(|end| *end <= persisted);
        self.unread.clear();
        self.own_from = self.own_from.min(persisted);
        self.ledger = Ledger::default();
        self.floor = persisted;
        self.went_back = true;
    }

    /// Memory and monitor from the disk.
    fn load(&mut self, outstanding: &[Prepare]) {
        self.pending.clear();
        for prepare in outstanding {
            let mut items = self.log.iter();
            let id = items
                .find(|item| item.seqno == prepare.seqno)
                .map_or(0, |item| item.id);
            let (seqno, is_maybe_visible) = (prepare.seqno, true);
            let pending = Pending {
                seqno,
                id,
                is_maybe_visible,
            };
            self.pending.insert(prepare.key.clone(), pending);
        }
        self.acknowledged = Seqno::ZERO;
        self.went_back = true;
        let completed = self.record().completed;
        self.rebuild_monitor(outstanding.to_vec(), completed);
        self.note_high();
    }

    /// The ledger learns how far the monitor is.
    pub(in crate::durability) fn note_high(&mut self) {
        self.ledger
            .raise_high_prepared(self.monitor.high_prepared());
    }
}
