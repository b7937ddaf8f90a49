//! A stream from the active to a node, and its acknowledgements back. It loses nothing but what is under way when it ends.

use super::node::Receiving;
use super::*;

#[derive(Clone, Debug)]
pub(in crate::durability) enum Message {
    Marker {
        start: Seqno,
        end: Seqno,
        kind: SnapshotKind,
        completed: Seqno,
        prepared: Option<Seqno>,
    },
    Item(Item),
}

#[derive(Clone, Debug)]
pub(in crate::durability) struct Link {
    pub(in crate::durability) under_way: Vec<Message>,
    pub(in crate::durability) acks: Vec<Seqno>,
    sent: Seqno,
    /// It began in the middle of a disk snapshot that ended here: what comes first is one, and reaches as far.
    disk_to: Seqno,
    is_first: bool,
    acknowledger: Acknowledger,
}

impl World {
    pub(in crate::durability) fn connect(&mut self, to: usize) {
        let Some(from) = self.active else { return };
        let replica = &self.nodes[to];
        let is_replica = matches!(replica.state, VbucketState::Replica | VbucketState::Pending);
        if from == to || !replica.is_up || !is_replica || self.links[to].is_some() {
            return;
        }
        let replica = &mut self.nodes[to];
        let high = replica.high();
        // A snapshot of which nothing came was never begun.
        replica.receiving.take_if(|one| high <= one.start);
        self.roll_back_to_common(from, to);
        let branches = self.nodes[from].branches.clone();
        let replica = &mut self.nodes[to];
        replica.branches = branches;
        let partial = replica.receiving.clone();
        let from_disk = partial.filter(|one| one.kind == SnapshotKind::Disk);
        let mut acknowledger = Acknowledger::default();
        let high = replica.monitor.high_prepared();
        replica.acknowledged = Seqno::ZERO;
        let first = acknowledger.due(high);
        self.links[to] = Some(Link {
            under_way: Vec::new(),
            acks: Vec::new(),
            sent: self.nodes[to].high(),
            disk_to: from_disk.map_or(Seqno::ZERO, |one| one.end),
            is_first: true,
            acknowledger,
        });
        if let Some(seqno) = first {
            self.acknowledge(to, seqno);
        }
    }

    /// The replica goes back to what it has in common with the active.
    fn roll_back_to_common(&mut self, from: usize, to: usize) {
        let (active, replica) = (&self.nodes[from], &self.nodes[to]);
        if replica.high() == Seqno::ZERO {
            return;
        }
        let after = |branches: &[(u64, Seqno)], uuid| {
            let at = branches.iter().position(|(one, _)| *one == uuid)?;
            Some(branches.get(at + 1).map(|(_, start)| *start))
        };
        let newest = replica.branches.iter().rev();
        let mut common = newest.filter_map(|(uuid, _)| {
            let of_active = after(&active.branches, *uuid)?;
            let of_replica = after(&replica.branches, *uuid)?;
            Some([of_active, of_replica].into_iter().flatten().min())
        });
        let upper = match common.next() {
            Some(Some(start)) => start,
            Some(None) => active.high(),
            None => Seqno::ZERO,
        };
        let partial = replica.receiving.as_ref().map(|one| (one.start, one.end));
        let (start, end) = partial.unwrap_or((replica.high(), replica.high()));
        if replica.high() > upper || end > upper {
            self.roll_back(to, upper.min(start));
        }
    }

    pub(in crate::durability) fn cut(&mut self, to: usize) {
        if self.links[to].take().is_none() {
            return;
        }
        let name = self.nodes[to].name.clone();
        let Some(at) = self.active else { return };
        let node = &mut self.nodes[at];
        let chains = node.topology.clone();
        node.ledger.end_stream(&name, chains.as_ref());
        if let Monitor::Active(active) = &mut node.monitor {
            active.end_stream(&name);
        }
    }

    /// The active sends some more.
    pub(in crate::durability) fn produce(&mut self, to: usize, is_lagging: bool, most: usize) {
        let (Some(at), Some(link)) = (self.active, &mut self.links[to]) else {
            return;
        };
        let node = &self.nodes[at];
        if link.sent >= node.high() && link.disk_to <= link.sent {
            return;
        }
        let must_be_disk = link.disk_to > link.sent || link.sent < node.floor;
        let can_be_disk = node.persisted > link.sent
            && node.persisted >= link.disk_to
            && node.persisted >= node.floor;
        let sent = if must_be_disk || (is_lagging && can_be_disk) {
            if !can_be_disk {
                return;
            }
            node.disk_snapshot(link.sent, self.random.chance(500))
        } else {
            node.memory_snapshot(link.sent, most)
        };
        let Some(Message::Marker { end, .. }) = sent.first() else {
            return;
        };
        link.sent = *end;
        link.under_way.extend(sent);
    }

