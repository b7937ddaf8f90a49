//! Random runs against a naive model: what every reader, and the store behind the flusher, must hold whatever
//! happens to the log. A run is a list of steps; a failing one is shrunk to the shortest that fails.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use storage::Namespace;

use super::*;

const READERS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Write {
        key: u8,
        operation: Operation,
        keeps_history: bool,
        gap: u64,
    },
    Identity,
    OpenCheckpoint,
    Snapshot {
        length: u64,
        disk: bool,
        extends: bool,
    },
    Promote,
    Register {
        reader: usize,
        back: u64,
        droppable: bool,
    },
    Remove {
        reader: usize,
    },
    Read {
        reader: usize,
        items_max: usize,
    },
    Flush {
        items_max: usize,
    },
    Persist,
    FailFlush,
    Expel {
        entries_max: usize,
    },
    DropCursors,
    Clear {
        back: u64,
    },
}

fn operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        12 => Just(MUTATION),
        3 => Just(DELETION),
        1 => Just(PREPARE),
        1 => Just(ABORT),
        1 => Just(COMMIT),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let write =
        (0..6_u8, operations(), 0..20_u8, 1..3_u64).prop_map(|(key, operation, history, gap)| {
            Step::Write {
                key,
                operation,
                keeps_history: history == 0,
                gap,
            }
        });
    let snapshot = (1..12_u64, any::<bool>(), any::<bool>());
    let snapshot = snapshot.prop_map(|(length, disk, extends)| Step::Snapshot {
        length,
        disk,
        extends,
    });
    let register = (0..READERS, 0..12_u64, any::<bool>());
    let register = register.prop_map(|(reader, back, droppable)| Step::Register {
        reader,
        back,
        droppable,
    });
    let read = (0..READERS, 1..6_usize);
    let read = read.prop_map(|(reader, items_max)| Step::Read { reader, items_max });
    prop_oneof![
        24 => write,
        1 => Just(Step::Identity),
        1 => Just(Step::OpenCheckpoint),
        2 => snapshot,
        1 => Just(Step::Promote),
        3 => register,
        1 => (0..READERS).prop_map(|reader| Step::Remove { reader }),
        10 => read,
        6 => (1..6_usize).prop_map(|items_max| Step::Flush { items_max }),
        5 => Just(Step::Persist),
        2 => Just(Step::FailFlush),
        3 => (1..8_usize).prop_map(|entries_max| Step::Expel { entries_max }),
        1 => Just(Step::DropCursors),
        1 => (0..6_u64).prop_map(|back| Step::Clear { back }),
    ]
}

type Key = (Namespace, u8);
/// The newest version of each key.
type Versions = BTreeMap<Key, Seqno>;

fn key_of(item: &Item) -> Key {
    (item.namespace(), item.document.key.key()[0])
}

fn newest(history: &[(Seqno, Key)], up_to: Seqno) -> Versions {
    let versions = history.iter().filter(|(seqno, _)| *seqno <= up_to);
    versions.map(|(seqno, key)| (*key, *seqno)).collect()
}

/// A stream's client.
#[derive(Debug)]
struct Reader {
    cursor: CursorId,
    /// It got everything up to here from elsewhere.
    from: Seqno,
    held: Versions,
    last: Seqno,
    /// The snapshot it was told, and the keys it got of it.
    told: (Seqno, Seqno),
    keys: BTreeSet<Key>,
}

impl Reader {
    fn new(cursor: CursorId, from: Seqno) -> Reader {
        Reader {
            cursor,
            from,
            held: Versions::new(),
            last: from,
            told: (Seqno::ZERO, from),
            keys: BTreeSet::new(),
        }
    }

    fn receive(&mut self, taken: &Taken, history: &[(Seqno, Key)]) {
        let mut covered = 0;
        for piece in &taken.pieces {
            assert_eq!(piece.items.start, covered);
            covered = piece.items.end;
            self.open(piece);
            for item in &taken.items[piece.items.clone()] {
                assert!(self.last < item.seqno);
                assert!(piece.start <= item.seqno && item.seqno <= piece.end);
                self.last = item.seqno;
                assert!(self.keys.insert(key_of(item)), "a key twice in a snapshot");
                self.held.insert(key_of(item), item.seqno);
            }
            assert_eq!(piece.completes, self.last == piece.end);
            if piece.completes {
                self.holds_newest(history, piece.end);
            }
        }
        assert_eq!(covered, taken.items.len());
    }

    fn open(&mut self, piece: &SnapshotPiece) {
        let was_inside = self.last < self.told.1;
        match piece.opening {
            Opening::Continues => {
                assert!(was_inside);
                assert_eq!((piece.start, piece.end), self.told);
                return;
            }
            Opening::AfterCut => assert!(was_inside),
            Opening::Checkpoint | Opening::Snapshot => {
                assert!(!was_inside, "the snapshot told before was dropped");
                assert!(piece.start > self.told.1);
            }
        }
        assert!(piece.start > self.last);
        self.told = (piece.start, piece.end);
        self.keys.clear();
    }

