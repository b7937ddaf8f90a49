//! Manifests as values: what is refused, what a change makes, and that a vbucket gets from any manifest to any other,
//! however often it is interrupted.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::change::{changed, changed_above, newest};
use super::open::{Applied, OpenCollections};
use messages::collections::{CollectionEntry, NameError};
use messages::{ChangeManifest, CollectionsManifest, ManifestChange, ManifestError};
use storage::{CollectionId, ManifestUid, ScopeId, Seqno, SystemEvent};

fn create_scope(scope: &str) -> ManifestChange {
    let scope = scope.to_owned();
    ManifestChange::CreateScope { scope }
}

fn create(scope: &str, collection: &str) -> ManifestChange {
    ManifestChange::CreateCollection {
        scope: scope.to_owned(),
        collection: collection.to_owned(),
        max_ttl_s: 7,
    }
}

fn drop_scope(scope: &str) -> ManifestChange {
    let scope = scope.to_owned();
    ManifestChange::DropScope { scope }
}

fn drop_collection(scope: &str, collection: &str) -> ManifestChange {
    ManifestChange::DropCollection {
        scope: scope.to_owned(),
        collection: collection.to_owned(),
    }
}

fn after(changes: &[ManifestChange]) -> CollectionsManifest {
    let first = CollectionsManifest::default();
    let change = |manifest: CollectionsManifest, change: &ManifestChange| {
        changed(&manifest, &change.clone().into()).unwrap()
    };
    changes.iter().fold(first, change)
}

fn refused(manifest: &CollectionsManifest, change: ManifestChange) -> ManifestError {
    changed(manifest, &change.into()).unwrap_err()
}

#[test]
fn a_bucket_begins_with_the_default_collection() {
    let manifest = CollectionsManifest::default();
    assert_eq!(manifest.uid, ManifestUid(0));
    let found = manifest.collection("_default", "_default");
    assert_eq!(found, Some(CollectionId::DEFAULT));
    assert_eq!(manifest.scope("_default"), Some(ScopeId::DEFAULT));
}

#[test]
fn numbers_follow_the_uid_and_are_never_used_again() {
    let manifest = after(&[create_scope("s"), create("s", "c")]);
    assert_eq!(manifest.scope("s"), Some(ScopeId(8)));
    assert_eq!(manifest.collection("s", "c"), Some(CollectionId(9)));
    let manifest = after(&[
        create_scope("s"),
        create("s", "c"),
        drop_collection("s", "c"),
        create("s", "c"),
    ]);
    assert_eq!(manifest.uid, ManifestUid(4));
    assert_eq!(manifest.collection("s", "c"), Some(CollectionId(11)));
}

#[test]
fn a_uid_that_may_be_in_use_is_not_given() {
    let manifest = after(&[create_scope("s")]);
    let next = |given| {
        let request = create("s", "c").into();
        changed_above(&manifest, &request, ManifestUid(given)).unwrap()
    };
    assert_eq!(next(0).uid, ManifestUid(2));
    assert_eq!(next(40).uid, ManifestUid(41));
    assert_eq!(next(40).collection("s", "c"), Some(CollectionId(48)));
}

#[test]
fn a_bucket_is_opened_with_what_most_active_vbuckets_have_of_the_newest() {
    let (old, a, b) = (
        Arc::new(after(&[create_scope("s")])),
        Arc::new(after(&[create_scope("s"), create("s", "a")])),
        Arc::new(after(&[create_scope("s"), create("s", "b")])),
    );
    let newest_of = |all: &[(bool, &Arc<CollectionsManifest>)]| {
        let all: Vec<_> = all.iter().map(|(is, one)| (*is, Arc::clone(one))).collect();
        newest(&all).cloned()
    };
    assert_eq!(newest_of(&[]), None);
    assert_eq!(newest_of(&[(true, &old), (true, &a)]).as_ref(), Some(&a));
    let most = newest_of(&[(true, &a), (true, &b), (true, &b), (true, &old)]);
    assert_eq!(most.as_ref(), Some(&b));
    // Those who are told by a source have no say.
    let of_actives = newest_of(&[(false, &b), (true, &a), (false, &b)]);
    assert_eq!(of_actives.as_ref(), Some(&a));
    let of_actives = newest_of(&[(false, &b), (true, &old)]);
    assert_eq!(of_actives.as_ref(), Some(&old));
    assert_eq!(newest_of(&[(false, &old), (false, &b)]).as_ref(), Some(&b));
}

#[test]
fn the_same_name_in_two_scopes_is_two_collections() {
    let manifest = after(&[create_scope("s"), create("s", "c"), create("_default", "c")]);
    assert_eq!(manifest.collection("s", "c"), Some(CollectionId(9)));
    assert_eq!(manifest.collection("_default", "c"), Some(CollectionId(10)));
    let manifest = changed(&manifest, &drop_scope("s").into()).unwrap();
    assert_eq!(manifest.collection("s", "c"), None);
    assert_eq!(manifest.collection("_default", "c"), Some(CollectionId(10)));
    assert!(!manifest.collections.contains_key(&CollectionId(9)));
}