    /// The replica takes in some of it.
    pub(in crate::durability) fn consume(&mut self, to: usize, most: usize) {
        for _ in 0..most {
            let Some(link) = &mut self.links[to] else {
                return;
            };
            if link.under_way.is_empty() {
                return;
            }
            let message = link.under_way.remove(0);
            if let Err(error) = self.take_in(to, message) {
                self.fault(format!("node {to} refused what the active sent: {error}"));
                return self.cut(to);
            }
            self.acknowledge_due(to);
        }
    }

    fn take_in(&mut self, to: usize, message: Message) -> Result<(), String> {
        let node = &mut self.nodes[to];
        let Monitor::Passive(passive) = &mut node.monitor else {
            return Err(format!("it is {:?}", node.state));
        };
        match message {
            Message::Marker {
                start,
                end,
                kind,
                completed,
                prepared,
            } => {
                // One that was given up in its middle goes on in this: what is whole ends before both (MB-35003).
                let before = node.receiving.as_ref().map(|one| one.start);
                let start = before.unwrap_or(start);
                node.receiving = Some(Receiving {
                    start,
                    end,
                    kind,
                    completed,
                    prepared,
                    window: passive.last_tracked(),
                    had_prepare: false,
                });
                Ok(())
            }
            Message::Item(item) => {
                let seqno = item.seqno;
                node.take_in(item)?;
                let link = self.links[to].as_mut().unwrap();
                let receiving = node.receiving.clone().unwrap();
                if receiving.end == seqno {
                    node.finish_snapshot(&receiving, link.is_first)?;
                    link.is_first = false;
                }
                Ok(())
            }
        }
    }

    pub(in crate::durability) fn acknowledge_due(&mut self, to: usize) {
        let high = self.nodes[to].monitor.high_prepared();
        let Some(link) = &mut self.links[to] else {
            return;
        };
        if let Some(seqno) = link.acknowledger.due(high) {
            self.acknowledge(to, seqno);
        }
    }

    fn acknowledge(&mut self, to: usize, seqno: Seqno) {
        let node = &mut self.nodes[to];
        if seqno <= node.acknowledged {
            self.fault(format!(
                "16: node {to} said {seqno} after {}",
                self.nodes[to].acknowledged
            ));
        }
        let node = &mut self.nodes[to];
        node.acknowledged = seqno;
        self.judge_acknowledgement(to, seqno);
        self.links[to].as_mut().unwrap().acks.push(seqno);
    }

    /// Whoever acknowledges holds what the active waits for, and what was committed before.
    fn judge_acknowledgement(&mut self, to: usize, seqno: Seqno) {
        let active = &self.nodes[self.active.unwrap()];
        let replica = &self.nodes[to];
        let mut faults = Vec::new();
        for item in active.log.iter().filter(|item| item.seqno <= seqno) {
            let Some(client) = self.clients.get(&item.id) else {
                continue;
            };
            let is_strong = client.level != PersistToMajority || replica.persisted >= item.seqno;
            let pending = active.pending_of(&item.key);
            let is_open = pending.is_some_and(|one| one.seqno == item.seqno);
            if replica.has(client, item.id) && is_strong {
                self.held.entry(item.id).or_default().insert(to);
            } else if is_open {
                faults.push(format!(
                    "10: node {to} said {seqno} and does not hold {}",
                    item.seqno
                ));
            }
        }
        self.faults.extend(faults);
    }

    pub(in crate::durability) fn deliver_acks(&mut self, from: usize, most: usize) {
        let (Some(at), Some(link)) = (self.active, &mut self.links[from]) else {
            return;
        };
        let name = self.nodes[from].name.clone();
        let most = most.min(link.acks.len());
        for seqno in link.acks.drain(..most) {
            let node = &mut self.nodes[at];
            node.ledger.acknowledge(&name, seqno);
            node.monitor.acknowledge(&name, seqno);
        }
    }

    /// What was said before is said again, late or twice; and somebody nobody knows says something.
    pub(in crate::durability) fn stray_ack(&mut self) {
        let Some(at) = self.active else { return };
        let from = self.pick(self.nodes.len());
        if from == at || self.links[from].is_none() {
            return;
        }
        let link = self.links[from].as_ref().unwrap();
        let delivered = self.nodes[from].acknowledged.0 - u64::from(!link.acks.is_empty());
        if link.acks.is_empty() {
            let seqno = Seqno(self.random.below(delivered + 1));
            let name = self.nodes[from].name.clone();
            self.nodes[at].monitor.acknowledge(&name, seqno);
            self.nodes[at].ledger.acknowledge(&name, seqno);
        }
        let stranger = node("nobody");
        self.nodes[at]
            .monitor
            .acknowledge(&stranger, Seqno(self.random.below(100)));
    }
}

