//! Which collections are open in one vbucket, since when, and how far each has come. Pure.
//!
//! Invariant: every system event that is in the checkpoint log is in here; so after a panic in the middle of a change this
//! says how far the change came, and what is left of it. The default collection is always open and in no map. Every
//! document in memory that is not of the default collection is counted in its life, or among those of lives that ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::vbucket::kept::{Held, Kept};
use messages::CollectionsManifest;
use messages::collections::CollectionEntry;
use storage::{CollectionId, DocumentKey, ManifestUid, ScopeId, Seqno, SystemEvent};

/// One life of a collection.
#[derive(Debug)]
struct Life {
    /// The event that began it.
    start: Seqno,
    max_ttl_s: u32,
    high: AtomicU64,
    /// Of it in memory.
    documents: AtomicU64,
}

/// What an operation must know of an open collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vbucket) struct Opened {
    /// Documents below belong to an earlier life.
    pub(in crate::vbucket) start: Seqno,
    /// Longest life of a document; zero for no limit.
    pub(in crate::vbucket) max_ttl_s: u32,
}

impl Opened {
    /// The default collection.
    pub(in crate::vbucket) const DEFAULT: Opened = Opened {
        start: Seqno::ZERO,
        max_ttl_s: 0,
    };

    /// What of this key is part of the collection, if the newest version in memory is.
    pub(in crate::vbucket) fn shown(self, newest: Option<&Kept>) -> Option<&Kept> {
        newest.filter(|kept| kept.seqno() >= self.start)
    }
}

/// The collections of a vbucket.
#[derive(Debug, Default)]
pub(in crate::vbucket) struct OpenCollections {
    /// The manifest that was followed to its end last.
    applied: Arc<CollectionsManifest>,
    lives: BTreeMap<CollectionId, Life>,
    /// With the event that began each.
    scopes: BTreeMap<ScopeId, Seqno>,
    /// Highest number a collection ever had here.
    highest: CollectionId,
    /// Documents in memory of lives that ended: nobody sees them any more.
    ended_documents: AtomicU64,
}

/// What is to be done of an event that was taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::vbucket) struct Applied {
    /// A collection began under a number that was used before: the store may hold keys of its earlier life.
    pub(in crate::vbucket) has_begun_again: bool,
    /// A life of a collection ended, told or not: its documents are to go.
    pub(in crate::vbucket) has_ended: bool,
}

/// The manifest that the newest events of a vbucket's slots come to.
#[must_use]
pub fn manifest_of(
    uid: ManifestUid,
    events: impl IntoIterator<Item = (Seqno, SystemEvent)>,
) -> Arc<CollectionsManifest> {
    Arc::clone(OpenCollections::of_events(uid, events).manifest())
}

impl OpenCollections {
    /// What a vbucket of that manifest holds whose events these are, the newest of each slot.
    pub(in crate::vbucket) fn of_events(
        uid: ManifestUid,
        events: impl IntoIterator<Item = (Seqno, SystemEvent)>,
    ) -> OpenCollections {
        let mut open = OpenCollections::default();
        for (seqno, event) in events {
            open.apply(&event, seqno);
            open.apply_to_manifest(&event);
        }
        Arc::make_mut(&mut open.applied).uid = uid;
        open
    }

    /// The manifest that was followed last.
    pub(in crate::vbucket) fn manifest(&self) -> &Arc<CollectionsManifest> {
        &self.applied
    }

    /// The collection, if it is open.
    pub(in crate::vbucket) fn opened(&self, id: CollectionId) -> Option<Opened> {
        if id == CollectionId::DEFAULT {
            return Some(Opened::DEFAULT);
        }
        self.lives.get(&id).map(|life| Opened {
            start: life.start,
            max_ttl_s: life.max_ttl_s,
        })
    }

    /// Whether a version of that key and seqno is part of an open collection.
    pub(in crate::vbucket) fn has(&self, key: &DocumentKey, seqno: Seqno) -> bool {
        let opened = self.opened(key.collection());
        opened.is_some_and(|opened| seqno >= opened.start)
    }

    /// Something of a collection came to this seqno.
    pub(in crate::vbucket) fn note_high(&self, id: CollectionId, seqno: Seqno) {
        if let Some(life) = self.lives.get(&id) {
            life.high.fetch_max(seqno.0, Ordering::Relaxed);
        }
    }

    /// A document came to memory, in the place of `before` if there is one.
    pub(in crate::vbucket) fn note_document(&self, new: Held<'_>, before: Option<Held<'_>>) {
        if !new.is_tombstone() {
            self.counter(new).fetch_add(1, Ordering::Relaxed);
        }
        if let Some(before) = before {
            self.note_gone(before);
        }
    }