#[test]
fn what_cannot_be_is_refused() {
    let manifest = after(&[create_scope("s"), create("s", "c")]);
    let scope = || "s".to_owned();
    let collection = || "c".to_owned();
    assert_eq!(
        refused(&manifest, create_scope("s")),
        ManifestError::ScopeExists { scope: scope() }
    );
    assert_eq!(
        refused(&manifest, create("s", "c")),
        ManifestError::CollectionExists {
            scope: scope(),
            collection: collection()
        }
    );
    let unknown = ManifestError::UnknownScope {
        scope: "t".to_owned(),
    };
    assert_eq!(refused(&manifest, create("t", "c")), unknown);
    assert_eq!(refused(&manifest, drop_scope("t")), unknown);
    assert_eq!(refused(&manifest, drop_collection("t", "c")), unknown);
    assert_eq!(
        refused(&manifest, drop_collection("s", "d")),
        ManifestError::UnknownCollection {
            scope: scope(),
            collection: "d".to_owned()
        }
    );
    assert_eq!(
        refused(&manifest, drop_scope("_default")),
        ManifestError::Default
    );
    assert_eq!(
        refused(&manifest, drop_collection("_default", "_default")),
        ManifestError::Default
    );
    for given in [0, 1, 3] {
        let stale = ChangeManifest {
            change: create_scope("t"),
            expected: Some(ManifestUid(given)),
        };
        assert_eq!(
            changed(&manifest, &stale),
            Err(ManifestError::Stale {
                given: ManifestUid(given),
                current: ManifestUid(2)
            })
        );
    }
    let expected = Some(ManifestUid(2));
    let change = create_scope("t");
    assert!(changed(&manifest, &ChangeManifest { change, expected }).is_ok());
}

#[test]
fn names_keep_the_rules_of_the_field() {
    let long = "x".repeat(251);
    for good in ["a", "Z9", "0", "a_b-c%d", "-", long.as_str()] {
        after(&[create_scope(good), create(good, good)]);
    }
    let longer = "x".repeat(252);
    let bad = [
        ("", NameError::Length { length: 0 }),
        (longer.as_str(), NameError::Length { length: 252 }),
        ("_a", NameError::Reserved { first: '_' }),
        ("%a", NameError::Reserved { first: '%' }),
        ("_default", NameError::Reserved { first: '_' }),
        ("a.b", NameError::Character { character: '.' }),
        ("a b", NameError::Character { character: ' ' }),
        (
            "\u{e9}",
            NameError::Character {
                character: '\u{e9}',
            },
        ),
    ];
    let manifest = CollectionsManifest::default();
    for (name, cause) in bad {
        let error = ManifestError::Name {
            name: name.to_owned(),
            cause,
        };
        assert_eq!(refused(&manifest, create_scope(name)), error);
        assert_eq!(refused(&manifest, create("_default", name)), error);
    }
}

#[test]
fn there_is_a_limit_to_how_many() {
    let mut manifest = CollectionsManifest::default();
    for number in 1..CollectionsManifest::COLLECTIONS_MAX {
        let id = u32::try_from(number + 7).unwrap();
        let entry = CollectionEntry {
            scope: ScopeId::DEFAULT,
            name: format!("c{number}"),
            max_ttl_s: 0,
        };
        manifest.collections.insert(CollectionId(id), entry);
        manifest.scopes.insert(ScopeId(id), format!("s{number}"));
    }
    let is_full = |error| matches!(error, ManifestError::TooMany { max: 1000, .. });
    assert!(is_full(refused(&manifest, create("_default", "more"))));
    assert!(is_full(refused(&manifest, create_scope("more"))));
    // A uid whose number no key can hold.
    let last = CollectionsManifest {
        uid: ManifestUid(u64::from(u32::MAX) - 7),
        ..CollectionsManifest::default()
    };
    assert!(matches!(
        refused(&last, create_scope("s")),
        ManifestError::TooMany { .. }
    ));
}

#[test]
fn a_number_that_begins_again_is_told() {
    let mut open = OpenCollections::default();
    let begin = |number| SystemEvent::CollectionBegin {
        uid: ManifestUid(1),
        scope: ScopeId::DEFAULT,
        collection: CollectionId(number),
        name: "c".to_owned(),
        max_ttl_s: 0,
    };
    let end = |number, start| SystemEvent::CollectionEnd {
        uid: ManifestUid(2),
        scope: ScopeId::DEFAULT,
        collection: CollectionId(number),
        start: Seqno(start),
    };
    let noted = Applied::default();
    let ended = Applied {
        has_ended: true,
        ..noted
    };
    let begun_again = Applied {
        has_begun_again: true,
        ..noted
    };
    assert_eq!(open.apply(&begin(8), Seqno(1)), noted);
    assert_eq!(open.apply(&begin(8), Seqno(1)), noted, "the same");
    assert_eq!(open.apply(&begin(9), Seqno(2)), noted);
    assert_eq!(open.apply(&end(8, 1), Seqno(3)), ended);
    assert_eq!(open.apply(&end(8, 1), Seqno(3)), noted, "the same");
    assert_eq!(open.apply(&begin(8), Seqno(4)), begun_again);
    // Its end was superseded before it came here.
    let has_ended = true;
    let both = Applied {
        has_ended,
        ..begun_again
    };
    assert_eq!(open.apply(&begin(8), Seqno(5)), both);
    let opened = open.opened(CollectionId(8)).unwrap();
    assert_eq!(opened.start, Seqno(5));
}

