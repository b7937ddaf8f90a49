//! Tenants that create, fill, drop and create anew collections of the same names while vbuckets are compacted, children panic
//! and the power goes.
//!
//! Invariant (id `collections-are-whole`): what was acknowledged of a manifest is there after every opening, what was not
//! acknowledged is there whole or not at all, and all vbuckets agree. A document is only ever found in the life of the
//! collection it was written to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use piggin::messages::vbucket::{Acknowledge, Get, Set, Write, WriteOptions};
use piggin::messages::{ManifestError, OperationError};
use piggin::storage::{CollectionId, DocumentKey, ManifestUid, OpenOptions, VbucketId};
use piggin::{Bucket, BucketConfig, BucketError};
use supervisor::testing::{Latencies, Random, SimulatedRandom, World, WorldSettings};

use crate::checkers::soundness;
use crate::faults::{children, power_cut};
use crate::support::evicting::Evictions;
use crate::workloads::compactions;

const TENANTS: u64 = 4;
const COLLECTIONS: u64 = 2;
const KEYS: u64 = 6;
const ACTIONS: u64 = 25;
const CRASHES: u64 = 3;
const COMPACTIONS: u64 = 10;
const SEEDS: u64 = 60;
const SEEDS_VARIABLE: &str = "PIGGIN_SEEDS";
/// Longer than anything takes: virtual time.
const PATIENCE: Duration = Duration::from_secs(300);

/// What left memory.
static LEFT: Evictions = Evictions::none();

/// A collection by name: whether it may be there.
#[derive(Clone, Debug, Default)]
struct Expected {
    /// What it was when it was last known to be on disk, then what was asked since.
    possible: Vec<bool>,
}

#[derive(Clone, Debug)]
struct Written {
    value: Bytes,
    is_persisted: bool,
}

/// What all tenants asked, and what they were told.
#[derive(Default)]
struct Model {
    names: BTreeMap<(String, String), Expected>,
    documents: BTreeMap<(CollectionId, String), Written>,
    acknowledged: ManifestUid,
}

#[derive(Clone)]
struct Tenant {
    number: u64,
    random: Arc<SimulatedRandom>,
    world: World,
    bucket: Bucket,
    model: Arc<Mutex<Model>>,
}

impl Tenant {
    fn scope(&self) -> String {
        format!("tenant-{}", self.number)
    }

    async fn act_all(self) {
        for _ in 0..ACTIONS {
            let pause = self.random.between(0..=20);
            self.world.sleep(Duration::from_millis(pause)).await;
            let scope = self.scope();
            if self.bucket.manifest().scope(&scope).is_none() {
                let made = self.bucket.create_scope(&scope).await;
                self.note_uid(&made);
                continue;
            }
            let name = format!("c{}", self.random.below(COLLECTIONS));
            match self.bucket.collection(&scope, &name) {
                Err(_) => self.change(&name, true).await,
                Ok(_) if self.random.chance(150) => self.change(&name, false).await,
                Ok(collection) => self.write(&name, &collection).await,
            }
        }
    }

    async fn change(&self, name: &str, is_creation: bool) {
        let (scope, place) = (self.scope(), (self.scope(), name.to_owned()));
        let asked = |model: &mut Model| {
            let expected = model.names.entry(place.clone()).or_default();
            if expected.possible.is_empty() {
                expected.possible.push(false);
            }
            expected.possible.push(is_creation);
        };
        asked(&mut self.model.lock());
        let answer = if is_creation {
            self.bucket.create_collection(scope, name).await
        } else {
            self.bucket.drop_collection(scope, name).await
        };
        self.note_uid(&answer);
        let mut model = self.model.lock();
        let expected = model.names.entry(place).or_default();
        match answer {
            Ok(_) => expected.possible = vec![is_creation],
            Err(ManifestError::Operation(OperationError::TemporaryFailure(_))) => {
                expected.possible.pop();
            }
            // In force, perhaps, and perhaps on disk.
            Err(_) => {}
        }
    }

    fn note_uid(&self, answer: &Result<ManifestUid, ManifestError>) {
        if let Ok(uid) = answer {
            let mut model = self.model.lock();
            model.acknowledged = model.acknowledged.max(*uid);
        }
    }

