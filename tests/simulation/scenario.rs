//! Puts a workload, faults and checkers together: a bucket is loaded while children and the disk fail, its power is cut
//! or its process killed, it is opened again and checked, again and again, and at last ended in order.
//!
//! Invariant: a finding is a broken promise of the bucket, never an effect of a fault it was not asked to survive.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use piggin::messages::FailureId;
use piggin::storage::OpenOptions;
use piggin::{Bucket, BucketConfig, BucketError, CompactionConfig, CompactionPolicy, SizeTier};
use supervisor::testing::{Event, Latencies, RunError, World, WorldSettings};

use crate::checkers::{acknowledged, failures, soundness};
use crate::faults::{bad_disk, children, power_cut};
use crate::history::History;
use crate::plants::Plant;
use crate::support::evicting::Evictions;
use crate::workloads::clients::{self, Ended};
use crate::workloads::compactions;

const CLIENTS: u64 = 6;
const WRITES: u64 = 20;
/// Compactions somebody asks for in each life.
const COMPACTIONS: u64 = 6;
/// Lives that end by a power cut or a kill.
const CRASHES: u64 = 2;
/// What is said of an operator who came to no end.
const OPERATOR: &str = "the operator panicked";
/// Longer than any opening takes on a disk that works: virtual time.
const OPENING: Duration = Duration::from_secs(300);

/// What left memory.
pub(crate) static LEFT: Evictions = Evictions::none();

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Broken promises, none if all is well.
    pub(crate) findings: Vec<String>,
    /// All that happened, as one number.
    pub(crate) hash: u64,
    /// What of the injected faults struck, the disk's aside.
    pub(crate) struck: Vec<String>,
    /// What clients did beside plain writes, and how often.
    pub(crate) done: BTreeMap<&'static str, u64>,
    /// How much happened.
    pub(crate) events: u64,
    /// The newest of it, to compare two runs.
    pub(crate) newest: Vec<Event>,
}

/// One run of one seed.
pub(crate) fn run(seed: u64, plant: Plant) -> Result<Report, RunError> {
    let settings = plant.settings(WorldSettings {
        latencies: Latencies::all(0..=4).of_class("maintenance", 0..=8),
        events_kept: 20_000,
        ..LEFT.settings_of(seed)
    });
    World::run_with(seed, &settings, |world| async move {
        let run = Run {
            world: world.clone(),
            plant,
            history: History::default(),
            struck: Mutex::default(),
        };
        let findings = run.live().await;
        let mut findings = findings.unwrap_or_else(|error| vec![format!("the bucket: {error}")]);
        findings.extend(run.history.take_findings());
        Report {
            findings,
            struck: run.struck.into_inner(),
            done: run.history.done(),
            hash: world.trace_hash(),
            events: world.trace().events(),
            newest: world.trace().newest(),
        }
    })
}

struct Run {
    world: World,
    plant: Plant,
    history: History,
    struck: Mutex<Vec<String>>,
}

impl Run {
    async fn live(&self) -> Result<Vec<String>, BucketError> {
        let config = self.config();
        self.world.create(config).await?.shutdown().await?;
        let mut findings = Vec::new();
        for _ in 0..CRASHES {
            findings.extend(self.life_that_crashes().await?);
        }
        findings.extend(self.life_with_panics().await?);
        findings.extend(self.life_in_order().await?);
        Ok(findings)
    }

    /// The power goes while clients write, children panic and the disk fails.
    async fn life_that_crashes(&self) -> Result<Vec<String>, BucketError> {
        let random = self.world.random("scenario");
        children::plan_for_warmup(&self.world);
        if random.chance(200) {
            power_cut::at_some_call(&self.world);
            // It may open, or fail, or wait for the disk; it was given no work and is not asked.
            drop(timeout(OPENING, self.open()).await);
            self.end(Vec::new(), power_cut::now);
            return Ok(Vec::new());
        }
        let Ok(opened) = timeout(OPENING, self.open()).await else {
            return Ok(vec!["the bucket does not open".to_owned()]);
        };
        let bucket = opened?;
        let mut findings = acknowledged::after_a_crash(&bucket, &self.history).await;
        bad_disk::plan(&self.world);
        children::plan(&self.world);
        let clients = self.start_clients(&bucket);
        // What he was answered when the end comes is told to nobody.
        let operator = compactions::start(&self.world, &bucket, COMPACTIONS);
        power_cut::moment(&self.world).await;
        // Before the end: what is told because of it is nobody's fault.
        findings.extend(failures::check(&self.world, &bucket));
        self.note_failures(&bucket);
        self.end(clients, power_cut::strike);
        operator.abort();
        Ok(findings)
    }

