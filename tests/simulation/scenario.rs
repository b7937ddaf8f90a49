//! Puts a workload, faults and checkers together: load, power cut, reopening and checking, again and again, and at last
//! an orderly end.
//!
//! Invariant: a finding is a broken promise of the engine, never an effect of a fault it was not asked to survive.

use std::sync::Arc;
use std::time::Duration;

use piggin::storage::StorageError;
use supervisor::testing::{Event, Latencies, RunError, StopWorkers, World, WorldSettings};

use crate::checkers::{acknowledged, soundness};
use crate::engine::{Engine, Plant};
use crate::faults::{bad_disk, power_cut, worker_panic};
use crate::workloads::clients::{self, Ended, History};

const CLIENTS: u64 = 6;
const WRITES: u64 = 30;
const POWER_CUTS: u64 = 2;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Broken promises, none if all is well.
    pub(crate) findings: Vec<String>,
    /// All that happened, as one number.
    pub(crate) hash: u64,
    /// How much happened.
    pub(crate) events: u64,
    /// The newest of it, to compare two runs.
    pub(crate) newest: Vec<Event>,
}

/// One run of one seed.
pub(crate) fn run(seed: u64, plant: Plant) -> Result<Report, RunError> {
    let latencies = Latencies::all(0..=4).of_class("maintenance", 0..=8);
    let settings = WorldSettings {
        latencies,
        events_kept: 20_000,
        virtual_time_max: Duration::from_secs(3600),
        ..WorldSettings::default()
    };
    World::run_with(seed, &settings, |world| async move {
        let findings = live(&world, plant).await;
        let findings = findings.unwrap_or_else(|error| vec![format!("the store: {error}")]);
        Report {
            findings,
            hash: world.trace_hash(),
            events: world.trace().events(),
            newest: world.trace().newest(),
        }
    })
}

async fn live(world: &World, plant: Plant) -> Result<Vec<String>, StorageError> {
    Engine::create(world)?;
    let history = History::default();
    let mut findings = Vec::new();
    for _ in 0..POWER_CUTS {
        let engine = Arc::new(Engine::open(world, plant)?);
        findings.extend(check(&engine, &history)?);
        bad_disk::plan(world);
        worker_panic::plan(world);
        let clients = clients::start(world, &engine, &history, CLIENTS, WRITES);
        power_cut::strike(world).await;
        world.clear_faults();
        world.executor().all_ended().await;
        for client in clients {
            // Its writer is gone, and nobody will answer.
            client.abort();
        }
    }
    let engine = Arc::new(Engine::open(world, plant)?);
    findings.extend(check(&engine, &history)?);
    let clients = clients::start(world, &engine, &history, CLIENTS, WRITES);
    for (number, client) in clients.into_iter().enumerate() {
        // Nothing goes wrong any more, so every write succeeds.
        match client.await {
            Ok(Ended::Done) => {}
            other => findings.push(format!("client {number} ended as {other:?}")),
        }
    }
    if let Some(engine) = Arc::into_inner(engine) {
        engine.shut_down().await?;
    } else {
        findings.push("somebody still holds the engine".to_owned());
    }
    let engine = Engine::open(world, plant)?;
    findings.extend(check(&engine, &history)?);
    engine.shut_down().await?;
    Ok(findings)
}

fn check(engine: &Engine, history: &History) -> Result<Vec<String>, StorageError> {
    let mut findings = acknowledged::check(engine, history)?;
    findings.extend(soundness::check(engine)?);
    Ok(findings)
}