impl Node {
    /// What lies on disk above `from`: the newest of each slot, commits as what they made of the document.
    fn disk_snapshot(&self, from: Seqno, names_prepared: bool) -> Vec<Message> {
        let record = self.record();
        let above = |item: &&Item| item.seqno > from && item.seqno <= self.persisted;
        let mut newest = BTreeMap::new();
        for item in self.log.iter().filter(above) {
            newest.insert(item.slot(), item.clone());
        }
        let is_outstanding = |item: &Item| {
            !matches!(item.operation, Operation::Prepare(_)) || item.seqno > record.completed
        };
        let mut items: Vec<_> = newest.into_values().filter(is_outstanding).collect();
        items.sort_by_key(|item| item.seqno);
        let Some(end) = items.last().map(|item| item.seqno) else {
            return Vec::new();
        };
        let prepared = record.high_prepared.max(record.prepared).min(end);
        let marker = Message::Marker {
            start: from,
            end,
            kind: SnapshotKind::Disk,
            completed: record.completed,
            prepared: names_prepared.then_some(prepared),
        };
        let as_sent = |mut item: Item| {
            if matches!(item.operation, Operation::Commit(_)) {
                item.operation = Operation::Mutation;
            }
            item.is_from_disk = true;
            Message::Item(item)
        };
        let items = items.into_iter().map(as_sent);
        std::iter::once(marker).chain(items).collect()
    }

    fn memory_snapshot(&self, from: Seqno, most: usize) -> Vec<Message> {
        let mut slots = BTreeSet::new();
        let above = self.log.iter().filter(|item| item.seqno > from);
        let items: Vec<_> = above
            .take_while(|item| slots.insert(item.slot()))
            .take(most)
            .collect();
        let Some(end) = items.last().map(|item| item.seqno) else {
            return Vec::new();
        };
        let marker = Message::Marker {
            start: from,
            end,
            kind: SnapshotKind::Memory,
            completed: Seqno::ZERO,
            prepared: None,
        };
        let as_sent = |item: &Item| Item {
            is_from_disk: false,
            ..item.clone()
        };
        let items = items.into_iter().map(|item| Message::Item(as_sent(item)));
        std::iter::once(marker).chain(items).collect()
    }

    fn take_in(&mut self, item: Item) -> Result<(), String> {
        let receiving = self.receiving.as_mut().ok_or("an item without a marker")?;
        let is_disk = receiving.kind == SnapshotKind::Disk;
        let window = receiving.window;
        receiving.had_prepare |= matches!(item.operation, Operation::Prepare(_));
        let pending = self.pending_of(&item.key);
        let Monitor::Passive(passive) = &mut self.monitor else {
            return Err("it is no replica".to_owned());
        };
        let said = |error: PassiveError| error.to_string();
        match (item.operation, pending) {
            (Operation::Prepare(level), _) => {
                let replaces = pending.filter(|one| is_disk && one.seqno <= window);
                let prepare = Prepare {
                    seqno: item.seqno,
                    key: item.key.clone(),
                    level,
                };
                passive
                    .prepare(prepare, replaces.map(|one| one.seqno))
                    .map_err(said)?;
            }
            (Operation::Commit(of), Some(pending)) if pending.seqno == of => {
                let order = CompletionOrder::Ordered(of);
                passive
                    .complete(&item.key, Completion::Commit, order)
                    .map_err(said)?;
            }
            (Operation::Abort(of), Some(pending)) if !is_disk && pending.seqno == of => {
                let order = CompletionOrder::Ordered(of);
                passive
                    .complete(&item.key, Completion::Abort, order)
                    .map_err(said)?;
            }
            (Operation::Abort(_), _) if is_disk => {
                let order = CompletionOrder::Unordered;
                passive
                    .complete(&item.key, Completion::Abort, order)
                    .map_err(said)?;
            }
            (Operation::Mutation, Some(_)) if is_disk => {
                let order = CompletionOrder::Unordered;
                passive
                    .complete(&item.key, Completion::Commit, order)
                    .map_err(said)?;
            }
            (Operation::Mutation, None) => {}
            (Operation::End, _) => passive.note_collection_dropped(COLLECTION, item.seqno),
            (operation, pending) => {
                return Err(format!("{operation:?} of a key with {pending:?}"));
            }
        }
        self.enter(item);
        Ok(())
    }

    fn finish_snapshot(&mut self, receiving: &Receiving, is_first: bool) -> Result<(), String> {
        let Receiving {
            start,
            end,
            kind,
            completed,
            prepared,
            had_prepare,
            ..
        } = *receiving;
        let whole = match kind {
            SnapshotKind::Memory => SnapshotEnd::memory(end),
            SnapshotKind::Disk => SnapshotEnd::disk((start, end), prepared, completed)
                .map_err(|error| error.to_string())?,
        };
        self.receiving = None;
        self.whole.push((whole, completed));
        if kind == SnapshotKind::Disk {
            self.floor = end;
        }
        let Monitor::Passive(passive) = &mut self.monitor else {
            return Err("it is no replica".to_owned());
        };
        if had_prepare || is_first || kind == SnapshotKind::Disk {
            passive.snapshot_end(whole);
        }
        self.note_high();
        Ok(())
    }
}
