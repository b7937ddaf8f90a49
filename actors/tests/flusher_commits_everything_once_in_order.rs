//! Whatever happens between a flusher and its writers, every change reaches the store once and in order, at most one
//! batch of a vbucket is under way, and once faults stop everything is on disk (MB-37546, MB-36739, MB-38845,
//! MB-36380).
#![cfg(test)]

mod disk_side;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use disk_side::Numbers;
use disk_side::vbucket::LogVbucket;
use messages::Generation;
use piggin_actors::flusher::answers::{Answered, Committed, Placed, Ticket};
use piggin_actors::flusher::requests::{Told, WaiterId};
use piggin_actors::flusher::{Effect, FlushLimits, Flushable, FlushedVbucket, FlusherState, Stage};
use storage::disk::{DiskError, DiskErrorKind, Verb};
use storage::{
    Batch, Incarnation, Refusal, RollbackEpoch, Seqno, StorageError, VbucketId, VbucketPosition,
};

const VBUCKETS: u16 = 5;
const LOG_SHARDS: u16 = 2;
const GENERATION_MOST: u64 = 1_000_000;

/// What a writer was asked and did not answer yet.
enum Asked {
    Commit(Ticket, Batch),
    Barrier(Ticket, Vec<VbucketId>),
}

/// A store that is only seqnos, and writers in front of it.
struct Model {
    numbers: Numbers,
    now: Duration,
    vbuckets: BTreeMap<VbucketId, Arc<LogVbucket>>,
    stored: BTreeMap<VbucketId, Vec<Seqno>>,
    writers: BTreeMap<u16, Vec<Asked>>,
    state: FlusherState,
    generation: u64,
    faulty: bool,
    told: BTreeMap<WaiterId, Told>,
    /// What a waiter's vbuckets had when it asked.
    asked: BTreeMap<WaiterId, Vec<(VbucketId, Seqno)>>,
    next_waiter: u64,
    tries_failed: u64,
    refused: u64,
}

fn limits() -> FlushLimits {
    FlushLimits {
        items_max: 3,
        bytes_max: 100,
        batches_per_slice: 2,
    }
}

fn disk(kind: DiskErrorKind) -> StorageError {
    StorageError::Disk(DiskError {
        verb: Verb::Sync,
        file: "log".into(),
        kind,
    })
}

impl Model {
    fn new(seed: u64) -> Model {
        let ids = (0..VBUCKETS).map(|id| VbucketId::new(id).unwrap());
        let vbuckets: BTreeMap<_, _> = ids
            .map(|id| (id, LogVbucket::new(id.get(), Seqno::ZERO)))
            .collect();
        let state = new_state(&vbuckets, 1);
        Model {
            numbers: Numbers::new(seed),
            now: Duration::ZERO,
            stored: vbuckets.keys().map(|id| (*id, Vec::new())).collect(),
            vbuckets,
            writers: BTreeMap::new(),
            state,
            generation: 1,
            faulty: true,
            told: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_waiter: 0,
            tries_failed: 0,
            refused: 0,
        }
    }

    fn position(&self, id: VbucketId) -> VbucketPosition {
        VbucketPosition {
            incarnation: Incarnation(7),
            epoch: RollbackEpoch(0),
            high_seqno: self.stored[&id].last().copied().unwrap_or(Seqno::ZERO),
        }
    }

    fn any(&self) -> VbucketId {
        VbucketId::new(u16::try_from(self.numbers.below(u64::from(VBUCKETS))).unwrap()).unwrap()
    }

    fn waiter(&mut self) -> WaiterId {
        self.next_waiter += 1;
        WaiterId(self.next_waiter)
    }

    fn slice(&mut self) -> bool {
        let left = self.state.slice(self.now);
        let effects = self.state.take_effects();
        let mut has_done = !effects.is_empty();
        for effect in effects {
            match effect {
                Effect::Commit {
                    log_shard,
                    ticket,
                    batch,
                    ..
                } => {
                    assert!(self.state.stage().is_sending(), "{:?}", self.state.stage());
                    if self.faulty && self.numbers.chance(10) {
                        self.state.unsent(self.now, ticket, batch);
                        continue;
                    }
                    let writer = self.writers.entry(log_shard).or_default();
                    let mine = |asked: &Asked| {
                        matches!(asked, Asked::Commit(other, of)
                            if of.vbucket == batch.vbucket && other.generation == ticket.generation)
                    };
                    assert!(!writer.iter().any(mine), "two batches under way");
                    writer.push(Asked::Commit(ticket, batch));
                }
                Effect::Ask {
                    log_shard,
                    ticket,
                    vbuckets,
                } => {
                    if self.faulty && self.numbers.chance(10) {
                        self.state.unasked(self.now, log_shard, ticket);
                        continue;
                    }
                    let writer = self.writers.entry(log_shard).or_default();
                    writer.push(Asked::Barrier(ticket, vbuckets));
                }
                Effect::Report { is_down, cause, .. } => {
                    assert!(!is_down, "taken down for {cause}");
                }
                Effect::Tell(waiter, told) => {
                    if told == Told::Done(Ok(())) {
                        for (id, high) in self.asked.get(&waiter).into_iter().flatten() {
                            let stored = self.position(*id).high_seqno;
                            assert!(stored >= *high, "told too early: {id}, {stored}, {high}");
                        }
                    }
                    assert!(
                        self.told.insert(waiter, told).is_none(),
                        "answered twice: {waiter:?}"
                    );
                }
            }
        }
        has_done |= left.is_more;
        has_done
    }

