//! The direct door from several threads at once: one order of seqnos, the order of CAS values, and per key the order in
//! which callers were answered; with a flusher at work and a store that holds the same in the end.
#![cfg(test)]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use messages::OperationError;
use messages::vbucket::{Mutated, Write, WriteBatch};
use piggin_actors::vbucket::VbucketCore;
use piggin_actors::vbucket::checkpoint::CheckpointLimits;
use storage::{Cas, KvStore, MemoryStore, Namespace, Seqno};
use support::{Bench, Setup, delete, flush_all, id, key, position, set, value};

const THREADS: usize = 4;
const TURNS: usize = 3000;

/// What one thread did: which key, and what was answered, with the value written if one was.
type Answered = Vec<(String, Mutated, Option<String>)>;

fn work(core: &VbucketCore, thread: usize) -> Answered {
    let mut answered = Vec::new();
    for turn in 0..TURNS {
        let name = format!("k{}", (turn * 7 + thread * 3) % 11);
        let text = format!("{thread}-{turn}");
        match turn % 5 {
            0 => match core.delete(delete(&name)) {
                Ok(mutated) => answered.push((name, mutated, None)),
                Err(error) => assert_eq!(error, OperationError::KeyNotFound),
            },
            1 => {
                let writes = vec![Write::Set(set(&name, &text)), Write::Set(set(&name, &text))];
                for mutated in core.write_batch(WriteBatch { writes }) {
                    answered.push((name.clone(), mutated.unwrap(), Some(text.clone())));
                }
            }
            2 => swap(core, &name, &text, &mut answered),
            _ => {
                let mutated = core.set(set(&name, &text)).unwrap();
                answered.push((name, mutated, Some(text)));
            }
        }
    }
    answered
}

/// Compare and swap: of all callers who read one version, one is answered.
fn swap(core: &VbucketCore, name: &str, text: &str, answered: &mut Answered) {
    let Ok(found) = core.get(&key(name)) else {
        return;
    };
    let mut wanted = set(name, text);
    wanted.options.cas = Some(found.meta.cas);
    match core.set(wanted) {
        Ok(mutated) => answered.push((name.to_owned(), mutated, Some(text.to_owned()))),
        Err(OperationError::CasMismatch { current }) => assert!(current > found.meta.cas),
        Err(error) => assert_eq!(error, OperationError::KeyNotFound),
    }
}

#[test]
fn four_writers_and_a_flusher() {
    let setup = Setup {
        checkpoints: CheckpointLimits {
            items_max: 500,
            ..CheckpointLimits::default()
        },
        ..Setup::default()
    };
    let store = MemoryStore::new(8);
    store.create_vbucket(id(), &setup.record).unwrap();
    let Bench { core, memory, .. } = setup.warm();
    let is_over = AtomicBool::new(false);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let core = &core;
        let flusher = scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                flush_all(core, &store, 100);
            }
        });
        let reader = scope.spawn(|| {
            let mut newest = Cas(0);
            while !is_over.load(Ordering::Acquire) {
                if let Ok(found) = core.get(&key("k3")) {
                    assert!(found.meta.cas >= newest, "a reader never sees time go back");
                    newest = found.meta.cas;
                }
            }
        });
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || work(core, thread)))
            .collect();
        let answers = writers.into_iter().flat_map(|one| one.join().unwrap());
        let answers = answers.collect();
        is_over.store(true, Ordering::Release);
        flusher.join().unwrap();
        reader.join().unwrap();
        answers
    });
    let mut history: BTreeMap<Seqno, (String, Cas, Option<String>)> = BTreeMap::new();
    for (name, mutated, text) in answers {
        let before = history.insert(mutated.token.seqno, (name, mutated.cas, text));
        assert_eq!(before, None, "a seqno is given once");
    }
    assert_eq!(
        history.len() as u64,
        core.high_seqno().0,
        "and none is left out"
    );
    let orders = history.values().zip(history.values().skip(1));
    for ((_, one, _), (_, next, _)) in orders {
        assert!(one < next, "the order of seqnos is the order of cas");
    }
    let newest: BTreeMap<_, _> = history
        .iter()
        .map(|(seqno, (name, _, text))| (name.clone(), (*seqno, text.clone())))
        .collect();
    flush_all(&core, &store, usize::MAX);
    assert_eq!(position(&store).high_seqno, core.high_seqno());
    for (name, (seqno, text)) in &newest {
        assert_eq!(value(&core, name).ok(), *text);
        let stored = store
            .get(id(), Namespace::Committed, &key(name))
            .unwrap()
            .unwrap();
        assert_eq!(stored.seqno, *seqno);
        assert_eq!(stored.operation.is_tombstone(), text.is_none());
    }
    let documents = newest.values().filter(|(_, text)| text.is_some()).count() as u64;
    assert_eq!(core.figures().documents, documents);
    let counts = store.counts(id()).unwrap().total();
    assert_eq!(counts.documents, i64::try_from(documents).unwrap());
    drop((core, store));
    assert_eq!(memory.held_bytes(), 0, "every item was released");
}

#[test]
fn a_gate_that_is_closed_has_nothing_under_way_behind_it() {
    for _ in 0..50 {
        let Bench { core, .. } = support::active();
        let started = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for name in ["a", "b"] {
                let (core, started) = (&core, &started);
                scope.spawn(move || {
                    while core.set(set(name, "value")).is_ok() {
                        started.store(true, Ordering::Release);
                    }
                });
            }
            while !started.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            core.close_gate();
            let high = core.high_seqno();
            for _ in 0..20 {
                std::thread::yield_now();
                assert_eq!(core.high_seqno(), high);
            }
        });
    }
}
