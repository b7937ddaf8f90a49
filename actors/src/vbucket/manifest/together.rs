//! The manifest of a bucket and that of a vbucket that becomes active in it, as one (decision 0017).
//!
//! | what they are to each other | what the bucket has then |
//! |---|---|
//! | the bucket's may have come of the vbucket's by changes | its own: what the vbucket has beside was dropped |
//! | else | both; of two of one name the one with the higher number |
//! | one number is two things | refused |
//!
//! Pure. Invariant: what active vbuckets have stays, but for what has a newer namesake; a uid that two have means the same to
//! both, but for a replica that got a change in part.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::change::highest_number;
use messages::collections::{CollectionEntry, DEFAULT_NAME, ManifestClash, Named};
use messages::{CollectionsManifest, OperationError};
use storage::{CollectionId, ManifestUid, ScopeId, VbucketId};

type Manifest = Arc<CollectionsManifest>;

/// What the bucket has when a vbucket with `own` becomes active beside others. A uid that is given here lies above `highest`.
pub(super) fn together(
    bucket: &Manifest,
    own: &Manifest,
    highest: ManifestUid,
) -> Result<Manifest, ManifestClash> {
    if let Some(clash) = clash(bucket, own) {
        return Err(clash);
    }
    let mut whole = if may_come_of(bucket, own) {
        bucket.as_ref().clone()
    } else {
        both(bucket, own)
    };
    if own.uid > bucket.uid && has_same(&whole, own) {
        return Ok(Arc::clone(own));
    }
    if own.uid <= bucket.uid && has_same(&whole, bucket) {
        return Ok(Arc::clone(bucket));
    }
    let given = bucket.uid.max(own.uid).max(highest);
    whole.uid = ManifestUid(given.0.saturating_add(1));
    Ok(Arc::new(whole))
}

/// The first number that means two things, if one does.
pub(super) fn clash(
    bucket: &CollectionsManifest,
    own: &CollectionsManifest,
) -> Option<ManifestClash> {
    let differ = |scope: &ScopeId, name: &String| {
        let there = own.scopes.get(scope).filter(|there| *there != name)?;
        Some(ManifestClash {
            number: scope.0,
            in_bucket: Named::Scope(name.clone()),
            in_vbucket: Named::Scope(there.clone()),
        })
    };
    let mut scopes = bucket.scopes.iter();
    let scope = scopes.find_map(|(id, name)| differ(id, name));
    scope.or_else(|| {
        let mut collections = bucket.collections.iter();
        collections.find_map(|(id, here)| {
            let there = own.collections.get(id).filter(|there| *there != here)?;
            Some(ManifestClash {
                number: id.0,
                in_bucket: named(bucket, here),
                in_vbucket: named(own, there),
            })
        })
    })
}

/// The same as a refusal of that vbucket.
pub(super) fn refusal(vbucket: VbucketId, clash: ManifestClash) -> OperationError {
    let clash = Box::new(clash);
    OperationError::ManifestClash { vbucket, clash }
}

fn named(manifest: &CollectionsManifest, entry: &CollectionEntry) -> Named {
    let scope = manifest.scopes.get(&entry.scope);
    Named::Collection {
        scope: scope.map_or(DEFAULT_NAME, String::as_str).to_owned(),
        collection: entry.name.clone(),
        max_ttl_s: entry.max_ttl_s,
    }
}

/// Whether both say the same of all scopes and collections.
pub(super) fn has_same(one: &CollectionsManifest, other: &CollectionsManifest) -> bool {
    one.scopes == other.scopes && one.collections == other.collections
}

/// Whether changes of `earlier` may have led to `later`: everything new has a number that was given later. What is in both
/// is the same in both.
fn may_come_of(later: &CollectionsManifest, earlier: &CollectionsManifest) -> bool {
    let given = highest_number(earlier.uid);
    let scopes = later.scopes.keys();
    let mut scopes = scopes.filter(|id| !earlier.scopes.contains_key(*id));
    let collections = later.collections.keys();
    let mut collections = collections.filter(|id| !earlier.collections.contains_key(*id));
    later.uid > earlier.uid
        && scopes.all(|id| u64::from(id.0) > given)
        && collections.all(|id| u64::from(id.0) > given)
}

