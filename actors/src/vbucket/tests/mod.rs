//! What only the inside can show: panics at every step of a change, against a model.

mod door;
mod durable;
mod loading;
mod manifest;
mod marks;
mod model;
mod panics;
mod roles;
#[path = "../../../tests/support/mod.rs"]
pub(crate) mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use proptest::prelude::*;

use self::model::Model;
use self::support::{Bench, Setup, id, key, set};
use super::checkpoint::CheckpointLimits;
use super::{ChangeStep, DurableWait, VbucketCore};
use messages::OperationError;
use messages::vbucket::{
    Acknowledge, Add, Append, Count, Delete, Delta, ExpiryRequest, Prepend, Replace, Set, Touch,
    Write, WriteBatch, WriteOptions,
};
use storage::{Cas, KvStore, MemoryStore, Seqno, VbucketStateRecord, VbucketUuid};

/// Which version a write names.
#[derive(Clone, Copy, Debug)]
enum Named {
    None,
    Present,
    Another,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Set,
    Add,
    Replace,
    Delete,
    Touch,
    Append,
    Prepend,
    Count,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    what: What,
    name: u8,
    cas: Named,
    expiry: u32,
}

#[derive(Clone, Debug)]
enum Step {
    One(Wanted),
    Batch(Vec<Wanted>),
    Tick(u64),
    /// Takes so many items, and commits them or not.
    Flush(usize, bool),
    Durable(Wanted),
    /// The other node holds so many of the seqnos there are, by hundredths.
    Acknowledge(u64),
    /// Does so many of what is decided.
    Decide(usize),
    /// Is a replica in between.
    Bounce,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    use What::{Add, Append, Count, Delete, Prepend, Replace, Set, Touch};
    let what = prop::sample::select(vec![
        Set, Set, Set, Add, Replace, Delete, Delete, Touch, Append, Prepend, Count, Count,
    ]);
    let cas = prop_oneof![
        4 => Just(Named::None),
        2 => Just(Named::Present),
        1 => Just(Named::Another),
    ];
    let expiry = prop::sample::select(vec![0u32, 0, 0, 3, 10]);
    // A few keys that live in one checkpoint, and many that seldom do.
    let name = prop_oneof![0u8..4, 4u8..40];
    (what, name, cas, expiry).prop_map(|(what, name, cas, expiry)| Wanted {
        what,
        name,
        cas,
        expiry,
    })
}

fn steps() -> impl Strategy<Value = Vec<(Step, Option<ChangeStep>)>> {
    let step = prop_oneof![
        12 => wanted().prop_map(Step::One),
        2 => prop::collection::vec(wanted(), 0..5).prop_map(Step::Batch),
        6 => wanted().prop_map(Step::Durable),
        3 => (0u64..=100).prop_map(Step::Acknowledge),
        3 => (1usize..6).prop_map(Step::Decide),
        1 => Just(Step::Bounce),
        2 => prop_oneof![4 => 1u64..6, 1 => Just(31u64)].prop_map(Step::Tick),
        3 => (1usize..8, prop::bool::weighted(0.8)).prop_map(|(items, ends)| Step::Flush(items, ends)),
    ];
    let fault = prop::option::weighted(0.15, prop::sample::select(ChangeStep::OF_DURABLE.to_vec()));
    prop::collection::vec((step, fault), 0..200)
}

struct World {
    bench: Bench,
    model: Model,
    store: MemoryStore,
    /// Whoever waits for a durable write, by its prepare.
    waits: BTreeMap<Seqno, DurableWait>,
}

impl World {
    fn new(items_max: usize) -> World {
        let store = MemoryStore::new(8);
        let record = VbucketStateRecord::new(VbucketUuid(0xa11ce));
        store.create_vbucket(id(), &record).unwrap();
        let checkpoints = CheckpointLimits {
            items_max,
            ..CheckpointLimits::default()
        };
        let bench = Setup {
            record,
            checkpoints,
            ..Setup::default()
        };
        let bench = bench.warm();
        support::durable::lead(&bench.core, &["a", "b"]);
        World {
            bench,
            model: Model::default(),
            store,
            waits: BTreeMap::new(),
        }
    }

    fn core(&self) -> &VbucketCore {
        &self.bench.core
    }

