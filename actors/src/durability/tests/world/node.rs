//! A node: its vbucket's items in memory, what it serves, and its monitor with the ledger.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::durability) enum Operation {
    Prepare(DurabilityLevel),
    Commit(Seqno),
    Abort(Seqno),
    Mutation,
    /// The collection ends and begins anew.
    End,
}

/// An item of the vbucket's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::durability) struct Item {
    pub(in crate::durability) seqno: Seqno,
    pub(in crate::durability) key: DocumentKey,
    pub(in crate::durability) operation: Operation,
    /// Whose write it is.
    pub(in crate::durability) id: WriteId,
    /// It came with a disk snapshot.
    pub(in crate::durability) is_from_disk: bool,
}

impl Item {
    pub(in crate::durability) fn new(
        seqno: Seqno,
        key: DocumentKey,
        operation: Operation,
        id: WriteId,
    ) -> Item {
        Item {
            seqno,
            key,
            operation,
            id,
            is_from_disk: false,
        }
    }

    /// Which of a key's slots it fills.
    pub(in crate::durability) fn slot(&self) -> (u8, DocumentKey) {
        let namespace = match self.operation {
            Operation::Commit(_) | Operation::Mutation => 0,
            Operation::Prepare(_) | Operation::Abort(_) => 1,
            Operation::End => 2,
        };
        (namespace, self.key.clone())
    }
}

/// A prepare as the document map has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::durability) struct Pending {
    pub(in crate::durability) seqno: Seqno,
    pub(in crate::durability) id: WriteId,
    pub(in crate::durability) is_maybe_visible: bool,
}

/// What the state record on disk says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::durability) struct Record {
    pub(in crate::durability) prepared: Seqno,
    pub(in crate::durability) completed: Seqno,
    pub(in crate::durability) high_prepared: Seqno,
}

/// A snapshot that is being received.
#[derive(Clone, Debug)]
pub(in crate::durability) struct Receiving {
    pub(in crate::durability) start: Seqno,
    pub(in crate::durability) end: Seqno,
    pub(in crate::durability) kind: SnapshotKind,
    pub(in crate::durability) completed: Seqno,
    pub(in crate::durability) prepared: Option<Seqno>,
    /// Prepares up to here may be replaced.
    pub(in crate::durability) window: Seqno,
    pub(in crate::durability) had_prepare: bool,
}

#[derive(Clone, Debug)]
pub(in crate::durability) struct Node {
    pub(in crate::durability) name: NodeName,
    pub(in crate::durability) is_up: bool,
    pub(in crate::durability) state: VbucketState,
    pub(in crate::durability) monitor: Monitor,
    pub(in crate::durability) ledger: Ledger<WriteId>,
    pub(in crate::durability) topology: Option<Chains>,
    pub(in crate::durability) log: Vec<Item>,
    /// Snapshots that came whole, rising, with what their markers said.
    pub(in crate::durability) whole: Vec<(SnapshotEnd, Seqno)>,
    pub(in crate::durability) receiving: Option<Receiving>,
    /// Items at or below are no longer in memory as they were written.
    pub(in crate::durability) floor: Seqno,
    /// It cannot go back below this, but to nothing.
    pub(in crate::durability) history_floor: Seqno,
    pub(in crate::durability) pending: BTreeMap<DocumentKey, Pending>,
    pub(in crate::durability) branches: Vec<(u64, Seqno)>,
    /// Since when it writes itself.
    pub(in crate::durability) own_from: Seqno,
    /// Ends of lives of the collection that are not erased.
    pub(in crate::durability) ended: Vec<Seqno>,
    pub(in crate::durability) persisted: Seqno,
    pub(in crate::durability) records: Vec<(Seqno, Record)>,
    /// Prepares in the log that the monitor has not read yet.
    pub(in crate::durability) unread: Vec<(Prepare, Option<Duration>)>,
    /// What its monitor was made with.
    pub(in crate::durability) rebuilt_at: Seqno,
    /// Went back since the invariants were last checked.
    pub(in crate::durability) went_back: bool,
    /// Highest it ever acknowledged to the active of now.
    pub(in crate::durability) acknowledged: Seqno,
}