/// Everything of both; a scope that gives way to another takes its collections along.
fn both(bucket: &CollectionsManifest, own: &CollectionsManifest) -> CollectionsManifest {
    let mut scope_of: BTreeMap<&String, ScopeId> = BTreeMap::new();
    for (id, name) in bucket.scopes.iter().chain(&own.scopes) {
        let newest = scope_of.entry(name).or_insert(*id);
        *newest = (*newest).max(*id);
    }
    let mut collection_of: BTreeMap<(ScopeId, &String), (CollectionId, &CollectionEntry)> =
        BTreeMap::new();
    for (id, entry) in bucket.collections.iter().chain(&own.collections) {
        if scope_of.values().any(|scope| *scope == entry.scope) {
            let place = (entry.scope, &entry.name);
            let newest = collection_of.entry(place).or_insert((*id, entry));
            if newest.0 < *id {
                *newest = (*id, entry);
            }
        }
    }
    let scopes = scope_of.into_iter();
    let collections = collection_of.into_values();
    CollectionsManifest {
        uid: bucket.uid,
        scopes: scopes.map(|(name, id)| (id, name.clone())).collect(),
        collections: collections.map(|(id, entry)| (id, entry.clone())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::changed;
    use super::*;
    use messages::ManifestChange;

    /// In a bucket that never had a higher uid.
    fn together(bucket: &Manifest, own: &Manifest) -> Result<Manifest, ManifestClash> {
        super::together(bucket, own, bucket.uid)
    }

    fn begun() -> Manifest {
        Manifest::default()
    }

    fn after(before: &Manifest, changes: &[ManifestChange]) -> Manifest {
        let next = |manifest: CollectionsManifest, change: &ManifestChange| {
            changed(&manifest, &change.clone().into()).expect("a change")
        };
        Arc::new(changes.iter().fold(before.as_ref().clone(), next))
    }

    fn create(name: &str) -> ManifestChange {
        ManifestChange::CreateCollection {
            scope: DEFAULT_NAME.to_owned(),
            collection: name.to_owned(),
            max_ttl_s: 0,
        }
    }

    fn drop_it(name: &str) -> ManifestChange {
        ManifestChange::DropCollection {
            scope: DEFAULT_NAME.to_owned(),
            collection: name.to_owned(),
        }
    }

    fn names(manifest: &CollectionsManifest) -> Vec<&str> {
        let entries = manifest.collections.values();
        entries.map(|entry| entry.name.as_str()).collect()
    }

    #[test]
    fn what_the_bucket_dropped_stays_dropped() {
        let early = after(&begun(), &[create("a"), create("b")]);
        let later = after(&early, &[drop_it("a"), create("a"), drop_it("b")]);
        assert_eq!(together(&later, &early), Ok(Arc::clone(&later)));
        assert_eq!(together(&later, &begun()), Ok(Arc::clone(&later)));
        assert_eq!(together(&later, &later), Ok(later));
    }

    #[test]
    fn what_the_vbucket_has_beside_is_had_by_all() {
        let early = after(&begun(), &[create("a"), create("b")]);
        let later = after(&early, &[create("c")]);
        assert_eq!(together(&early, &later), Ok(Arc::clone(&later)));
        assert_eq!(together(&begun(), &later), Ok(later));
    }

    #[test]
    fn what_active_vbuckets_have_stays_but_for_newer_namesakes() {
        let bucket = after(&begun(), &[create("a"), create("b")]);
        let own = after(&bucket, &[drop_it("a"), create("a"), drop_it("b")]);
        let whole = together(&bucket, &own).expect("one");
        assert_eq!(names(&whole), ["_default", "b", "a"]);
        assert!(whole.uid > own.uid);
        // The others of that history change it no more.
        assert_eq!(together(&whole, &own), Ok(Arc::clone(&whole)));
        let emptied = after(&own, &[drop_it("a")]);
        assert_eq!(together(&whole, &emptied), Ok(whole));
    }

    #[test]
    fn two_histories_are_put_together() {
        let common = after(&begun(), &[create("a")]);
        let bucket = after(&common, &[create("b"), create("c"), drop_it("b")]);
        let own = after(&common, &[create("y"), drop_it("a"), create("c")]);
        let both = together(&bucket, &own).expect("one");
        assert_eq!(names(&both), ["_default", "a", "y", "c"]);
        assert!(both.uid > bucket.uid.max(own.uid));
        assert_eq!(
            both.collection(DEFAULT_NAME, "c"),
            own.collection(DEFAULT_NAME, "c")
        );
    }

    #[test]
    fn a_scope_that_gives_way_takes_its_collections_along() {
        let scope = |scope: &str| ManifestChange::CreateScope {
            scope: scope.to_owned(),
        };
        let within = |scope: &str, name: &str| ManifestChange::CreateCollection {
            scope: scope.to_owned(),
            collection: name.to_owned(),
            max_ttl_s: 0,
        };
        let bucket = after(&begun(), &[scope("s"), within("s", "a"), create("b")]);
        let changes = [create("x"), drop_it("x"), create("x"), drop_it("x")];
        let own = after(&begun(), &changes);
        let own = after(&own, &[scope("s"), within("s", "c")]);
        let both = together(&bucket, &own).expect("one");
        assert_eq!(names(&both), ["_default", "b", "c"]);
        let scopes: Vec<&String> = both.scopes.values().collect();
        assert_eq!(scopes, ["_default", "s"]);
    }

    #[test]
    fn a_number_that_is_two_things_is_refused() {
        let bucket = after(&begun(), &[create("a")]);
        let own = after(&begun(), &[create("b"), create("c")]);
        for (one, other) in [(&bucket, &own), (&own, &bucket)] {
            let clash = together(one, other).expect_err("both are 8");
            assert_eq!(clash.number, 8);
            assert_ne!(clash.in_bucket, clash.in_vbucket);
        }
    }
}
