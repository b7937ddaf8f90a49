//! The bucket's collections: one manifest, and every active vbucket follows it.
//!
//! Invariant: changes come one after the other; a change that is refused changed nothing, and one that began is in force for
//! everybody from that moment on, whichever vbuckets were told of it yet. They are told in bounded slices, by whoever asked
//! for the change, or by the engine if that one goes away or panics. What is acknowledged is on disk in every vbucket that is
//! in service, so that a bucket is opened with it, whichever of them can be read.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use parking_lot::Mutex;

use actors::vbucket::{BucketManifest, PersistPlace, VbucketCore, changed_above, newest};
use messages::vbucket::EraseEnded;
use messages::{Busy, ChangeManifest, CollectionsManifest, ManifestError, OperationError};
use storage::{ManifestUid, Outcome, Seqno, VbucketId, VbucketState};

use crate::running::Running;
use crate::vbucket_table::Table;

/// The collections of a running bucket.
#[derive(Debug)]
pub(crate) struct Collections {
    table: Arc<Table>,
    changing: Mutex<Changing>,
}

/// What one change leaves to the next.
#[derive(Debug)]
struct Changing {
    /// Uids to leave out: a vbucket that could not be read may have them.
    leap: u64,
}

/// Scopes and collections compared in one slice: about a millisecond. A slice is at least one vbucket, whose events lie behind
/// each other in its log and so are made under one lock.
const COMPARED_AT_ONCE: usize = 4096;

/// A change that is in force.
#[derive(Debug)]
struct Begun {
    uid: ManifestUid,
    followers: Vec<Follower>,
    /// So many of them in one slice.
    at_once: usize,
}

/// A vbucket that is to follow, with a place among those who wait for the disk if it serves.
type Follower = (Arc<VbucketCore>, Option<PersistPlace>);

/// Vbuckets that may not have followed, or are to be repaired: the engine looks after them where this is dropped.
pub(crate) struct Unfinished<'t> {
    table: &'t Table,
    is_over: bool,
}

impl Unfinished<'_> {
    pub(crate) const fn of(table: &Table) -> Unfinished<'_> {
        Unfinished {
            table,
            is_over: false,
        }
    }

    /// All of them were seen to.
    pub(crate) fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.table.suspects.notify_one();
        }
    }
}

/// By how much the next uid is higher where the highest may lie in a vbucket that could not be read: more changes than
/// only such a vbucket may have seen.
const UNREAD_LEAP: u64 = 1024 - 1;

