//! The monitors on their own, what the field got wrong, and a cluster of them under everything that can happen to one.

mod active;
mod passive;
mod changes;
mod world;
mod invariants;
mod model;

use std::collections::BTreeMap;
use std::time::Duration;

use storage::{
    CollectionId, DocumentKey, DurabilityLevel, Seqno, SnapshotKind, SnapshotRange, Topology,
    VbucketState, Watermarks,
};

use super::*;

use DurabilityLevel::{Majority, MajorityAndPersistOnActive, PersistToMajority};

const LATER: Option<Duration> = Some(Duration::from_secs(30));

fn key(name: &str) -> DocumentKey {
    DocumentKey::new(CollectionId::DEFAULT, name.as_bytes()).unwrap()
}

/// A prepare of a key of its own.
fn prepare(seqno: u64, level: DurabilityLevel) -> Prepare {
    prepare_of(&format!("key {seqno}"), seqno, level)
}

fn prepare_of(name: &str, seqno: u64, level: DurabilityLevel) -> Prepare {
    Prepare {
        seqno: Seqno(seqno),
        key: key(name),
        level,
    }
}

fn node(name: &str) -> NodeName {
    NodeName::new(name)
}

/// Chains of nodes; an empty name is a place not filled.
fn chains(of: &[&[&str]]) -> Option<Chains> {
    let place = |name: &&str| (!name.is_empty()).then(|| (*name).to_owned());
    let chain = |names: &&[&str]| names.iter().map(place).collect();
    let chains = of.iter().map(chain).collect();
    Chains::of(&Topology { chains }).unwrap()
}

/// Where a vbucket stands.
fn view(high_seqno: u64, persisted: u64) -> Standing {
    Standing {
        high_seqno: Seqno(high_seqno),
        persisted: Seqno(persisted),
        is_behind_disk: false,
        requirements: Requirements::default(),
    }
}

/// The monitor of a vbucket that was always in this state, and whose disk is empty.
fn fresh(state: VbucketState) -> Monitor {
    let (outstanding, ledger) = (Outstanding::default(), Ledger::<()>::default());
    Monitor::rebuild(state, None, outstanding, &view(0, 0), &ledger)
}

fn active_of(monitor: Monitor) -> ActiveMonitor {
    match monitor {
        Monitor::Active(active) => active,
        other @ (Monitor::Passive(_) | Monitor::Dead(_)) => panic!("{other:?} is not active"),
    }
}

fn passive_of(monitor: Monitor) -> PassiveMonitor {
    match monitor {
        Monitor::Passive(passive) => passive,
        other @ (Monitor::Active(_) | Monitor::Dead(_)) => panic!("{other:?} is not passive"),
    }
}

/// An active monitor with this topology, of a bucket that allows three replicas.
fn active(of: &[&[&str]]) -> ActiveMonitor {
    let mut active = active_of(fresh(VbucketState::Active));
    active.set_requirements(Requirements {
        replicas_max: 3,
        ..Requirements::default()
    });
    active.set_chains(chains(of));
    active
}

fn passive() -> PassiveMonitor {
    passive_of(fresh(VbucketState::Replica))
}

/// What is decided and not done: seqnos, negative for what is given up.
fn decided(active: &ActiveMonitor) -> Vec<i64> {
    let signed = |one: &Decision| {
        let seqno = i64::try_from(one.prepare().seqno.0).unwrap();
        if one.verdict() == Verdict::Abort {
            -seqno
        } else {
            seqno
        }
    };
    active.decisions().map(signed).collect()
}

fn undecided(active: &ActiveMonitor) -> Vec<u64> {
    active.undecided().map(|one| one.seqno.0).collect()
}

fn incomplete(passive: &PassiveMonitor) -> Vec<u64> {
    passive.incomplete().map(|one| one.seqno.0).collect()
}

/// The monitor once the vbucket is this.
fn become_state(mut monitor: Monitor, state: VbucketState, view: &Standing) -> Monitor {
    monitor.become_state(state, view);
    monitor
}
