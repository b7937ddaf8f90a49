//! The direct door under a scheduler that tries one order of threads after another (rule R23): whatever comes between
//! two steps of a vbucket's core, there is one history, nobody waits for ever, and nothing gets past what was closed.
//!
//! A scheduler that finds a fault prints the order it found; `PIGGIN_THREAD_ORDERS` asks for more of them. It takes every
//! ordering of an atomic for the strongest: what a weaker one lets through is not found here.
#![cfg(test)]

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use shuttle::future::block_on;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::mpsc::{Receiver, SyncSender, sync_channel};
use shuttle::{Config, Runner, thread};

use messages::vbucket::{Mutated, Set, SetVbucketState, WriteOptions};
use messages::{Busy, ManifestChange, OperationError};
use piggin_actors::vbucket::{
    ChangeStep, DirtyVbuckets, EvictionWalk, LookedUp, VbucketCore, WakeFlusher, WakeSent, changed,
};
use storage::{
    Cas, CollectionId, DocumentKey, Eviction, Item, KvStore, MemoryStore, Namespace, RollbackEpoch,
    Seqno, VbucketState,
};
use support::durable::{acknowledge, answer, follower, from_memory, lead, leader, mutation};
use support::durable::{prepare, prepared};
use support::{
    Bench, Setup, active, active_evicting, become_state, delete, flush_all, id, key, position, set,
    value,
};

/// Orders tried of each scene, by each scheduler.
const ORDERS: usize = 1500;
/// How often the second scheduler changes its mind within a run.
const CHANGES_OF_MIND: usize = 3;

fn orders() -> usize {
    let asked = std::env::var("PIGGIN_THREAD_ORDERS").ok();
    asked.map_or(ORDERS, |asked| asked.parse().unwrap())
}

/// Plays a scene in many orders, the same ones in every run of the test.
fn in_every_order(scene: fn()) {
    let mut config = Config::default();
    config.silence_warnings = true;
    let random = RandomScheduler::new_from_seed(1, orders());
    Runner::new(random, config.clone()).run(scene);
    let by_priority = PctScheduler::new_from_seed(2, CHANGES_OF_MIND, orders());
    Runner::new(by_priority, config).run(scene);
}