    /// Stores a batch as a store would, or says what it refuses.
    fn store(&mut self, batch: &Batch) -> Result<(), Refusal> {
        let position = self.position(batch.vbucket);
        let first = batch.items.first().map(|item| item.seqno);
        if let Some(given) = first.filter(|given| *given <= position.high_seqno) {
            return Err(Refusal::SeqnoNotAbovePersisted {
                given,
                persisted: position.high_seqno,
            });
        }
        let expected = batch
            .items
            .last()
            .map_or(position.high_seqno, |item| item.seqno);
        assert_eq!(batch.watermarks.high_seqno, expected);
        let stored = self.stored.get_mut(&batch.vbucket).unwrap();
        for item in &batch.items {
            // No gap: the log has no deduplication here.
            assert_eq!(item.seqno.0, stored.last().map_or(0, |last| last.0) + 1);
            stored.push(item.seqno);
        }
        Ok(())
    }

    /// The first thing a writer was asked is answered, one way or another.
    fn answer(&mut self, log_shard: u16) {
        let writer = self.writers.entry(log_shard).or_default();
        if writer.is_empty() {
            return;
        }
        let mut answered = Answered::default();
        match writer.remove(0) {
            Asked::Barrier(ticket, vbuckets) => {
                let placed = match self.numbers.below(10) {
                    0 if self.faulty => Placed::Lost,
                    1 if self.faulty => Placed::Later(self.now + Duration::from_millis(50)),
                    _ => Placed::At(
                        vbuckets
                            .into_iter()
                            .map(|id| (id, Ok(self.position(id))))
                            .collect(),
                    ),
                };
                answered.barriers.insert(log_shard, (ticket, placed));
            }
            Asked::Commit(ticket, batch) => {
                let id = batch.vbucket;
                let committed = self.commit(batch);
                answered.batches.insert(id, (ticket, committed));
            }
        }
        self.state.note_answers(self.now, answered);
    }

    fn commit(&mut self, batch: Batch) -> Committed {
        let id = batch.vbucket;
        let fate = if self.faulty {
            self.numbers.below(10)
        } else {
            9
        };
        // Of a failure, or a crash, the batch may be on disk all the same.
        let is_written = fate >= 4 || (fate >= 2 && self.numbers.chance(50));
        let stored = if is_written {
            self.store(&batch)
        } else {
            Ok(())
        };
        if let Err(refusal) = stored {
            self.refused += 1;
            let position = Ok(self.position(id));
            return Committed::Refused { refusal, position };
        }
        let high = batch.watermarks.high_seqno;
        match fate {
            0..=2 => {
                self.tries_failed += 1;
                let kind = match fate {
                    0 => DiskErrorKind::Full,
                    _ => DiskErrorKind::Other("broken".into()),
                };
                Committed::Failed {
                    batch: Box::new(batch),
                    cause: disk(kind).into(),
                    retry_at: self.now + Duration::from_millis(20),
                }
            }
            3 => Committed::Lost,
            _ => {
                self.vbuckets[&id].note_persisted(high);
                Committed::Persisted { seqno: high }
            }
        }
    }

    fn restart(&mut self) {
        self.generation += 1;
        self.state = new_state(&self.vbuckets, self.generation);
        // Whoever waited is told by the actor that was restarted.
        for waiter in 1..=self.next_waiter {
            self.told
                .entry(WaiterId(waiter))
                .or_insert(Told::Done(Ok(())));
        }
    }

    fn random_step(&mut self) {
        match self.numbers.below(24) {
            0..=6 => {
                let id = self.any();
                self.vbuckets[&id].write(self.numbers.below(9), &[0; 20]);
                self.state.note_dirty(id);
            }
            7..=13 => {
                self.slice();
            }
            14..=18 => {
                let shard = self.numbers.below(u64::from(LOG_SHARDS));
                self.answer(u16::try_from(shard).unwrap());
            }
            19 => self.now += Duration::from_millis(self.numbers.below(30)),
            20 => match self.numbers.below(4) {
                0 => {
                    let waiter = self.waiter();
                    self.state.pause(waiter);
                }
                1 | 2 => {
                    let waiter = self.waiter();
                    self.state.resume(waiter);
                }
                _ => self.restart(),
            },
            21 if self.numbers.chance(30) => self.state.note_store_reopened(),
            21 => self.now += Duration::from_millis(20),
            22 => {
                let only = Some(self.any()).filter(|_| self.numbers.chance(50));
                self.flush_now(only);
            }
            _ => self.check(),
        }
    }