    async fn write(&self, name: &str, collection: &piggin::Collection) {
        let key = format!("key {}", self.random.below(KEYS));
        let place = (collection.id(), key.clone());
        // Each key once in each life, so that what is found can be told.
        if self.model.lock().documents.contains_key(&place) {
            return;
        }
        let value: Bytes = format!("{:?} {:016x}", place, self.random.next_u64()).into();
        let is_persisted = self.random.chance(500);
        let written = Written {
            value: value.clone(),
            is_persisted: false,
        };
        self.model.lock().documents.insert(place.clone(), written);
        let options = WriteOptions {
            acknowledge: if is_persisted {
                Acknowledge::Persisted
            } else {
                Acknowledge::InMemory
            },
            ..WriteOptions::default()
        };
        let key = collection.key(&key).expect("a short key");
        let set = Set {
            key,
            value,
            options,
        };
        let vbucket = self.bucket.vbucket_of(set.key.key());
        let answer = match self.bucket.vbucket(vbucket) {
            Some(actor) if self.random.chance(400) => {
                let answer = actor.send(set).await;
                answer.unwrap_or(Err(OperationError::Closed))
            }
            _ => {
                let answers = self.bucket.write_batch(vec![Write::Set(set)]).await;
                let first = answers.into_iter().next();
                first.unwrap_or(Err(OperationError::Closed))
            }
        };
        if answer.is_ok() && is_persisted {
            let mut model = self.model.lock();
            let written = model.documents.get_mut(&place).expect("noted above");
            written.is_persisted = true;
            // The collection's beginning lies before it in the vbucket's history.
            let place = (self.scope(), name.to_owned());
            model.names.entry(place).or_default().possible = vec![true];
        }
    }
}

struct Run {
    world: World,
    model: Arc<Mutex<Model>>,
}

impl Run {
    async fn live(&self) -> Result<Vec<String>, BucketError> {
        self.world.create(self.config()).await?.shutdown().await?;
        let mut findings = Vec::new();
        for _ in 0..CRASHES {
            children::plan_for_warmup(&self.world);
            let Ok(opened) = timeout(PATIENCE, self.open()).await else {
                return Ok(vec!["the bucket does not open".to_owned()]);
            };
            let bucket = opened?;
            findings.extend(self.check(&bucket, true).await);
            children::plan(&self.world);
            let tenants = self.start(&bucket);
            let operator = compactions::start(&self.world, &bucket, COMPACTIONS);
            power_cut::moment(&self.world).await;
            power_cut::strike(&self.world);
            for tenant in tenants {
                tenant.abort();
            }
            operator.abort();
            self.world.clear_faults();
        }
        let bucket = self.open().await?;
        findings.extend(self.check(&bucket, true).await);
        let operator = compactions::start(&self.world, &bucket, COMPACTIONS);
        for tenant in self.start(&bucket) {
            if timeout(PATIENCE, tenant).await.is_err() {
                findings.push("a tenant is not answered".to_owned());
            }
        }
        match operator.await {
            Ok(told) => findings.extend(told),
            Err(error) => findings.push(format!("the operator: {error}")),
        }
        findings.extend(self.check(&bucket, false).await);
        bucket.shutdown().await?;
        findings.extend(soundness::check(&self.world, &options())?);
        let bucket = self.open().await?;
        findings.extend(self.check(&bucket, false).await);
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
            store: options(),
            ..self.world.config()
        }
    }

    fn start(&self, bucket: &Bucket) -> Vec<JoinHandle<()>> {
        let start = |number: u64| {
            let tenant = Tenant {
                number,
                random: self.world.random(&format!("tenant {number}")),
                world: self.world.clone(),
                bucket: bucket.clone(),
                model: Arc::clone(&self.model),
            };
            tokio::task::spawn_local(tenant.act_all())
        };
        (0..TENANTS).map(start).collect()
    }

    /// Compares the bucket with the model. After a crash what is found is the truth from then on.
    async fn check(&self, bucket: &Bucket, is_after_crash: bool) -> Vec<String> {
        let mut findings = self.check_manifest(bucket);
        let manifest = bucket.manifest();
        let mut documents = 0;
        let written = self.model.lock().documents.clone();
        for ((id, key), written) in written {
            let is_open = manifest.collections.contains_key(&id);
            let found = read(bucket, id, &key).await;
            let expected = match (&found, is_open) {
                (Err(OperationError::UnknownCollection { .. }), false) => true,
                (Err(OperationError::KeyNotFound), true) => is_after_crash && !written.is_persisted,
                (Ok(value), true) => {
                    documents += 1;
                    *value == written.value
                }
                _ => false,
            };
            if !expected {
                findings.push(format!("{id:?} {key}: {found:?}, open: {is_open}"));
            }
            if is_after_crash && found.is_err() {
                self.model.lock().documents.remove(&(id, key));
            }
        }
        // Of what left memory the disk's count counts.
        if let Err(error) = bucket.flush().await {
            findings.push(format!("flush: {error}"));
        }
        LEFT.note(bucket);
        let counted = bucket.statistics().documents;
        if counted != documents {
            findings.push(format!("{counted} documents counted, {documents} there"));
        }
        findings
    }

    fn check_manifest(&self, bucket: &Bucket) -> Vec<String> {
        let mut findings = Vec::new();
        let manifest = bucket.manifest();
        let mut model = self.model.lock();
        if manifest.uid < model.acknowledged {
            findings.push(format!("{manifest:?} after {:?}", model.acknowledged));
        }
        for id in (0..4).filter_map(VbucketId::new) {
            let of_vbucket = bucket
                .vbucket_core(id)
                .map(|core| core.collections_manifest());
            if of_vbucket.as_ref() != Some(&manifest) {
                findings.push(format!(
                    "vbucket {id}: {of_vbucket:?} instead of {manifest:?}"
                ));
            }
        }
        for ((scope, name), expected) in &mut model.names {
            let is_there = manifest.collection(scope, name).is_some();
            if !expected.possible.contains(&is_there) {
                findings.push(format!("{scope}.{name}: {is_there}, not {expected:?}"));
            }
            expected.possible = vec![is_there];
        }
        findings
    }
}