    fn write(&self, wanted: Wanted) -> Write {
        let name = format!("k{}", wanted.name);
        let cas = match wanted.cas {
            Named::None => None,
            Named::Present => Some(self.model.cas(wanted.name)),
            Named::Another => Some(Cas(1)),
        };
        let expiry = ExpiryRequest(wanted.expiry);
        // Every other document is a number.
        let text = match wanted.name % 2 {
            0 => u32::from(wanted.name).pow(2).to_string(),
            _ => format!("{wanted:?}"),
        };
        let Set { key, value, .. } = set(&name, &text);
        let options = WriteOptions {
            cas,
            flags: u32::from(wanted.name),
            expiry,
            ..WriteOptions::default()
        };
        let acknowledge = Acknowledge::InMemory;
        match wanted.what {
            What::Set => Write::Set(Set {
                key,
                value,
                options,
            }),
            What::Add => Write::Add(Add {
                key,
                value,
                options,
            }),
            What::Replace => Write::Replace(Replace {
                key,
                value,
                options,
            }),
            What::Delete => Write::Delete(Delete {
                key,
                cas,
                acknowledge,
            }),
            What::Touch => Write::Touch(Touch {
                key,
                expiry,
                acknowledge,
            }),
            What::Append => Write::Append(Append {
                key,
                value,
                cas,
                acknowledge,
            }),
            What::Prepend => Write::Prepend(Prepend {
                key,
                value,
                cas,
                acknowledge,
            }),
            What::Count => Write::Count(Count {
                key,
                delta: match wanted.expiry {
                    0 => Delta::Increment(7),
                    _ => Delta::Decrement(50),
                },
                initial: cas.map(|_| 5),
                expiry,
                acknowledge,
            }),
        }
    }

    fn run(&mut self, step: &Step, fault: Option<ChangeStep>) {
        self.model.forgotten_rev = self.core().forgotten_revision();
        match step {
            Step::One(wanted) => {
                let write = self.write(*wanted);
                let core = &self.bench.core;
                let answer = crashing(core, fault, || vec![core.write(write.clone())]);
                self.judge(&[(*wanted, write)], answer, fault);
            }
            Step::Batch(all) => {
                // Versions named are those before the batch, by whoever made it.
                let writes: Vec<_> = all.iter().map(|one| (*one, self.write(*one))).collect();
                let batch = WriteBatch {
                    writes: writes.iter().map(|(_, write)| write.clone()).collect(),
                };
                let core = &self.bench.core;
                let answer = crashing(core, fault, || core.write_batch(batch));
                self.judge(&writes, answer, fault);
            }
            Step::Tick(seconds) => self.bench.clock.advance(Duration::from_secs(*seconds)),
            Step::Flush(items, ends) => self.flush(*items, *ends),
            Step::Durable(wanted) => self.write_durably(*wanted, fault),
            Step::Acknowledge(hundredths) => self.acknowledge(*hundredths),
            Step::Decide(max) => self.decide(*max, fault),
            Step::Bounce => self.bounce(),
        }
        self.check();
        self.forget_tombstones();
    }

    /// Compares answers with the model's. A panic strikes the first change; whatever stood before it is done, and it
    /// itself is if it got as far as the log.
    fn judge(
        &mut self,
        writes: &[(Wanted, Write)],
        answers: Option<Vec<Result<messages::vbucket::Mutated, OperationError>>>,
        fault: Option<ChangeStep>,
    ) {
        let now = self.bench.clock.seconds();
        let crashed = answers.is_none();
        if crashed {
            self.model.rebuild();
        }
        let mut answers = answers.into_iter().flatten();
        for (wanted, write) in writes {
            if crashed && fault == Some(ChangeStep::Locked) {
                return;
            }
            let mut after = self.model.clone();
            let expected = after.write(wanted.name, write, now);
            let is_changed = after.high != self.model.high;
            if crashed && is_changed && fault == Some(ChangeStep::Noted) {
                return;
            }
            self.model = after;
            if crashed && is_changed {
                self.learn_cas(wanted.name);
                return;
            }
            if crashed {
                continue;
            }
            let answer = answers.next().unwrap();
            let seqno = answer.as_ref().map(|mutated| mutated.token.seqno);
            assert_eq!(seqno, expected.as_ref().map(|()| self.model.high));
            if let Ok(mutated) = answer {
                self.model.slots.get_mut(&wanted.name).unwrap().cas = mutated.cas;
            }
        }
    }