impl Collections {
    /// Finds the newest manifest any active vbucket has, and has all active ones follow it, those at once that are open
    /// for writes. Called when the states of all were
    /// read and nobody is served yet.
    pub(crate) fn open(table: &Arc<Table>) -> Result<Collections, OperationError> {
        let manifest_of = |(_, core): (_, &Arc<VbucketCore>)| {
            let is_active = core.state() == VbucketState::Active;
            (is_active, core.collections_manifest())
        };
        let manifests: Vec<_> = table.cores().map(manifest_of).collect();
        if let Some(newest) = newest(&manifests) {
            table.manifest.set(Arc::clone(newest));
        }
        let mut unread = false;
        for slot in table.slots.iter().filter(|slot| slot.down().is_some()) {
            unread = true;
            // It may be active, and what it has is not to be given up for what another brings.
            table.manifest.note_state(slot.id(), VbucketState::Active);
        }
        let collections = Collections {
            table: Arc::clone(table),
            changing: Mutex::new(Changing {
                leap: if unread { UNREAD_LEAP } else { 0 },
            }),
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
        let begun = self.begin(request)?;
        let uid = begun.uid;
        let waits = self.carry_out(begun).await;
        let waits = waits.map_err(|cause| ManifestError::InForce { uid, cause })?;
        let mut is_on_disk = false;
        let mut down: Result<(), OperationError> = Ok(());
        for (place, seqno) in waits {
            match place.wait_for(seqno).await {
                Ok(()) => is_on_disk = true,
                // It is not in service any more, and follows at the next opening.
                Err(error @ OperationError::VbucketDown { .. }) => down = Err(error),
                Err(cause) => return Err(ManifestError::InForce { uid, cause }),
            }
        }
        match down {
            Err(cause) if !is_on_disk => Err(ManifestError::InForce { uid, cause }),
            _ => Ok(uid),
        }
    }

    /// Has vbuckets that missed a change follow it.
    pub(crate) async fn catch_up(&self) {
        let current = self.manifest();
        let at_once = vbuckets_at_once(&current, &current);
        for (number, (id, core)) in self.table.cores().enumerate() {
            between_slices(number, at_once).await;
            match core.follow_manifest() {
                // One that is closed is told at the next opening, one that crashed when it is repaired.
                Ok(_) | Err(OperationError::Closed | OperationError::Crashed { .. }) => {}
                Err(error) => {
                    tracing::error!(vbucket = %id, %error, "the manifest is not followed");
                }
            }
        }
    }

    /// Puts a change in force.
    fn begin(&self, request: &ChangeManifest) -> Result<Begun, ManifestError> {
        let mut changing = self.changing.lock();
        let begun = loop {
            let before = self.manifest();
            let given = ManifestUid(self.highest_uid().0.saturating_add(changing.leap));
            let next = changed_above(&before, request, given)?;
            let begun = Begun {
                uid: next.uid,
                followers: self.reserve()?,
                at_once: vbuckets_at_once(&before, &next),
            };
            // A vbucket that becomes active may raise the uid meanwhile.
            if self.shared().replace(&before, Arc::new(next)) {
                break begun;
            }
        };
        changing.leap = 0;
        Ok(begun)
    }

    /// Has all vbuckets follow a change: what is to be waited for in which.
    async fn carry_out(&self, begun: Begun) -> Result<Vec<(PersistPlace, Seqno)>, OperationError> {
        let unfinished = Unfinished::of(&self.table);
        let mut waits = Vec::new();
        let mut first: Result<(), OperationError> = Ok(());
        self.table.repair();
        for (number, (core, place)) in begun.followers.into_iter().enumerate() {
            between_slices(number, begun.at_once).await;
            match (core.follow_manifest(), place) {
                (Ok(Some(seqno)), Some(place)) => waits.push((place, seqno)),
                // It served a moment ago. Where it goes to others, they must hear of the change.
                (Ok(None), Some(_)) => first = first.and(Err(did_not_follow(&core))),
                // One that was given up follows when it is repaired, before it is brought back.
                (Ok(_), _) | (Err(OperationError::Crashed { .. }), None) => {}
                (Err(error), _) => first = first.and(Err(error)),
            }
        }
        unfinished.end();
        first.map(|()| waits)
    }

    /// The highest uid a vbucket has, replicas too, whose source gives uids of its own.
    fn highest_uid(&self) -> ManifestUid {
        let cores = self.table.cores();
        let uids = cores.map(|(_, core)| core.collections_manifest().uid);
        uids.max()
            .unwrap_or_default()
            .max(self.shared().highest_uid())
    }

    /// All vbuckets, with a place among those who wait for the disk for each that is active and in service. Whatever could be
    /// refused is refused here, before the first vbucket changes.
    fn reserve(&self) -> Result<Vec<Follower>, OperationError> {
        let mut followers = Vec::new();
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
            followers.push((Arc::clone(core), place));
        }
        // Where nobody keeps it nothing is changed.
        if followers.iter().all(|(_, place)| place.is_none()) {
            why_not?;
        }
        Ok(followers)
    }

    fn shared(&self) -> &BucketManifest {
        &self.table.manifest
    }
}

/// Why a vbucket that served when the change began did not follow it.
fn did_not_follow(core: &VbucketCore) -> OperationError {
    let admitted = serves(core).and_then(|()| core.admit_manifest());
    let gone_on = OperationError::TemporaryFailure(Busy::HandingOver);
    admitted.err().unwrap_or(gone_on)
}

/// How many vbuckets follow in one slice.
fn vbuckets_at_once(before: &CollectionsManifest, next: &CollectionsManifest) -> usize {
    let names = |of: &CollectionsManifest| of.scopes.len().saturating_add(of.collections.len());
    let each = names(before).saturating_add(names(next));
    COMPARED_AT_ONCE.checked_div(each).unwrap_or(1).max(1)
}

/// Lets others work before the vbucket of that number, if a slice begins with it.
async fn between_slices(number: usize, at_once: usize) {
    let mut has_yielded = number == 0 || number.checked_rem(at_once) != Some(0);
    poll_fn(|context| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
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
