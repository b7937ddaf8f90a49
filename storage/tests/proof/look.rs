//! Reads all of a vbucket and compares it with what it should be.
//!
//! Invariant: first everything is read by one scan, which says which moment of the past this is; then every other
//! way of reading must tell the same.

use piggin_storage::{
    CollectionId, DocumentKey, DroppedCollection, Incarnation, Item, KeyRange, KvStore, LogStore,
    Namespace, Outcome, RollbackEpoch, SeqnoRange, Snapshot, StorageError, VbucketStateRecord,
};

use crate::model::check;
use crate::model::generate::{COLLECTIONS, KEYS};
use crate::model::random::Random;
use crate::model::vbucket::Expected;
use crate::support::{drain, without_hint};

/// What a vbucket holds, as one scan tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: RollbackEpoch,
    pub(crate) state: VbucketStateRecord,
    pub(crate) items: Vec<Item>,
    pub(crate) dropped: Vec<DroppedCollection>,
}

impl Observed {
    pub(crate) fn of(snapshot: &dyn Snapshot) -> Result<Observed, StorageError> {
        let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
        let (items, ended) = drain(scan.as_mut(), usize::MAX, usize::MAX);
        match ended {
            Outcome::Complete(end) => assert_eq!(end.items, items.len() as u64),
            Outcome::Failed(error) => return Err(error),
            Outcome::Yielded | Outcome::Aborted(_) => panic!("a scan ended as {ended:?}"),
        }
        Ok(Observed {
            incarnation: snapshot.incarnation(),
            epoch: snapshot.epoch(),
            state: snapshot.state(),
            items,
            dropped: snapshot.dropped_collections(),
        })
    }

    pub(crate) fn is(&self, expected: &Expected) -> bool {
        self.incarnation == expected.incarnation
            && self.epoch == expected.epoch
            && self.state == expected.state
            && self.items == expected.items
            && self.dropped == expected.dropped
    }

    /// A few words, to compare by eye.
    pub(crate) fn summary(&self) -> String {
        let seqnos: Vec<u64> = self.items.iter().map(|item| item.seqno.0).collect();
        summary(self.incarnation, self.epoch, &self.state, &seqnos)
    }
}

pub(crate) fn summary(
    incarnation: Incarnation,
    epoch: RollbackEpoch,
    state: &VbucketStateRecord,
    seqnos: &[u64],
) -> String {
    format!(
        "{incarnation:?} {epoch:?} {:?} identity {:?} items {seqnos:?}",
        state.watermarks, state.identity
    )
}

/// Every way of reading tells what is expected.
pub(crate) fn everything(random: &mut Random, snapshot: &dyn Snapshot, expected: &Expected) {
    check::whole(random, snapshot, expected);
    for namespace in [Namespace::Committed, Namespace::Prepared] {
        for collection in COLLECTIONS {
            for name in KEYS {
                let key = DocumentKey::new(CollectionId(collection), name).unwrap();
                let found = snapshot.get(namespace, &key).unwrap().map(without_hint);
                let wanted = (namespace, key.as_encoded().to_vec());
                assert_eq!(found, expected.get(&wanted), "get of {namespace:?} {key:?}");
            }
        }
    }
}

/// Reads everything on a disk that may fail: right data or an error, never anything else.
pub(crate) fn attempt(store: &LogStore, expected: &Expected) -> Result<(), StorageError> {
    let snapshot = store.snapshot(expected.vbucket)?;
    let observed = Observed::of(snapshot.as_ref())?;
    assert!(
        observed.is(expected),
        "a scan by seqno found {}",
        observed.summary()
    );
    for namespace in Namespace::ALL {
        let range = KeyRange::all(namespace);
        let mut scan = snapshot.scan_by_key(range.clone());
        let (items, ended) = drain(scan.as_mut(), usize::MAX, usize::MAX);
        match ended {
            Outcome::Complete(_) => assert_eq!(items, expected.in_keys(&range)),
            Outcome::Failed(error) => return Err(error),
            Outcome::Yielded | Outcome::Aborted(_) => panic!("a scan ended as {ended:?}"),
        }
        for item in expected.in_keys(&range) {
            let found = snapshot.get(namespace, &item.document.key)?;
            assert_eq!(found.map(without_hint), Some(item));
        }
    }
    let counts = check::comparable(&snapshot.counts()?);
    assert_eq!(counts, check::comparable(&expected.counts));
    Ok(())
}