/// By number, which a collection that is gone has, too.
async fn read(bucket: &Bucket, id: CollectionId, key: &str) -> Result<Bytes, OperationError> {
    let key = DocumentKey::new(id, key.as_bytes())?;
    let actor = bucket.vbucket(bucket.vbucket_of(key.key()));
    let answer = actor.ok_or(OperationError::Closed)?.send(Get { key }).await;
    let found = answer.map_err(|_| OperationError::Closed)?;
    found.map(|found| found.value)
}

/// So small that a few hundred documents are sealed, merged, checkpointed and copied out.
fn options() -> OpenOptions {
    OpenOptions {
        log_file_bytes_min: 64 << 10,
        log_file_bytes_max: 128 << 10,
        unsealed_bytes: 4 << 10,
        segments_max: 2,
        container_bytes_min: 0,
        block_bytes: 4 << 10,
        is_stepped: true,
        ..OpenOptions::new(1)
    }
}

#[test]
fn manifests_and_documents_are_whole_after_every_crash() {
    let seeds = std::env::var(SEEDS_VARIABLE).ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let (mut uids, mut documents) = (0, 0);
    for seed in 0..seeds {
        let settings = WorldSettings {
            latencies: Latencies::all(0..=4).of_class("maintenance", 0..=8),
            ..LEFT.settings_of(seed)
        };
        let run = World::run_with(seed, &settings, |world| async move {
            let run = Run {
                world,
                model: Arc::default(),
            };
            let findings = run.live().await;
            let findings = findings.unwrap_or_else(|error| vec![format!("the bucket: {error}")]);
            let model = run.model.lock();
            (findings, model.acknowledged.0, model.documents.len())
        });
        let (findings, uid, written) = run.expect("a run that ends");
        assert_eq!(findings, [""; 0], "seed {seed}");
        uids += uid;
        documents += written;
    }
    assert!(uids > seeds * 10 && documents > 0, "{uids} {documents}");
    println!("{seeds} seeds, {uids} manifests, {documents} documents");
    LEFT.assert_some();
}