    /// At the end of a snapshot the reader has exactly what the vbucket had at that seqno.
    fn holds_newest(&self, history: &[(Seqno, Key)], end: Seqno) {
        for (key, seqno) in newest(history, end) {
            if seqno > self.from {
                assert_eq!(self.held.get(&key), Some(&seqno), "{key:?} at {end}");
            }
        }
    }
}

/// The store behind the flusher.
#[derive(Debug, Default)]
struct Store {
    items: Vec<(Seqno, Key)>,
    persisted: Seqno,
    identity: Option<u64>,
    under_way: Option<Taken>,
}

impl Store {
    fn commit(&mut self, history: &[(Seqno, Key)]) {
        let Some(taken) = self.under_way.take() else {
            return;
        };
        let mut held = newest(&self.items, Seqno::MAX);
        for item in &taken.items {
            assert!(item.seqno > self.persisted, "an item stored twice");
            let before = held.insert(key_of(item), item.seqno);
            match item.predecessor {
                Predecessor::Unknown => {}
                Predecessor::Absent => assert_eq!(before, None, "{item:?}"),
                Predecessor::At(seqno) => assert_eq!(before, Some(seqno), "{item:?}"),
            }
            self.items.push((item.seqno, key_of(item)));
            self.persisted = item.seqno;
        }
        if let Some(identity) = &taken.identity {
            self.identity = Some(identity.manifest_uid);
        }
        assert!(taken.settled <= self.persisted);
        for (key, seqno) in newest(history, taken.settled) {
            let stored = held.get(&key).copied();
            assert!(stored >= Some(seqno), "{key:?} of {seqno} is not safe");
        }
    }
}

#[derive(Debug)]
struct World {
    log: CheckpointLog,
    history: Vec<(Seqno, Key)>,
    map: Versions,
    readers: [Option<Reader>; READERS],
    store: Store,
    identities: u64,
    /// Since when nothing took identities out of the log but the flusher.
    identity_queued: Option<u64>,
    /// Keys the source sent of its present snapshot.
    sent: BTreeSet<Key>,
    is_replica: bool,
}

impl World {
    fn new(limits: CheckpointLimits) -> World {
        World {
            log: CheckpointLog::new(Seqno::ZERO, limits),
            history: Vec::new(),
            map: Versions::new(),
            readers: [const { None }; READERS],
            store: Store::default(),
            identities: 0,
            identity_queued: None,
            sent: BTreeSet::new(),
            is_replica: false,
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Write {
                key,
                operation,
                keeps_history,
                gap,
            } => {
                self.write(key, operation, keeps_history, gap);
            }
            Step::Identity => {
                self.identities += 1;
                self.identity_queued = Some(self.identities);
                self.log.queue_identity(identity(self.identities));
            }
            Step::OpenCheckpoint if self.is_replica => {}
            Step::OpenCheckpoint => drop(self.log.open_checkpoint()),
            Step::Promote => {
                self.log.open_checkpoint();
                self.is_replica = false;
            }
            Step::Snapshot {
                length,
                disk,
                extends,
            } => self.snapshot(length, disk, extends),
            Step::Register {
                reader,
                back,
                droppable,
            } => self.register(reader, back, droppable),
            Step::Remove { reader } => {
                if let Some(reader) = self.readers[reader].take() {
                    assert!(self.log.remove_cursor(reader.cursor));
                }
            }
            Step::Read { reader, items_max } => self.read(reader, items_max),
            Step::Flush { items_max } => {
                if self.store.under_way.is_none() {
                    let taken = take_items(&mut self.log, CursorId::FLUSH, items_max);
                    self.store.under_way = Some(taken);
                }
            }
            Step::Persist => {
                self.store.commit(&self.history);
                self.log.note_persisted(self.store.persisted);
            }
            Step::FailFlush => {
                self.store.under_way = None;
                self.log.reset_flush_cursor(self.store.persisted).unwrap();
            }
            Step::Expel { entries_max } => {
                let before = self.log.figures();
                let expelled = self.log.expel(entries_max);
                let after = self.log.figures();
                assert_eq!(before.items - after.items, expelled.items);
                assert_eq!(before.bytes - after.bytes, expelled.bytes);
            }
            Step::DropCursors => self.drop_cursors(),
            Step::Clear { back } => self.clear(back),
        }
        check(&self.log);
    }