impl Node {
    pub(super) fn new(name: NodeName) -> Node {
        Node {
            name,
            is_up: true,
            state: VbucketState::Replica,
            monitor: fresh(VbucketState::Replica),
            ledger: Ledger::default(),
            topology: None,
            log: Vec::new(),
            whole: Vec::new(),
            receiving: None,
            floor: Seqno::ZERO,
            history_floor: Seqno::ZERO,
            pending: BTreeMap::new(),
            branches: Vec::new(),
            own_from: Seqno::ZERO,
            ended: Vec::new(),
            persisted: Seqno::ZERO,
            records: Vec::new(),
            unread: Vec::new(),
            rebuilt_at: Seqno::ZERO,
            went_back: false,
            acknowledged: Seqno::ZERO,
        }
    }

    pub(in crate::durability) fn high(&self) -> Seqno {
        // What was erased had a seqno all the same.
        let last = self.log.last().map_or(Seqno::ZERO, |item| item.seqno);
        last.max(self.persisted)
    }

    pub(in crate::durability) fn view(&self) -> Standing {
        Standing {
            high_seqno: self.high(),
            persisted: self.persisted,
            is_behind_disk: false,
            requirements: REQUIREMENTS,
        }
    }

    /// End of the last snapshot that came whole, at or below `limit`; an active's own items are whole.
    pub(in crate::durability) fn newest_whole(&self, limit: Seqno) -> Seqno {
        let is_own = self.state == VbucketState::Active && limit > self.own_from;
        if is_own {
            return limit.min(self.high());
        }
        let ends = self.whole.iter().rev().map(|(end, _)| end.seqno);
        let mut below = ends.filter(|end| *end <= limit);
        below.next().unwrap_or_default()
    }

    pub(in crate::durability) fn record(&self) -> Record {
        self.records
            .last()
            .map_or(Record::default(), |(_, record)| *record)
    }

    /// Whether an item lies in a life of its collection that is over here.
    pub(in crate::durability) fn is_of_ended_life(&self, key: &DocumentKey, seqno: Seqno) -> bool {
        key.collection() == COLLECTION && self.last_end().is_some_and(|end| seqno < end)
    }

    pub(in crate::durability) fn last_end(&self) -> Option<Seqno> {
        let ends = self.log.iter().rev();
        let mut ends = ends.filter(|item| item.operation == Operation::End);
        ends.next().map(|item| item.seqno)
    }

    /// The prepare that is in the way of a write of this key.
    pub(in crate::durability) fn pending_of(&self, key: &DocumentKey) -> Option<Pending> {
        let pending = self.pending.get(key).copied();
        pending.filter(|one| !self.is_of_ended_life(key, one.seqno))
    }

    /// Whether this node has a write, as itself or as what took its place.
    pub(in crate::durability) fn has(&self, client: &Client, id: WriteId) -> bool {
        let is_it = |item: &Item| item.id == id && !matches!(item.operation, Operation::Abort(_));
        let is_newer = |item: &Item| {
            item.seqno > client.prepare && item.key == client.key && item.slot().0 == 0
        };
        self.log.iter().any(|item| is_it(item) || is_newer(item))
    }

    /// A prepare of an ended life that lies in the way of a write of this key, which pays it no heed.
    pub(in crate::durability) fn take_ended_pending(
        &mut self,
        key: &DocumentKey,
    ) -> Option<Pending> {
        let pending = self.pending.get(key).copied()?;
        let is_ended = self.is_of_ended_life(key, pending.seqno);
        is_ended.then(|| self.pending.remove(key)).flatten()
    }