/// What was answered for one write: the key, the version, and the value unless it was a deletion.
type Answered = Vec<(&'static str, Mutated, Option<String>)>;

fn write(core: &VbucketCore, who: &str) -> Answered {
    let mut answered = Vec::new();
    let mutated = core.set(set("a", who)).unwrap();
    answered.push(("a", mutated, Some(who.to_owned())));
    match core.delete(delete("b")) {
        Ok(mutated) => answered.push(("b", mutated, None)),
        Err(error) => assert_eq!(error, OperationError::KeyNotFound),
    }
    let mutated = core.set(set("b", who)).unwrap();
    answered.push(("b", mutated, Some(who.to_owned())));
    answered
}

#[test]
fn two_writers_a_reader_and_a_flusher_see_one_history() {
    in_every_order(|| {
        let setup = Setup::default();
        let store = Arc::new(MemoryStore::new(8));
        store.create_vbucket(id(), &setup.record).unwrap();
        let Bench { core, memory, .. } = setup.warm();
        let writers = ["one", "two"].map(|who| {
            let core = Arc::clone(&core);
            thread::spawn(move || write(&core, who))
        });
        let flusher = thread::spawn({
            let (core, store) = (Arc::clone(&core), Arc::clone(&store));
            move || flush_all(&core, &*store, 2)
        });
        let mut newest = Cas(0);
        for _ in 0..2 {
            if let Ok(found) = core.get(&key("a")) {
                assert!(found.meta.cas >= newest, "a reader never sees time go back");
                newest = found.meta.cas;
            }
        }
        let answers = writers.map(|writer| writer.join().unwrap());
        flusher.join().unwrap();
        flush_all(&core, &*store, 2);
        is_one_history(&core, &store, answers.into_iter().flatten().collect());
        drop((core, store));
        assert_eq!(memory.held_bytes(), 0, "every item was released");
    });
}

fn is_one_history(core: &VbucketCore, store: &MemoryStore, answers: Answered) {
    let mut history = BTreeMap::new();
    for (name, mutated, text) in answers {
        let before = history.insert(mutated.token.seqno, (name, mutated.cas, text));
        assert_eq!(before, None, "a seqno is given once");
    }
    assert_eq!(
        history.len() as u64,
        core.high_seqno().0,
        "none is left out"
    );
    let cas: Vec<Cas> = history.values().map(|(_, cas, _)| *cas).collect();
    assert!(cas.is_sorted(), "the order of seqnos is the order of cas");
    let newest: BTreeMap<_, _> = history
        .iter()
        .map(|(seqno, (name, _, text))| (*name, (*seqno, text.clone())))
        .collect();
    assert_eq!(position(store).high_seqno, core.high_seqno());
    for (name, (seqno, text)) in &newest {
        assert_eq!(value(core, name).ok(), *text);
        let stored = store.get(id(), Namespace::Committed, &key(name));
        assert_eq!(stored.unwrap().unwrap().seqno, *seqno);
    }
    let documents = newest.values().filter(|(_, text)| text.is_some()).count();
    assert_eq!(core.figures().documents, documents as u64);
}

#[test]
fn who_compares_and_swaps_counts_everybody() {
    in_every_order(|| {
        let Bench { core, .. } = active();
        core.set(set("counter", "0")).unwrap();
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let core = Arc::clone(&core);
                thread::spawn(move || while !count_one(&core) {})
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        assert_eq!(value(&core, "counter").unwrap(), "3");
    });
}

/// Whether nobody else counted meanwhile.
fn count_one(core: &VbucketCore) -> bool {
    let found = core.get(&key("counter")).unwrap();
    let count: u64 = std::str::from_utf8(&found.value).unwrap().parse().unwrap();
    let mut wanted = set("counter", &(count + 1).to_string());
    wanted.options.cas = Some(found.meta.cas);
    match core.set(wanted) {
        Ok(_) => true,
        Err(OperationError::CasMismatch { current }) => {
            assert!(current > found.meta.cas);
            false
        }
        Err(error) => panic!("{error}"),
    }
}

enum Told {
    Wake,
    Stop,
}

/// A flusher that sleeps unless it is told; it keeps the order its edge asks of it.
fn flush(core: &VbucketCore, store: &MemoryStore, dirty: &DirtyVbuckets, told: &Receiver<Told>) {
    while let Ok(Told::Wake) = told.recv() {
        dirty.clear_wake();
        while dirty.take().is_some() {
            while let Some(take) = core.take_for_flush(1, usize::MAX) {
                dirty.set_flusher_busy(true);
                thread::yield_now();
                let high = take.watermarks.high_seqno;
                let group = [support::batch(take, &position(store))];
                for committed in store.commit(&group, storage::CommitDurability::Synced) {
                    committed.unwrap();
                }
                core.note_persisted(high);
                dirty.set_flusher_busy(false);
            }
        }
    }
    assert!(dirty.is_empty(), "marked, and nobody was woken");
    assert!(!core.has_unflushed(), "changed, and nobody was woken");
}

#[test]
fn who_waits_for_the_disk_is_answered_and_nothing_is_left_behind() {
    in_every_order(|| {
        let setup = Setup::default();
        let store = Arc::new(MemoryStore::new(8));
        store.create_vbucket(id(), &setup.record).unwrap();
        let Bench { core, dirty, .. } = setup.warm();
        let (tell, told) = sync_channel(2);
        dirty.set_waker(waker(tell.clone()));
        let flusher = thread::spawn({
            let (core, dirty, store) = (Arc::clone(&core), Arc::clone(&dirty), Arc::clone(&store));
            move || flush(&core, &store, &dirty, &told)
        });
        let patient = thread::spawn({
            let (core, store) = (Arc::clone(&core), Arc::clone(&store));
            move || {
                let place = core.reserve_wait().unwrap();
                let written = core.set(set("a", "1")).unwrap().token.seqno;
                assert_eq!(block_on(place.wait_for(written)), Ok(()));
                let stored = store.get(id(), Namespace::Committed, &key("a"));
                assert!(
                    stored.unwrap().unwrap().seqno >= written,
                    "answered too early"
                );
            }
        });
        for name in ["b", "a"] {
            core.set(set(name, "2")).unwrap();
        }
        patient.join().unwrap();
        tell.send(Told::Stop).unwrap();
        flusher.join().unwrap();
        assert_eq!(core.persisted_seqno(), core.high_seqno());
        assert_eq!(core.waiting(), 0);
    });
}

/// One wake-up is under way at most, so there is always room for it beside the order to stop.
fn waker(tell: SyncSender<Told>) -> WakeFlusher {
    WakeFlusher::new(move || {
        tell.try_send(Told::Wake).unwrap();
        WakeSent::Delivered
    })
}

/// What two callers wrote while something was closed, and how far the vbucket had come when that was done.
fn write_while(core: &Arc<VbucketCore>, close: impl FnOnce()) -> (Seqno, Vec<OperationError>) {
    let writers = ["a", "b"].map(|name| {
        let core = Arc::clone(core);
        thread::spawn(move || [1, 2].map(|_| core.set(set(name, "value"))))
    });
    close();
    let closed_at = core.high_seqno();
    let mut refused = Vec::new();
    for answer in writers.into_iter().flat_map(|one| one.join().unwrap()) {
        match answer {
            Ok(mutated) => assert!(mutated.token.seqno <= closed_at, "behind what was closed"),
            Err(error) => refused.push(error),
        }
    }
    (closed_at, refused)
}

#[test]
fn behind_a_closed_gate_nothing_is_under_way() {
    in_every_order(|| {
        let Bench { core, .. } = active();
        let (closed_at, refused) = write_while(&core, || core.close_gate());
        assert!(refused.iter().all(|error| *error == OperationError::Closed));
        assert_eq!(core.high_seqno(), closed_at);
    });
}

#[test]
fn behind_a_change_of_state_nothing_is_under_way() {
    in_every_order(|| {
        let Bench { core, .. } = active();
        let become_replica = || {
            let replica = SetVbucketState {
                state: VbucketState::Replica,
                topology: None,
                is_takeover: false,
            };
            core.set_state(replica).unwrap();
        };
        let (closed_at, refused) = write_while(&core, become_replica);
        for error in refused {
            assert!(
                matches!(error, OperationError::NotMyVbucket { .. }),
                "{error}"
            );
        }
        assert_eq!(core.high_seqno(), closed_at);
    });
}

fn follow(bench: &Bench, change: ManifestChange) -> Option<CollectionId> {
    let next = changed(&bench.manifest.current(), &change.into()).unwrap();
    let collection = next.collection("_default", "c");
    bench.manifest.set(Arc::new(next));
    bench.core.follow_manifest().unwrap();
    collection
}

#[test]
fn behind_the_end_of_a_collection_nothing_of_it_is_written_or_seen() {
    in_every_order(|| {
        let bench = active();
        let (scope, collection) = ("_default".to_owned(), "c".to_owned());
        let create = ManifestChange::CreateCollection {
            scope: scope.clone(),
            collection: collection.clone(),
            max_ttl_s: 0,
        };
        let number = follow(&bench, create).unwrap();
        let key = DocumentKey::new(number, b"k").unwrap();
        let writers = [1, 2].map(|_| {
            let (core, key) = (Arc::clone(&bench.core), key.clone());
            thread::spawn(move || {
                let set = Set {
                    key: key.clone(),
                    value: Bytes::from_static(b"value"),
                    options: WriteOptions::default(),
                };
                (core.set(set), core.get(&key))
            })
        });
        follow(&bench, ManifestChange::DropCollection { scope, collection });
        let ended_at = bench.core.high_seqno();
        let is_unknown = |error: &OperationError| {
            assert!(
                matches!(error, OperationError::UnknownCollection { .. }),
                "{error}"
            );
        };
        is_unknown(&bench.core.get(&key).unwrap_err());
        for (written, read) in writers.map(|writer| writer.join().unwrap()) {
            match written {
                Ok(mutated) => assert!(mutated.token.seqno < ended_at, "behind its end"),
                Err(error) => {
                    is_unknown(&error);
                    is_unknown(&read.unwrap_err());
                }
            }
        }
        assert_eq!(bench.core.high_seqno(), ended_at);
    });
}

/// Everything is on disk, though there is none, and nobody but the map has it.
fn persist(core: &VbucketCore) {
    while let Some(taken) = core.take_for_flush(usize::MAX, usize::MAX) {
        let high = taken.watermarks.high_seqno;
        drop(taken);
        core.note_persisted(high);
    }
    core.shrink_log();
}

/// As many rounds as have anything leave that may.
fn evict(core: &VbucketCore) {
    for _ in 0..4 {
        let mut walk = EvictionWalk::default();
        while !core.evict(&mut walk).is_at_end {}
    }
}

/// The only document there is, as the store has it.
fn stored(core: &VbucketCore) -> LookedUp {
    let mut items = (0..).map_while(|number| core.slice(number)).flatten();
    let item = Item::clone(&items.next().unwrap());
    LookedUp {
        up_to: core.persisted_seqno(),
        epoch: RollbackEpoch(0),
        newest: Some(Arc::new(item)),
    }
}

const NOT_IN_MEMORY: OperationError = OperationError::TemporaryFailure(Busy::NotInMemory);

#[test]
fn what_is_written_while_the_older_leaves_stays() {
    in_every_order(|| write_beside_pager(Eviction::Documents));
    in_every_order(|| write_beside_pager(Eviction::Values));
}

fn write_beside_pager(eviction: Eviction) {
    let Bench { core, .. } = active_evicting(eviction);
    core.set(set("a", "old")).unwrap();
    persist(&core);
    let pager = thread::spawn({
        let core = Arc::clone(&core);
        move || evict(&core)
    });
    core.set(set("a", "new")).unwrap();
    assert_eq!(value(&core, "a").as_deref(), Ok("new"));
    pager.join().unwrap();
    assert_eq!(value(&core, "a").as_deref(), Ok("new"));
}

#[test]
fn what_is_put_back_is_never_older_than_what_left() {
    in_every_order(|| put_back_beside_writer(Eviction::Documents));
    in_every_order(|| put_back_beside_writer(Eviction::Values));
}

fn put_back_beside_writer(eviction: Eviction) {
    let Bench { core, .. } = active_evicting(eviction);
    core.set(set("a", "old")).unwrap();
    persist(&core);
    let looked_up = stored(&core);
    evict(&core);
    assert_eq!(value(&core, "a"), Err(NOT_IN_MEMORY));
    let reader = thread::spawn({
        let core = Arc::clone(&core);
        move || {
            core.restore(&looked_up);
            // What it reads is of the moment it looked, or later; a stub says that it is not the newest any more.
            let read = core.get_knowing(&key("a"), Some(&looked_up));
            let is_newer = eviction == Eviction::Values && read == Err(NOT_IN_MEMORY);
            assert!(is_newer || read.is_ok(), "{read:?}");
        }
    });
    core.set(set("a", "new")).unwrap();
    persist(&core);
    evict(&core);
    let seen = value(&core, "a");
    assert!(
        seen.as_deref() == Ok("new") || seen == Err(NOT_IN_MEMORY),
        "{seen:?}"
    );
    reader.join().unwrap();
    let seen = value(&core, "a");
    assert!(
        seen.as_deref() == Ok("new") || seen == Err(NOT_IN_MEMORY),
        "{seen:?}"
    );
}

#[test]
fn what_was_on_disk_before_a_rollback_is_not_believed_behind_it() {
    in_every_order(|| {
        let Bench { core, .. } = active();
        let before = core.state_record();
        let written = core.set(set("a", "value")).unwrap().token.seqno;
        let replica = SetVbucketState {
            state: VbucketState::Replica,
            topology: None,
            is_takeover: false,
        };
        core.set_state(replica).unwrap();
        let taken = core.take_for_flush(usize::MAX, usize::MAX).unwrap();
        let writer = thread::spawn({
            let core = Arc::clone(&core);
            move || core.note_persisted(taken.watermarks.high_seqno)
        });
        core.begin_rollback().unwrap();
        while !core.withdraw() {
            thread::yield_now();
        }
        core.reset(&before);
        writer.join().unwrap();
        let wait = core.wait_persisted(written).unwrap();
        assert_eq!(wait.now_or_never(), None, "it was taken back");
    });
}

#[test]
fn a_caller_that_panics_under_the_lock_loses_nobody_s_write() {
    in_every_order(|| {
        let bench = active();
        bench.core.panic_at(ChangeStep::Appended);
        let writers = ["a", "b"].map(|name| {
            let core = Arc::clone(&bench.core);
            thread::spawn(move || {
                let write = || core.set(set(name, "value"));
                let Ok(answer) = catch_unwind(AssertUnwindSafe(write)) else {
                    core.reconcile();
                    return None;
                };
                Some(answer)
            })
        });
        let answers = writers.map(|writer| writer.join().unwrap());
        let crashed = answers.iter().filter(|answer| answer.is_none()).count();
        assert_eq!(crashed, 1, "one of them panicked");
        let mut written = 1;
        for answer in answers.into_iter().flatten() {
            match answer {
                Ok(_) => written += 1,
                Err(error) => assert_eq!(error, OperationError::Crashed { vbucket: id() }),
            }
        }
        // What was appended happened, whoever panicked behind it.
        assert_eq!(bench.core.high_seqno(), Seqno(written));
        assert_eq!(bench.core.figures().documents, written);
        assert!(!bench.core.is_suspect());
    });
}

#[test]
fn what_is_committed_anew_is_never_read_as_it_was_before() {
    in_every_order(|| {
        let (bench, epoch) = follower();
        from_memory(&bench.core, epoch, &[mutation(1, "k"), prepared(2, "k")]);
        become_state(&bench.core, VbucketState::Active);
        lead(&bench.core, &["a"]);
        let reader = thread::spawn({
            let core = Arc::clone(&bench.core);
            move || [(); 3].map(|()| core.get(&key("k")))
        });
        let writer = thread::spawn({
            let core = Arc::clone(&bench.core);
            move || core.set(set("k", "later"))
        });
        bench.decide();
        for read in reader.join().unwrap() {
            match read {
                Ok(found) => assert_ne!(found.value, "value 1", "another was told of value 2"),
                Err(error) => assert_eq!(error, OperationError::SyncWriteReCommitInProgress),
            }
        }
        let last = match writer.join().unwrap() {
            Ok(_) => "later",
            Err(error) => {
                assert_eq!(error, OperationError::SyncWriteInProgress);
                "value 2"
            }
        };
        assert_eq!(value(&bench.core, "k").unwrap(), last);
    });
}

#[test]
fn who_writes_durably_is_answered_once_whoever_decides() {
    in_every_order(|| {
        let bench = Arc::new(leader(&["a", "b"]));
        let writers = ["one", "two"].map(|text| {
            let core = Arc::clone(&bench.core);
            thread::spawn(move || {
                let mut wait = prepare(&core, text, text);
                acknowledge(&core, "b", core.high_seqno().0);
                drop(core.do_durability(std::time::Duration::ZERO, 1));
                wait_for(&core, &mut wait)
            })
        });
        // Two at once may be told to do what is decided.
        bench.decide();
        let seqnos = writers.map(|writer| writer.join().unwrap());
        assert_ne!(seqnos[0], seqnos[1]);
        assert_eq!(bench.core.high_seqno(), Seqno(4));
        assert_eq!(value(&bench.core, "one").unwrap(), "one");
        assert_eq!(bench.core.durability_figures().prepares, 0);
    });
}

/// Whoever waits goes on doing what is decided meanwhile.
fn wait_for(core: &VbucketCore, wait: &mut piggin_actors::vbucket::DurableWait) -> Seqno {
    loop {
        if let Some(told) = answer(wait) {
            return told.unwrap().token.seqno;
        }
        drop(core.do_durability(std::time::Duration::ZERO, 1));
        thread::yield_now();
    }
}