    fn write(&mut self, key: u8, operation: Operation, keeps_history: bool, gap: u64) {
        let key = (operation.namespace(), b'a' + key);
        let older = self.map.get(&key).copied();
        let replaces = Replaces {
            older,
            keeps_history,
        };
        let mut seqno = self.log.last_seqno().next();
        let said = if self.is_replica {
            let (_, start, end, _) = self.log.open_snapshot();
            if seqno > end || self.sent.contains(&key) {
                return;
            }
            seqno = Seqno(seqno.max(start).0 + gap - 1).min(end);
            self.log.disposition_of_replica(&operation, replaces)
        } else {
            self.log.disposition(&operation, replaces)
        };
        let name = char::from(key.1).to_string();
        let mut new = Item::clone(&item(seqno.0, &name, operation));
        new.predecessor = said.predecessor(older, Predecessor::Absent);
        let done = if self.is_replica {
            self.log.queue_replica(Arc::new(new), replaces)
        } else {
            self.log.queue(Arc::new(new), replaces)
        };
        match done {
            Ok(done) => assert_eq!(done.disposition, said),
            Err(error) => {
                assert!(matches!(error, QueueError::DuplicateInSnapshot { .. }));
                assert_eq!(said, Disposition::NewCheckpoint);
                return;
            }
        }
        self.sent.insert(key);
        self.map.insert(key, seqno);
        self.history.push((seqno, key));
    }

    fn snapshot(&mut self, length: u64, disk: bool, extends: bool) {
        let last = self.log.last_seqno();
        let (start, end) = (last.next(), Seqno(last.0 + length));
        let snapshot = if disk {
            ReplicaSnapshot::disk(start, end, Seqno::ZERO)
        } else {
            ReplicaSnapshot::memory(start, end)
        };
        if extends {
            self.log.extend_snapshot(&snapshot).unwrap();
        } else {
            self.log.begin_snapshot(&snapshot).unwrap();
        }
        self.sent.clear();
        self.is_replica = true;
    }

    fn register(&mut self, reader: usize, back: u64, droppable: bool) {
        let held = Seqno(self.log.last_seqno().0.saturating_sub(back));
        let name = CursorName::new(&format!("reader {reader}"));
        let kind = CursorKind::Stream { droppable };
        let registered = self.log.register(name, held, kind).unwrap();
        assert!(registered.next > held);
        let from = if registered.backfill_needed {
            Seqno(registered.next.0 - 1)
        } else {
            held
        };
        self.readers[reader] = Some(Reader::new(registered.cursor, from));
    }

    fn read(&mut self, reader: usize, items_max: usize) {
        let Some(reader) = &mut self.readers[reader] else {
            return;
        };
        let before = self.log.remaining(reader.cursor).unwrap();
        let taken = take_items(&mut self.log, reader.cursor, items_max);
        assert!(taken.items.len() <= items_max);
        assert!(taken.identity.is_none());
        let open = &self.log.chain.open;
        let waits = open.is_extended && !open.is_whole();
        let may_be_empty = before == 0 || waits;
        assert!(may_be_empty || !taken.items.is_empty(), "nothing read");
        let after = self.log.remaining(reader.cursor).unwrap();
        assert_eq!(before - after, taken.items.len() as u64);
        assert!(taken.more == (after > 0) || waits);
        reader.receive(&taken, &self.history);
    }

    fn drop_cursors(&mut self) {
        for (id, _) in self.log.drop_cursors() {
            let is_it = |one: &Option<Reader>| one.as_ref().is_some_and(|one| one.cursor == id);
            let reader = self.readers.iter_mut().find(|one| is_it(one)).unwrap();
            *reader = None;
        }
    }

    /// MB-56644: also of what was expelled.
    fn clear(&mut self, back: u64) {
        let to = Seqno(self.store.persisted.0.saturating_sub(back));
        self.log.clear(to);
        self.store.under_way = None;
        self.store.items.retain(|(seqno, _)| *seqno <= to);
        self.store.persisted = to;
        self.history = self.store.items.clone();
        self.map = newest(&self.history, Seqno::MAX);
        self.is_replica = false;
        self.identity_queued = None;
        for reader in self.readers.iter_mut().flatten() {
            *reader = Reader::new(reader.cursor, to);
        }
    }

    /// Everybody reads everything there is, and then holds all that is newest.
    fn drain(&mut self) {
        self.apply(&Step::FailFlush);
        self.apply(&Step::Promote);
        while self.log.has_unflushed() {
            self.apply(&Step::Flush { items_max: 3 });
            self.apply(&Step::Persist);
        }
        let stored = newest(&self.store.items, Seqno::MAX);
        assert_eq!(stored, newest(&self.history, Seqno::MAX));
        if self.identity_queued.is_some() {
            assert_eq!(self.store.identity, self.identity_queued);
        }
        for reader in 0..READERS {
            while let Some(one) = &self.readers[reader] {
                if self.log.remaining(one.cursor) == Ok(0) {
                    one.holds_newest(&self.history, Seqno::MAX);
                    break;
                }
                self.apply(&Step::Read {
                    reader,
                    items_max: 3,
                });
            }
        }
        assert!(self.log.expel(usize::MAX).items <= self.history.len());
        check(&self.log);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(5),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_reader_and_the_store_get_what_they_must(
        steps in proptest::collection::vec(steps(), 1..160),
        items_max in 2..20_usize,
    ) {
        let mut world = World::new(CheckpointLimits { items_max, ..ROOMY });
        for step in &steps {
            world.apply(step);
        }
        world.drain();
    }
}