/// A change of few names, so that most of them meet something.
fn any_change() -> impl Strategy<Value = ManifestChange> {
    let scope = || prop::sample::select(vec!["_default", "s", "t"]);
    let collection = || prop::sample::select(vec!["_default", "c", "d"]);
    prop_oneof![
        1 => scope().prop_map(create_scope),
        4 => (scope(), collection()).prop_map(|(scope, name)| create(scope, name)),
        1 => scope().prop_map(drop_scope),
        2 => (scope(), collection()).prop_map(|(scope, name)| drop_collection(scope, name)),
    ]
}

/// The manifests of a history, the first one included.
fn history(changes: &[ManifestChange]) -> Vec<Arc<CollectionsManifest>> {
    let mut manifests = vec![Arc::new(CollectionsManifest::default())];
    for change in changes {
        let last = manifests.last().unwrap();
        if let Ok(next) = changed(last, &change.clone().into()) {
            manifests.push(Arc::new(next));
        }
    }
    manifests
}

/// A vbucket's end of it: what is open, and all events so far.
#[derive(Default)]
struct Follower {
    open: OpenCollections,
    log: Vec<SystemEvent>,
}

impl Follower {
    /// Comes so many events far on the way.
    fn follow(&mut self, to: &Arc<CollectionsManifest>, events_max: usize) {
        let events = self.open.events_to(to);
        let is_whole = events.len() <= events_max;
        for event in events.into_iter().take(events_max) {
            self.log.push(event.clone());
            let seqno = Seqno(self.log.len() as u64);
            self.open.apply(&event, seqno);
        }
        if is_whole {
            self.open.arrive(to);
        }
    }

    /// What a store would hold of it, read again.
    fn reopened(&self, uid: ManifestUid) -> OpenCollections {
        let mut slots = std::collections::BTreeMap::new();
        for (place, event) in self.log.iter().enumerate() {
            let key = event.key().unwrap().as_encoded().to_vec();
            slots.insert(key, (Seqno(place as u64 + 1), event.clone()));
        }
        OpenCollections::of_events(uid, slots.into_values())
    }
}

proptest! {
    #[test]
    fn a_change_makes_one_manifest_or_none(changes in prop::collection::vec(any_change(), 0..40)) {
        let manifests = history(&changes);
        let mut used = BTreeSet::new();
        for (place, manifest) in manifests.iter().enumerate() {
            prop_assert_eq!(manifest.uid.0, place as u64);
            let mut names = BTreeSet::new();
            for (id, entry) in &manifest.collections {
                prop_assert!(manifest.scopes.contains_key(&entry.scope));
                prop_assert!(names.insert((entry.scope, entry.name.clone())));
                // Of this life, and of no other.
                let before = used.insert((id.0, entry.clone().name, entry.scope.0));
                prop_assert!(!before || id.0 == 0 || u64::from(id.0) == manifest.uid.0 + 7);
            }
        }
    }

    #[test]
    fn a_vbucket_gets_from_any_manifest_to_any_later_one(
        changes in prop::collection::vec(any_change(), 1..40),
        stops in prop::collection::vec((any::<prop::sample::Index>(), 0..6usize), 0..6),
    ) {
        let manifests = history(&changes);
        let mut places: Vec<(usize, usize)> = stops
            .into_iter()
            .map(|(place, events)| (place.index(manifests.len()), events))
            .collect();
        places.sort_unstable();
        let mut follower = Follower::default();
        for (place, events_max) in places {
            follower.follow(&manifests[place], events_max);
        }
        let last = manifests.last().unwrap();
        follower.follow(last, usize::MAX);
        prop_assert_eq!(follower.open.manifest(), last);
        prop_assert!(follower.open.events_to(last).is_empty());
        let reopened = follower.reopened(last.uid);
        prop_assert_eq!(reopened.manifest(), last);
        for id in last.collections.keys() {
            prop_assert!(follower.open.opened(*id).is_some());
            prop_assert_eq!(follower.open.opened(*id), reopened.opened(*id));
        }
    }

    #[test]
    fn a_replica_that_takes_the_events_has_the_manifest(
        changes in prop::collection::vec(any_change(), 1..40),
    ) {
        let mut follower = Follower::default();
        for manifest in history(&changes) {
            follower.follow(&manifest, usize::MAX);
        }
        let mut replica = OpenCollections::default();
        for (place, event) in follower.log.iter().enumerate() {
            replica.apply_to_manifest(event);
            replica.apply(event, Seqno(place as u64 + 1));
        }
        prop_assert_eq!(replica.manifest(), follower.open.manifest());
    }
}