    /// Children panic, the disk is well; at the end the process is killed.
    async fn life_with_panics(&self) -> Result<Vec<String>, BucketError> {
        children::plan_for_warmup(&self.world);
        let bucket = self.open().await?;
        let mut findings = acknowledged::after_a_crash(&bucket, &self.history).await;
        children::plan(&self.world);
        let operator = compactions::start(&self.world, &bucket, COMPACTIONS);
        for (number, client) in self.start_clients(&bucket).into_iter().enumerate() {
            match client.await {
                Ok(Ended::Done | Ended::Failed) => {}
                other => findings.push(format!("client {number} ended as {other:?}")),
            }
        }
        findings.extend(operator.await.unwrap_or_else(|_| vec![OPERATOR.to_owned()]));
        if self.plant == Plant::LosesADocument {
            self.lose_a_document(&bucket).await;
        }
        findings.extend(acknowledged::while_it_lives(&bucket, &self.history).await);
        if let Err(error) = bucket.flush().await {
            findings.push(format!("flush: {error}"));
        }
        findings.extend(acknowledged::while_it_lives(&bucket, &self.history).await);
        findings.extend(failures::check(&self.world, &bucket));
        self.note_failures(&bucket);
        self.end(Vec::new(), World::kill);
        Ok(findings)
    }

    /// Nothing goes wrong any more, so every write succeeds, and the bucket is found as it was left.
    async fn life_in_order(&self) -> Result<Vec<String>, BucketError> {
        let bucket = self.open().await?;
        let mut findings = acknowledged::after_a_crash(&bucket, &self.history).await;
        let operator = compactions::start(&self.world, &bucket, COMPACTIONS);
        for (number, client) in self.start_clients(&bucket).into_iter().enumerate() {
            match client.await {
                Ok(Ended::Done) => {}
                other => findings.push(format!("client {number} ended as {other:?}")),
            }
        }
        findings.extend(operator.await.unwrap_or_else(|_| vec![OPERATOR.to_owned()]));
        let compaction = bucket.statistics().compaction;
        if compaction.failed > 0 || compaction.completed < COMPACTIONS / 2 {
            findings.push(format!("compactions on a sound disk: {compaction:?}"));
        }
        findings.extend(acknowledged::while_it_lives(&bucket, &self.history).await);
        findings.extend(failures::check(&self.world, &bucket));
        bucket.shutdown().await?;
        findings.extend(soundness::check(&self.world, &options())?);
        let bucket = self.open().await?;
        findings.extend(acknowledged::while_it_lives(&bucket, &self.history).await);
        bucket.shutdown().await?;
        Ok(findings)
    }

    async fn open(&self) -> Result<Bucket, BucketError> {
        self.world.open(self.config()).await
    }

    fn config(&self) -> BucketConfig {
        BucketConfig {
            vbuckets: Some(4),
            log_shards: Some(2),
            actor_threads: Some(2),
            compaction: compaction(),
            store: options(),
            ..self.world.config()
        }
    }

    fn start_clients(&self, bucket: &Bucket) -> Vec<JoinHandle<Ended>> {
        let mut numbers: Vec<u64> = (0..CLIENTS).collect();
        if self.plant == Plant::StartsInRandomOrder {
            numbers = in_random_order(numbers);
        }
        clients::start(&self.world, bucket, &self.history, &numbers, WRITES)
    }

    /// Ends the bucket as `how` does; whoever still waits for an answer of it waits no more.
    fn end(&self, clients: Vec<JoinHandle<Ended>>, how: impl FnOnce(&World)) {
        how(&self.world);
        for client in clients {
            client.abort();
        }
        let struck = self.world.faults_struck();
        self.struck
            .lock()
            .extend(struck.iter().map(|one| format!("{one:?}")));
        self.world.clear_faults();
    }

    /// So that they are part of the hash.
    fn note_failures(&self, bucket: &Bucket) {
        LEFT.note(bucket);
        for failure in bucket.failures(FailureId(0)).failures {
            let (what, who) = (failure.kind.counter(), failure.child.as_str());
            let figures = [failure.id.0, failure.at_ms, failure.generation.0];
            self.world.trace().event(what, who, &figures);
        }
    }

    async fn lose_a_document(&self, bucket: &Bucket) {
        for (place, history) in self.history.keys() {
            let newest = history.writes.last();
            if newest.is_some_and(|written| written.outcome.seqno().is_some()) {
                // Not there is as good as lost.
                drop(bucket.delete(&place.1).await);
                return;
            }
        }
    }
}

/// So eager that a few hundred documents are compacted again and again.
fn compaction() -> CompactionConfig {
    let tier = SizeTier {
        bytes_max: u64::MAX,
        segments_max: 2,
    };
    CompactionConfig {
        policy: CompactionPolicy {
            tiers: [tier; 2],
            fragmented_bytes_min: 4 << 10,
            ..CompactionPolicy::default()
        },
        purge_age: Duration::from_secs(1),
        ..CompactionConfig::default()
    }
}

/// So small that a few hundred documents are sealed, merged, checkpointed and copied out.
fn options() -> OpenOptions {
    OpenOptions {
        log_file_bytes_min: 64 << 10,
        log_file_bytes_max: 128 << 10,
        unsealed_bytes: 16 << 10,
        container_bytes_min: 0,
        block_bytes: 4 << 10,
        is_stepped: true,
        ..OpenOptions::new(1)
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "the planted bug is the very thing that is banned"
)]
fn in_random_order(numbers: Vec<u64>) -> Vec<u64> {
    let set: std::collections::HashSet<u64> = numbers.into_iter().collect();
    set.into_iter().collect()
}
