//! A manifest and a change make the next manifest: names, limits, uids.
//!
//! Invariant: a number given to a collection or a scope is higher than any given before, because it follows from the uid;
//! what is refused changes nothing.

use std::sync::Arc;

use messages::collections::{CollectionEntry, DEFAULT_NAME, NameError};
use messages::{ChangeManifest, CollectionsManifest, ManifestChange, ManifestError};
use storage::{CollectionId, ManifestUid, ScopeId};

/// The numbers below are kept: 0 is the default's, 1 the prefix of system events, the rest the field keeps as well.
const FIRST_NUMBER: u64 = 8;

/// The manifest a bucket is opened with, of those its vbuckets have; each with whether the vbucket is active. Content is
/// that of the active ones, as long as there is one. Where two have another content under the newest uid, most decide.
#[must_use]
pub fn newest(manifests: &[(bool, Arc<CollectionsManifest>)]) -> Option<&Arc<CollectionsManifest>> {
    let age =
        |(is_active, manifest): &&(bool, Arc<CollectionsManifest>)| (*is_active, manifest.uid);
    let best = manifests.iter().max_by_key(age)?;
    let candidates = manifests.iter().filter(|one| age(one) == age(&best));
    let mut counted: Vec<(&Arc<CollectionsManifest>, usize)> = Vec::new();
    for (_, manifest) in candidates {
        match counted.iter_mut().find(|(one, _)| *one == manifest) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => counted.push((manifest, 1)),
        }
    }
    // Of equals the first.
    let most = counted.into_iter().rev().max_by_key(|(_, count)| *count);
    most.map(|(manifest, _)| manifest)
}

/// The manifest that comes of a change.
pub fn changed(
    manifest: &CollectionsManifest,
    request: &ChangeManifest,
) -> Result<CollectionsManifest, ManifestError> {
    changed_above(manifest, request, manifest.uid)
}

/// The same where uids up to `given` may be in use somewhere.
pub fn changed_above(
    manifest: &CollectionsManifest,
    request: &ChangeManifest,
    given: ManifestUid,
) -> Result<CollectionsManifest, ManifestError> {
    let current = manifest.uid;
    if let Some(expected) = request.expected.filter(|one| *one != current) {
        let given = expected;
        return Err(ManifestError::Stale { given, current });
    }
    let mut next = manifest.clone();
    next.uid = ManifestUid(current.max(given).0.saturating_add(1));
    match &request.change {
        ManifestChange::CreateScope { scope } => create_scope(&mut next, scope)?,
        ManifestChange::CreateCollection {
            scope,
            collection,
            max_ttl_s,
        } => create_collection(&mut next, scope, collection, *max_ttl_s)?,
        ManifestChange::DropScope { scope } => drop_scope(&mut next, scope)?,
        ManifestChange::DropCollection { scope, collection } => {
            drop_collection(&mut next, scope, collection)?;
        }
    }
    Ok(next)
}

fn create_scope(next: &mut CollectionsManifest, name: &str) -> Result<(), ManifestError> {
    check_name(name)?;
    if next.scope(name).is_some() {
        let scope = name.to_owned();
        return Err(ManifestError::ScopeExists { scope });
    }
    if next.scopes.len() >= CollectionsManifest::SCOPES_MAX {
        return Err(too_many("scopes", CollectionsManifest::SCOPES_MAX));
    }
    let number = number(next.uid)?;
    next.scopes.insert(ScopeId(number), name.to_owned());
    Ok(())
}

fn create_collection(
    next: &mut CollectionsManifest,
    scope: &str,
    name: &str,
    max_ttl_s: u32,
) -> Result<(), ManifestError> {
    check_name(name)?;
    let scope_id = scope_of(next, scope)?;
    if next.collection(scope, name).is_some() {
        return Err(ManifestError::CollectionExists {
            scope: scope.to_owned(),
            collection: name.to_owned(),
        });
    }
    if next.collections.len() >= CollectionsManifest::COLLECTIONS_MAX {
        let max = CollectionsManifest::COLLECTIONS_MAX;
        return Err(too_many("collections", max));
    }
    let entry = CollectionEntry {
        scope: scope_id,
        name: name.to_owned(),
        max_ttl_s,
    };
    let number = number(next.uid)?;
    next.collections.insert(CollectionId(number), entry);
    Ok(())
}

fn drop_scope(next: &mut CollectionsManifest, name: &str) -> Result<(), ManifestError> {
    let scope = scope_of(next, name)?;
    if scope == ScopeId::DEFAULT {
        return Err(ManifestError::Default);
    }
    next.scopes.remove(&scope);
    next.collections.retain(|_, entry| entry.scope != scope);
    Ok(())
}

fn drop_collection(
    next: &mut CollectionsManifest,
    scope: &str,
    name: &str,
) -> Result<(), ManifestError> {
    scope_of(next, scope)?;
    let Some(id) = next.collection(scope, name) else {
        return Err(ManifestError::UnknownCollection {
            scope: scope.to_owned(),
            collection: name.to_owned(),
        });
    };
    if id == CollectionId::DEFAULT {
        return Err(ManifestError::Default);
    }
    next.collections.remove(&id);
    Ok(())
}

fn scope_of(manifest: &CollectionsManifest, name: &str) -> Result<ScopeId, ManifestError> {
    let unknown = || ManifestError::UnknownScope {
        scope: name.to_owned(),
    };
    manifest.scope(name).ok_or_else(unknown)
}

/// The highest number that was given up to a manifest: each gives one at most.
pub(super) const fn highest_number(uid: ManifestUid) -> u64 {
    uid.0.saturating_add(FIRST_NUMBER - 1)
}

/// The number of what a manifest has first.
fn number(uid: ManifestUid) -> Result<u32, ManifestError> {
    u32::try_from(highest_number(uid))
        .map_err(|_| too_many("numbers for collections", u32::MAX as usize))
}

const fn too_many(what: &'static str, max: usize) -> ManifestError {
    ManifestError::TooMany { what, max }
}

/// Whether a name is one a client may give.
fn check_name(name: &str) -> Result<(), ManifestError> {
    let rule = || {
        let length = name.len();
        if length == 0 || length > NameError::LENGTH_MAX {
            return Some(NameError::Length { length });
        }
        let is_allowed = |one: &char| one.is_ascii_alphanumeric() || matches!(one, '_' | '-' | '%');
        if let Some(character) = name.chars().find(|one| !is_allowed(one)) {
            return Some(NameError::Character { character });
        }
        let first = name.chars().next().filter(|one| matches!(one, '_' | '%'));
        first.map(|first| NameError::Reserved { first })
    };
    debug_assert!(DEFAULT_NAME.starts_with('_'), "nobody may give it");
    match rule() {
        None => Ok(()),
        Some(cause) => Err(ManifestError::Name {
            name: name.to_owned(),
            cause,
        }),
    }
}
