//! One pointer per key, exact figures, nothing overwritten by warmup.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use storage::{
    Cas, CollectionId, DeleteSource, Document, DocumentKey, MemoryToken, Operation, Predecessor,
};

fn key(name: u16) -> DocumentKey {
    DocumentKey::new(CollectionId::DEFAULT, format!("key {name}").as_bytes()).unwrap()
}

fn item(name: u16, seqno: u64, is_tombstone: bool) -> Arc<Item> {
    let value = if is_tombstone {
        Bytes::new()
    } else {
        Bytes::from(vec![b'x'; usize::from(name % 50)])
    };
    Arc::new(Item {
        seqno: Seqno(seqno),
        operation: if is_tombstone {
            Operation::Deletion {
                deleted_at: 1,
                source: DeleteSource::Explicit,
            }
        } else {
            Operation::Mutation
        },
        predecessor: Predecessor::Unknown,
        document: Document::new(key(name), value, Cas(seqno)),
        token: MemoryToken::default(),
    })
}

fn put(map: &DocumentMap, item: &Arc<Item>) -> Option<Arc<Item>> {
    let before = map.put(map.place(item.document.key.as_encoded()), Arc::clone(item));
    before.map(|kept| kept.into_whole().unwrap())
}

fn insert(map: &DocumentMap, item: &Arc<Item>) -> bool {
    map.insert_if_absent(Kept::whole(Arc::clone(item)))
}

fn get(map: &DocumentMap, name: u16) -> Option<Arc<Item>> {
    let key = key(name);
    let kept = map.get(map.place(key.as_encoded()), key.as_encoded());
    kept.and_then(Kept::into_whole)
}

#[test]
fn a_slot_is_one_pointer() {
    assert_eq!(size_of::<(Slot, SharedValue<()>)>(), size_of::<usize>());
}

#[test]
fn the_newer_version_takes_the_place_and_the_key_is_its_own() {
    let map = DocumentMap::new();
    let (old, new) = (item(7, 1, false), item(7, 2, false));
    assert!(put(&map, &old).is_none());
    assert!(Arc::ptr_eq(&put(&map, &new).unwrap(), &old));
    assert_eq!(Arc::strong_count(&old), 1, "nothing of the old one is kept");
    assert!(Arc::ptr_eq(&get(&map, 7).unwrap(), &new));
}

#[test]
fn what_is_loaded_never_overwrites() {
    let map = DocumentMap::new();
    assert!(insert(&map, &item(1, 1, false)));
    assert!(put(&map, &item(2, 9, true)).is_none());
    assert!(!insert(&map, &item(2, 3, false)));
    assert_eq!(get(&map, 2).unwrap().seqno, Seqno(9));
    assert_eq!((map.figures().documents, map.figures().tombstones), (1, 1));
}

#[test]
fn only_the_tombstone_meant_is_dropped_and_the_map_is_incomplete_from_then_on() {
    let map = DocumentMap::new();
    put(&map, &item(1, 5, false));
    assert!(map.is_complete());
    assert!(map.drop_tombstone(key(1).as_encoded(), Seqno(5)).is_none());
    put(&map, &item(1, 6, true));
    assert!(map.drop_tombstone(key(1).as_encoded(), Seqno(5)).is_none());
    assert!(map.drop_tombstone(key(1).as_encoded(), Seqno(6)).is_some());
    assert!(!map.is_complete());
    assert!(get(&map, 1).is_none());
    drop(map.clear());
    assert!(map.is_complete());
}

#[test]
fn a_value_leaves_if_nobody_else_holds_it_and_its_stub_is_no_item() {
    let map = DocumentMap::new();
    let held = item(7, 5, false);
    put(&map, &held);
    let place = map.place(key(7).as_encoded());
    let whole = map.figures();
    assert!(map.take_value(place, Seqno(5)).is_none(), "held here, too");
    drop(held);
    assert!(map.take_value(place, Seqno(4)).is_none(), "another version");
    assert_eq!(map.take_value(place, Seqno(5)).unwrap().len(), 7);
    assert!(map.take_value(place, Seqno(5)).is_none(), "it is gone");
    assert!(get(&map, 7).is_none());
    let meta = |held: Held<'_>| (held.meta().seqno, matches!(held, Held::Stub(_)));
    let stub = map.read(place, key(7).as_encoded(), meta);
    assert_eq!(stub, Some((Seqno(5), true)));
    let figures = map.figures();
    assert_eq!((figures.documents, figures.stubs), (1, 1));
    assert_eq!(figures.bytes, whole.bytes - 7);
    // It takes the place of nothing, a newer version or the whole one its own.
    assert!(!insert(&map, &item(7, 5, false)));
    drop(map.put(place, item(7, 5, false)));
    assert_eq!(map.figures(), whole);
    assert!(map.is_complete() && !map.lacks_documents());
    // An empty one is nothing that could leave.
    put(&map, &item(50, 6, false));
    assert!(
        map.take_value(map.place(key(50).as_encoded()), Seqno(6))
            .is_none()
    );
}

proptest! {
    /// The map equals an ordered map, its figures those of what it holds, and the slices hold everything once.
    #[test]
    fn equals_a_model(steps in prop::collection::vec((0u8..4, 0u16..40, any::<bool>()), 0..400)) {
        let map = DocumentMap::new();
        let mut model: BTreeMap<u16, Arc<Item>> = BTreeMap::new();
        for (turn, (what, name, is_tombstone)) in (1u64..).zip(steps) {
            let item = item(name, turn, is_tombstone);
            match what {
                0 | 1 => {
                    let before = put(&map, &item);
                    prop_assert_eq!(before, model.insert(name, item));
                }
                2 => {
                    let inserted = insert(&map, &item);
                    prop_assert_eq!(inserted, !model.contains_key(&name));
                    model.entry(name).or_insert(item);
                }
                _ => if let Some(held) = model.get(&name) {
                    let dropped = map.drop_tombstone(key(name).as_encoded(), held.seqno);
                    prop_assert_eq!(dropped.is_some(), held.operation.is_tombstone());
                    if dropped.is_some() {
                        model.remove(&name);
                    }
                },
            }
        }
        let slices = (0..).map_while(|number| map.slice(number)).flatten();
        let mut held: Vec<_> = slices.filter_map(Kept::into_whole).collect();
        held.sort_by_key(|item| item.seqno);
        let mut expected: Vec<_> = model.values().cloned().collect();
        expected.sort_by_key(|item| item.seqno);
        prop_assert_eq!(&held, &expected);
        let tombstones = held.iter().filter(|item| item.operation.is_tombstone()).count() as u64;
        prop_assert_eq!(map.figures(), MapFigures {
            documents: held.len() as u64 - tombstones,
            stubs: 0,
            tombstones,
            bytes: held.iter().map(|item| crate::vbucket::memory::charged_bytes(item)).sum(),
        });
    }
}