    fn flush_now(&mut self, only: Option<VbucketId>) -> WaiterId {
        let waiter = self.waiter();
        let wanted = self.vbuckets.iter();
        let wanted = wanted.filter(|(id, _)| only.is_none_or(|only| only == **id));
        let highs = wanted.map(|(id, vbucket)| (*id, vbucket.high_seqno()));
        self.asked.insert(waiter, highs.collect());
        self.state.flush_now(waiter, only);
        waiter
    }

    fn check(&self) {
        for (id, vbucket) in &self.vbuckets {
            let stored = self.position(*id).high_seqno;
            assert!(vbucket.persisted_seqno() <= stored, "claimed, not stored");
            assert!(vbucket.down().is_none());
        }
        let sent: usize = self.writers.values().map(Vec::len).sum();
        assert!(self.state.under_way() <= sent);
    }

    /// Faults stop: within bounded time everything is on disk and everybody answered.
    fn settle(&mut self, what: &str) {
        self.faulty = false;
        let waiter = self.waiter();
        self.state.resume(waiter);
        let all = self.flush_now(None);
        for _ in 0..2000 {
            let is_busy = self.slice();
            for shard in 0..LOG_SHARDS {
                self.answer(shard);
            }
            if !is_busy {
                self.now += Duration::from_millis(5);
            }
        }
        self.check();
        for (id, vbucket) in &self.vbuckets {
            let stored = self.position(*id).high_seqno;
            assert_eq!(stored, vbucket.high_seqno(), "{what}: vbucket {id}");
            assert_eq!(vbucket.persisted_seqno(), stored, "{what}: vbucket {id}");
            assert!(!vbucket.is_disk_full(), "{what}: the disk healed");
        }
        for waiter in 1..=self.next_waiter {
            let told = self.told.get(&WaiterId(waiter));
            assert!(told.is_some(), "{what}: waiter {waiter} was forgotten");
        }
        assert_eq!(self.told[&all], Told::Done(Ok(())), "{what}");
        assert_eq!(self.state.stage(), Stage::Running, "{what}");
    }
}

fn new_state(vbuckets: &BTreeMap<VbucketId, Arc<LogVbucket>>, generation: u64) -> FlusherState {
    let all = vbuckets.iter().map(|(id, vbucket)| FlushedVbucket {
        id: *id,
        vbucket: Arc::<LogVbucket>::clone(vbucket),
        log_shard: id.get() % LOG_SHARDS,
    });
    assert!(generation < GENERATION_MOST);
    FlusherState::new(Generation(generation), limits(), all.collect())
}

#[test]
fn every_change_is_committed_once_in_order() {
    let (mut failed, mut refused) = (0, 0);
    for seed in 0..600 {
        let mut model = Model::new(seed);
        for _ in 0..400 {
            model.random_step();
        }
        model.settle(&format!("seed {seed}"));
        failed += model.tries_failed;
        refused += model.refused;
    }
    assert!(
        failed > 1000 && refused > 100,
        "{failed} failed, {refused} refused"
    );
}

#[test]
fn a_stop_writes_everything_and_reports_what_it_could_not() {
    for seed in 0..300 {
        let mut model = Model::new(seed);
        for _ in 0..200 {
            model.random_step();
        }
        let is_healthy = seed % 2 == 0;
        model.faulty = !is_healthy;
        let waiter = model.waiter();
        let until = model.now + Duration::from_secs(2);
        model.state.stop(waiter, until);
        while model.state.stage() != Stage::Stopped {
            let is_busy = model.slice();
            for shard in 0..LOG_SHARDS {
                model.answer(shard);
            }
            if !is_busy {
                model.now += Duration::from_millis(5);
            }
            assert!(model.now <= until + Duration::from_secs(1), "seed {seed}");
        }
        model.slice();
        let Some(Told::Stopped(report)) = model.told.get(&waiter) else {
            panic!("seed {seed}: not told");
        };
        let behind: Vec<VbucketId> = report.unpersisted.iter().map(|one| one.vbucket).collect();
        for (id, vbucket) in &model.vbuckets {
            if vbucket.persisted_seqno() < vbucket.high_seqno() {
                assert!(behind.contains(id), "seed {seed}: {id} is not named");
            }
        }
        if is_healthy {
            assert_eq!(behind, [], "seed {seed}");
        }
    }
}