    /// A version left memory.
    pub(in crate::vbucket) fn note_gone(&self, gone: Held<'_>) {
        if !gone.is_tombstone() {
            self.counter(gone).fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether no document of a collection, which is not the default one, is in memory.
    pub(in crate::vbucket) fn has_none_of(&self, collection: CollectionId) -> bool {
        let life = self.lives.get(&collection);
        let documents = life.map(|life| life.documents.load(Ordering::Relaxed));
        collection != CollectionId::DEFAULT && documents.is_none_or(|documents| documents == 0)
    }

    /// Documents in memory that nobody sees any more.
    pub(in crate::vbucket) fn ended_documents(&self) -> u64 {
        self.ended_documents.load(Ordering::Relaxed)
    }

    /// The same once `to` is followed, which is in force.
    pub(in crate::vbucket) fn documents_not_in(&self, to: &CollectionsManifest) -> u64 {
        let lives = self.lives.iter();
        let ends = lives.filter(|(id, _)| !self.keeps_collection(**id, to));
        let documents = ends.map(|(_, life)| life.documents.load(Ordering::Relaxed));
        documents.fold(self.ended_documents(), u64::saturating_add)
    }

    /// Where a version, not of the default collection, is counted.
    fn counter(&self, held: Held<'_>) -> &AtomicU64 {
        let life = self.lives.get(&held.key().collection());
        let life = life.filter(|life| held.seqno() >= life.start);
        life.map_or(&self.ended_documents, |life| &life.documents)
    }

    /// This in the place of what was known before, with the documents that were counted there.
    pub(in crate::vbucket) fn with_documents_of(self, before: &OpenCollections) -> OpenCollections {
        let mut ended = before.ended_documents();
        for (id, life) in &before.lives {
            let documents = life.documents.load(Ordering::Relaxed);
            let same = self.lives.get(id).filter(|same| same.start == life.start);
            match same {
                Some(same) => same.documents.store(documents, Ordering::Relaxed),
                None => ended = ended.saturating_add(documents),
            }
        }
        self.ended_documents.store(ended, Ordering::Relaxed);
        self
    }

    /// How far an open collection, not the default one, has come.
    pub(in crate::vbucket) fn high_seqno(&self, id: CollectionId) -> Option<Seqno> {
        let life = self.lives.get(&id)?;
        Some(Seqno(life.high.load(Ordering::Relaxed)))
    }

    /// The event whose slot this one takes, if there is one here that is not an end.
    pub(in crate::vbucket) fn replaced_by(&self, event: &SystemEvent) -> Option<Seqno> {
        match event {
            SystemEvent::CollectionBegin { collection, .. }
            | SystemEvent::CollectionEnd { collection, .. } => {
                self.lives.get(collection).map(|life| life.start)
            }
            SystemEvent::ScopeBegin { scope, .. } | SystemEvent::ScopeEnd { scope, .. } => {
                self.scopes.get(scope).copied()
            }
        }
    }

    /// Takes in an event that is in the log at `seqno`. The same again changes nothing.
    pub(in crate::vbucket) fn apply(&mut self, event: &SystemEvent, seqno: Seqno) -> Applied {
        match event {
            SystemEvent::CollectionBegin {
                collection,
                max_ttl_s,
                ..
            } => self.begin(*collection, seqno, *max_ttl_s),
            SystemEvent::CollectionEnd { collection, .. } => {
                self.highest = self.highest.max(*collection);
                let life = self.lives.remove(collection);
                Applied {
                    has_ended: self.retire(life),
                    ..Applied::default()
                }
            }
            SystemEvent::ScopeBegin { scope, .. } => {
                self.scopes.insert(*scope, seqno);
                Applied::default()
            }
            SystemEvent::ScopeEnd { scope, .. } => {
                self.scopes.remove(scope);
                Applied::default()
            }
        }
    }

    fn begin(&mut self, id: CollectionId, start: Seqno, max_ttl_s: u32) -> Applied {
        if self.lives.get(&id).is_some_and(|life| life.start == start) {
            return Applied::default();
        }
        let life = Life {
            start,
            max_ttl_s,
            high: AtomicU64::new(start.0),
            documents: AtomicU64::new(0),
        };
        // Still open where the end of it was superseded by this before it came here.
        let before = self.lives.insert(id, life);
        let has_begun_again = id <= self.highest;
        self.highest = self.highest.max(id);
        Applied {
            has_begun_again,
            has_ended: self.retire(before),
        }
    }

    /// What was of a life that is over is nobody's; whether there was one.
    fn retire(&self, life: Option<Life>) -> bool {
        let Some(life) = life else { return false };
        let documents = life.documents.into_inner();
        self.ended_documents.fetch_add(documents, Ordering::Relaxed);
        true
    }

    /// The same for the manifest, where nobody hands in the whole of it: on a replica.
    pub(in crate::vbucket) fn apply_to_manifest(&mut self, event: &SystemEvent) {
        let manifest = Arc::make_mut(&mut self.applied);
        let uid = match event {
            SystemEvent::CollectionBegin {
                uid,
                scope,
                collection,
                name,
                max_ttl_s,
            } => {
                let entry = CollectionEntry {
                    scope: *scope,
                    name: name.clone(),
                    max_ttl_s: *max_ttl_s,
                };
                manifest.collections.insert(*collection, entry);
                uid
            }
            SystemEvent::CollectionEnd {
                uid, collection, ..
            } => {
                manifest.collections.remove(collection);
                uid
            }
            SystemEvent::ScopeBegin { uid, scope, name } => {
                manifest.scopes.insert(*scope, name.clone());
                uid
            }
            SystemEvent::ScopeEnd { uid, scope } => {
                manifest.scopes.remove(scope);
                uid
            }
        };
        manifest.uid = manifest.uid.max(*uid);
    }

    /// The events that lead from here to `to`, in such an order that no collection is ever in a scope that is not there.
    /// What has another content under the same number ends and begins again.
    pub(in crate::vbucket) fn events_to(&self, to: &CollectionsManifest) -> Vec<SystemEvent> {
        let uid = to.uid;
        let collection_end = |(id, life): (&CollectionId, &Life)| SystemEvent::CollectionEnd {
            uid,
            scope: self.scope_of(*id, to),
            collection: *id,
            start: life.start,
        };
        let scope_end = |scope: &ScopeId| SystemEvent::ScopeEnd { uid, scope: *scope };
        let scope_begin = |(scope, name): (&ScopeId, &String)| SystemEvent::ScopeBegin {
            uid,
            scope: *scope,
            name: name.clone(),
        };
        let collection_begin =
            |(id, entry): (&CollectionId, &CollectionEntry)| SystemEvent::CollectionBegin {
                uid,
                scope: entry.scope,
                collection: *id,
                name: entry.name.clone(),
                max_ttl_s: entry.max_ttl_s,
            };
        let lives = self.lives.iter();
        let ended = lives.filter(|(id, _)| !self.keeps_collection(**id, to));
        let scopes_ended = self.scopes.keys().filter(|id| !self.keeps_scope(**id, to));
        let scopes = to.scopes.iter();
        let scopes_begun = scopes.filter(|(id, _)| !self.keeps_scope(**id, to));
        let collections = to.collections.iter();
        let begun = collections.filter(|(id, _)| !self.keeps_collection(**id, to));
        ended
            .map(collection_end)
            .chain(scopes_ended.map(scope_end))
            .chain(scopes_begun.map(scope_begin))
            .chain(begun.map(collection_begin))
            .collect()
    }

    /// Everything that leads to this manifest is in the log.
    pub(in crate::vbucket) fn arrive(&mut self, at: &Arc<CollectionsManifest>) {
        self.applied = Arc::clone(at);
    }

    /// What began since the last manifest, in a change that was interrupted, is as the newest manifest says.
    fn keeps_scope(&self, id: ScopeId, to: &CollectionsManifest) -> bool {
        let is_here = id == ScopeId::DEFAULT || self.scopes.contains_key(&id);
        let before = self.applied.scopes.get(&id);
        let after = to.scopes.get(&id);
        is_here && after.is_some_and(|after| before.is_none_or(|before| before == after))
    }

    fn keeps_collection(&self, id: CollectionId, to: &CollectionsManifest) -> bool {
        let is_here = id == CollectionId::DEFAULT || self.lives.contains_key(&id);
        let before = self.applied.collections.get(&id);
        let after = to.collections.get(&id);
        is_here
            && after.is_some_and(|after| {
                before.is_none_or(|before| before == after) && self.keeps_scope(after.scope, to)
            })
    }

    fn scope_of(&self, id: CollectionId, to: &CollectionsManifest) -> ScopeId {
        let entry = self.applied.collections.get(&id);
        let entry = entry.or_else(|| to.collections.get(&id));
        entry.map_or(ScopeId::DEFAULT, |entry| entry.scope)
    }
}