    /// A tombstone that left memory is on disk; what is made in its place goes on behind all that did.
    fn forget_tombstones(&mut self) {
        let core = &self.bench.core;
        for (name, slot) in &mut self.model.slots {
            let name = key(&format!("k{name}"));
            let is_gone = core.get_meta(&name) == Err(OperationError::KeyNotFound);
            if slot.document.is_none() && is_gone {
                assert!(slot.seqno <= core.persisted_seqno());
                slot.is_forgotten = true;
            }
        }
    }

    /// Nobody was told the version of what a panic interrupted.
    fn learn_cas(&mut self, name: u8) {
        let meta = self.core().get_meta(&key(&format!("k{name}")));
        if let (Some(slot), Ok(meta)) = (self.model.slots.get_mut(&name), meta) {
            slot.cas = meta.cas;
        }
    }

    fn check(&self) {
        let now = self.bench.clock.seconds();
        assert_eq!(
            self.core().high_seqno(),
            self.model.high,
            "seqnos are dense"
        );
        for (name, slot) in &self.model.slots {
            let is_hidden = self
                .model
                .pending_of(*name)
                .is_some_and(|one| one.is_hidden);
            let name = key(&format!("k{name}"));
            let found = self.core().get(&name);
            let hidden = Err(OperationError::SyncWriteReCommitInProgress);
            assert_eq!(found == hidden, is_hidden);
            if is_hidden {
                continue;
            }
            let found = found.ok();
            let found = found.as_ref().map(|found| {
                let meta = &found.meta;
                (
                    found.value.clone(),
                    meta.flags,
                    meta.expiry,
                    meta.rev_seqno,
                    meta.seqno,
                )
            });
            assert_eq!(found, slot.shown(now));
        }
        let live = self
            .model
            .slots
            .values()
            .filter(|slot| slot.document.is_some());
        assert_eq!(self.core().figures().documents, live.count() as u64);
        durable::check(self.core());
    }

    fn flush(&mut self, items: usize, ends: bool) {
        let Some(take) = self.core().take_for_flush(items, usize::MAX) else {
            return;
        };
        let high = take.watermarks.high_seqno;
        if ends {
            let group = [support::batch(take, &support::position(&self.store))];
            for committed in self.store.commit(&group, storage::CommitDurability::Synced) {
                committed.unwrap();
            }
            self.core().note_persisted(high);
        } else {
            self.core()
                .resync(support::position(&self.store).high_seqno);
        }
    }

    /// The log, written out, is the map: nothing acknowledged is missing from either.
    fn finish(&self) {
        support::flush_all(self.core(), &self.store, 7);
        let snapshot = self.store.snapshot(id()).unwrap();
        assert_eq!(snapshot.high_seqno(), self.model.high);
        for (name, slot) in &self.model.slots {
            let name = key(&format!("k{name}"));
            let stored = snapshot.get(storage::Namespace::Committed, &name).unwrap();
            let stored = stored.unwrap();
            assert_eq!(stored.seqno, slot.seqno);
            assert_eq!(stored.operation.is_tombstone(), slot.document.is_none());
        }
        self.finish_durable(&*snapshot);
    }
}

/// Does `operation`, perhaps with a panic in its middle, and sees to it that the vbucket is repaired. `None`: it
/// panicked.
fn crashing<T>(
    core: &VbucketCore,
    fault: Option<ChangeStep>,
    operation: impl FnOnce() -> T,
) -> Option<T> {
    if let Some(point) = fault {
        core.panic_at(point);
    }
    let answer = catch_unwind(AssertUnwindSafe(operation)).ok();
    core.disarm();
    assert_eq!(core.is_suspect(), answer.is_none());
    if answer.is_none() {
        let vbucket = id();
        let crashed = OperationError::Crashed { vbucket };
        assert_eq!(core.get(&key("k0")).err(), Some(crashed.clone()));
        assert_eq!(core.set(set("k0", "")).err(), Some(crashed.clone()));
        assert_eq!(core.begin_stream().err(), Some(crashed));
        assert!(core.take_for_flush(1, 1).is_none());
        core.reconcile();
    }
    answer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any operations, durable ones too, flushes that come through or do not, and panics at every step of a change: answers
    /// and contents are the model's, no acknowledged write is missing, and every seqno is accounted for.
    #[test]
    fn equals_the_model(steps in steps(), items_max in 1usize..30) {
        let mut world = World::new(items_max);
        for (step, fault) in &steps {
            world.run(step, *fault);
        }
        world.finish();
    }
}
