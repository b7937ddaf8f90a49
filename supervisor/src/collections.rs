//! The bucket's collections: one manifest, and every active vbucket follows it.
//!
//! Invariant: changes come one after the other; a change that is refused changed nothing, and one that began is in force
//! in every vbucket, or will be when the one that crashed on the way was repaired. What is acknowledged is on disk in
//! every vbucket that is in service, so that a bucket is opened with it, whichever of them can be read.

use std::sync::Arc;

use parking_lot::Mutex;

use actors::vbucket::{BucketManifest, PersistPlace, VbucketCore, changed};
use messages::vbucket::EraseEnded;
use messages::{ChangeManifest, CollectionsManifest, ManifestError, OperationError};
use storage::{ManifestUid, Outcome, Seqno, VbucketId, VbucketState};

use crate::running::Running;
use crate::vbucket_table::Table;

/// The collections of a running bucket.
#[derive(Debug)]
pub(crate) struct Collections {
    table: Arc<Table>,
    changing: Mutex<()>,
}

impl Collections {
    /// Finds the newest manifest any vbucket has, and has all active ones follow it. Called when the states of all were
    /// read and nobody is served yet.
    pub(crate) fn open(table: &Arc<Table>) -> Result<Collections, OperationError> {
        let age = |(_, core): &(_, &Arc<VbucketCore>)| {
            let is_active = core.state() == VbucketState::Active;
            (core.collections_manifest().uid, is_active)
        };
        // Of equals the first: what two have under one uid differs only if a change was never acknowledged.
        let cores: Vec<_> = table.cores().collect();
        let newest = cores.into_iter().rev().max_by_key(age);
        if let Some((_, newest)) = newest {
            table.manifest.set(newest.collections_manifest());
        }
        let collections = Collections {
            table: Arc::clone(table),
            changing: Mutex::new(()),
        };
        for (_, core) in table.cores() {
            core.follow_manifest()?;
        }
        Ok(collections)
    }

    /// Which scopes and collections there are.
    pub(crate) fn manifest(&self) -> Arc<CollectionsManifest> {
        self.shared().current()
    }

    /// Makes a change, and answers once it is on disk.
    pub(crate) async fn change(
        &self,
        request: &ChangeManifest,
    ) -> Result<ManifestUid, ManifestError> {
        let (uid, waits) = self.begin(request)?;
        let mut is_on_disk = false;
        let mut down = Ok(());
        for (place, seqno) in waits {
            match place.wait_for(seqno).await {
                Ok(()) => is_on_disk = true,
                // It is not in service any more, and follows at the next opening.
                Err(error @ OperationError::VbucketDown { .. }) => down = Err(error),
                Err(error) => return Err(error.into()),
            }
        }
        if !is_on_disk {
            down?;
        }
        Ok(uid)
    }

    /// Has vbuckets that missed a change follow it.
    pub(crate) fn catch_up(&self) {
        let _changing = self.changing.lock();
        for (id, core) in self.table.cores() {
            match core.follow_manifest() {
                // One that is closed is told at the next opening, one that crashed when it is repaired.
                Ok(_) | Err(OperationError::Closed | OperationError::Crashed { .. }) => {}
                Err(error) => {
                    tracing::error!(vbucket = %id, %error, "the manifest is not followed");
                }
            }
        }
    }

    /// Makes a change in memory, where it is in force at once: what is to be waited for in which vbucket.
    fn begin(
        &self,
        request: &ChangeManifest,
    ) -> Result<(ManifestUid, Vec<(PersistPlace, Seqno)>), ManifestError> {
        let _changing = self.changing.lock();
        let next = changed(&self.manifest(), request)?;
        let uid = next.uid;
        let places = self.reserve()?;
        self.shared().set(Arc::new(next));
        let mut waits = Vec::new();
        let mut first = Ok(());
        self.table.repair();
        for ((_, core), place) in self.table.cores().zip(places) {
            match (core.follow_manifest(), place) {
                (Ok(Some(seqno)), Some(place)) => waits.push((place, seqno)),
                (Ok(_), _) => {}
                (Err(error), _) => first = first.and(Err(error)),
            }
        }
        first?;
        Ok((uid, waits))
    }

    /// Places among those who wait for the disk, one for each active vbucket in service. Whatever could be refused is
    /// refused here, before the first vbucket changes.
    fn reserve(&self) -> Result<Vec<Option<PersistPlace>>, OperationError> {
        let mut places = Vec::new();
        let mut why_not = self.table.core(VbucketId::FIRST).map(drop);
        for (_, core) in self.table.cores() {
            let place = match serves(core) {
                Ok(()) => {
                    core.admit_manifest()?;
                    Some(core.reserve_wait()?)
                }
                Err(error) => {
                    why_not = why_not.and(Err(error));
                    None
                }
            };
            places.push(place);
        }
        // Where nobody keeps it nothing is changed.
        if places.iter().all(Option::is_none) {
            why_not?;
        }
        Ok(places)
    }

    fn shared(&self) -> &BucketManifest {
        &self.table.manifest
    }
}

/// Whether a vbucket keeps a manifest.
fn serves(core: &VbucketCore) -> Result<(), OperationError> {
    let vbucket = core.id();
    if let Some(cause) = core.down() {
        return Err(OperationError::VbucketDown { vbucket, cause });
    }
    match core.state() {
        VbucketState::Active => Ok(()),
        state @ (VbucketState::Replica | VbucketState::Pending | VbucketState::Dead) => {
            Err(OperationError::NotMyVbucket { vbucket, state })
        }
    }
}

/// Rids memory of documents whose collections ended, one slice of one vbucket after the other, by the vbucket's own actor.
/// Begins with a look: the one before may have been told, and have panicked then.
pub(crate) async fn erase_ended(running: Arc<Running>) {
    loop {
        for (id, core) in running.table.cores() {
            let Some(actor) = running.addresses.get(id.index()) else {
                continue;
            };
            while core.has_ended() {
                match actor.send(EraseEnded).await {
                    // After a crash: answered once the actor is there again.
                    Ok(
                        Ok(Outcome::Yielded)
                        | Err(OperationError::Crashed { .. } | OperationError::ActorCrashed { .. }),
                    ) => {}
                    // Nobody waits for it: a vbucket that is out of service leaves it to the next time.
                    Ok(Ok(_) | Err(_)) | Err(_) => break,
                }
            }
        }
        running.table.manifest.ended().await;
    }
}