    /// Takes an item into the history and what is served.
    pub(in crate::durability) fn enter(&mut self, item: Item) {
        let (key, seqno, id) = (item.key.clone(), item.seqno, item.id);
        match item.operation {
            Operation::Prepare(_) => {
                let is_maybe_visible = self.state != VbucketState::Active;
                let pending = Pending {
                    seqno,
                    id,
                    is_maybe_visible,
                };
                self.pending.insert(key, pending);
            }
            Operation::Commit(_) | Operation::Abort(_) | Operation::Mutation => {
                self.pending.remove(&key);
            }
            Operation::End => self.ended.push(seqno),
        }
        self.log.push(item);
    }

    /// Makes its monitor anew from the ledger and what this node has.
    pub(in crate::durability) fn rebuild_monitor(
        &mut self,
        prepares: Vec<Prepare>,
        completed: Seqno,
    ) {
        let whole = self.newest_whole(self.high());
        let is_open_disk = |(end, _): &(SnapshotEnd, Seqno)| {
            end.kind == SnapshotKind::Disk && end.seqno > self.persisted
        };
        let end = if self.whole.iter().any(is_open_disk) {
            SnapshotEnd::disk((Seqno::ZERO, whole), None, Seqno::ZERO).unwrap()
        } else {
            SnapshotEnd::memory(whole)
        };
        let outstanding = Outstanding {
            prepares,
            high_prepared: high_prepared_on_disk(&self.watermarks()),
            high_completed: completed,
            whole: (whole > Seqno::ZERO).then_some(end),
            dropped: self.ended.iter().map(|end| (COLLECTION, *end)).collect(),
        };
        let view = self.view();
        self.rebuilt_at = view.high_seqno;
        let chains = self
            .topology
            .clone()
            .filter(|_| self.state == VbucketState::Active);
        self.monitor = Monitor::rebuild(self.state, chains, outstanding, &view, &self.ledger);
    }

    /// A new branch of history begins at `start`; what was to begin above it never was.
    pub(in crate::durability) fn begin_branch(&mut self, uuid: u64, start: Seqno) {
        self.branches.retain(|(_, other)| *other <= start);
        self.branches.push((uuid, start));
    }

    /// The state record as a store keeps it.
    fn watermarks(&self) -> Watermarks {
        let (record, high_seqno) = (self.record(), self.persisted);
        let start = self.newest_whole(high_seqno);
        let end = if start == high_seqno {
            start
        } else {
            high_seqno.next()
        };
        Watermarks {
            high_seqno,
            prepared_seqno: record.prepared,
            completed_seqno: record.completed,
            high_prepared_seqno: record.high_prepared,
            snapshot: SnapshotRange { start, end },
            ..Watermarks::default()
        }
    }

    /// What the document map holds as prepared.
    pub(in crate::durability) fn pending_prepares(&self) -> Vec<Prepare> {
        let prepare = |(key, pending): (&DocumentKey, &Pending)| {
            let at = self.log.iter().find(|item| item.seqno == pending.seqno)?;
            let Operation::Prepare(level) = at.operation else {
                return None;
            };
            Some(Prepare {
                seqno: pending.seqno,
                key: key.clone(),
                level,
            })
        };
        self.pending.iter().filter_map(prepare).collect()
    }

    /// Prepares up to `limit` that are not over, as a scan finds them that looks at nothing at or below `completed`.
    pub(in crate::durability) fn outstanding(
        &self,
        limit: Seqno,
        completed: Seqno,
    ) -> Vec<Prepare> {
        let mut found: BTreeMap<DocumentKey, Prepare> = BTreeMap::new();
        for item in self
            .log
            .iter()
            .filter(|item| item.seqno <= limit && item.seqno > completed)
        {
            let (seqno, key) = (item.seqno, item.key.clone());
            match item.operation {
                Operation::Prepare(level) => {
                    found.insert(key.clone(), Prepare { seqno, key, level });
                }
                Operation::Commit(_) | Operation::Abort(_) | Operation::Mutation => {
                    found.remove(&key);
                }
                Operation::End => {}
            }
        }
        found.into_values().collect()
    }
}
