//! Keys keep their limits wherever they come from, and carry their collection.

use std::hash::{Hash, Hasher};

use super::{CollectionId, DocumentKey, KeyError, Namespace};

const COLLECTIONS: [(u32, &[u8]); 7] = [
    (0, &[0]),
    (8, &[8]),
    (127, &[0x7f]),
    (128, &[0x80, 1]),
    (0x3fff, &[0xff, 0x7f]),
    (0x4000, &[0x80, 0x80, 1]),
    (u32::MAX, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
];

#[test]
fn a_key_carries_its_collection_as_a_prefix() {
    for (number, prefix) in COLLECTIONS {
        let key = DocumentKey::new(CollectionId(number), b"name").unwrap();
        assert_eq!(key.as_encoded(), [prefix, b"name"].concat());
        assert_eq!(key.collection(), CollectionId(number));
        assert_eq!(key.key(), b"name");
        assert_eq!(DocumentKey::from_encoded(key.as_encoded()), Ok(key));
    }
}

#[test]
fn the_limit_counts_the_prefix() {
    for (number, prefix) in COLLECTIONS {
        let longest = DocumentKey::LENGTH_MAX - prefix.len();
        let key = DocumentKey::new(CollectionId(number), &vec![b'k'; longest]).unwrap();
        assert_eq!(key.as_encoded().len(), DocumentKey::LENGTH_MAX);
        let over = vec![b'k'; longest + 1];
        let length = DocumentKey::LENGTH_MAX + 1;
        let refused = DocumentKey::new(CollectionId(number), &over);
        assert_eq!(refused, Err(KeyError::TooLong { length }));
        let encoded = [prefix, &over].concat();
        let refused = DocumentKey::from_encoded(&encoded);
        assert_eq!(refused, Err(KeyError::TooLong { length }));
    }
}

#[test]
fn the_shortest_key_is_one_byte() {
    let empty = DocumentKey::new(CollectionId::DEFAULT, b"");
    assert_eq!(empty, Err(KeyError::Empty));
    assert_eq!(DocumentKey::from_encoded(&[0]), Err(KeyError::Empty));
    assert_eq!(DocumentKey::from_encoded(&[0x80, 1]), Err(KeyError::Empty));
    let key = DocumentKey::new(CollectionId::DEFAULT, b"\0").unwrap();
    assert_eq!(key.as_encoded(), [0, 0]);
}

#[test]
fn bytes_without_a_whole_prefix_are_no_key() {
    let cut_off: [&[u8]; 5] = [
        &[],
        &[0x80],
        &[0xff, 0xff],
        // One more than the highest collection.
        &[0x80, 0x80, 0x80, 0x80, 0x10, b'k'],
        // Not as short as can be: its keys would lie apart from the others of collection 8.
        &[0x88, 0, b'k'],
    ];
    for bytes in cut_off {
        let refused = DocumentKey::from_encoded(bytes);
        assert_eq!(refused, Err(KeyError::BadPrefix), "{bytes:?}");
    }
}

#[test]
fn keys_of_a_collection_lie_together_and_in_their_order() {
    let key = |collection, name: &[u8]| DocumentKey::new(CollectionId(collection), name).unwrap();
    let mut keys = [
        key(1, b"b"),
        key(0, b"z"),
        key(1, b"a"),
        key(1, b"a\0"),
        key(0, b"a"),
    ];
    keys.sort();
    assert_eq!(
        keys,
        [
            key(0, b"a"),
            key(0, b"z"),
            key(1, b"a"),
            key(1, b"a\0"),
            key(1, b"b")
        ]
    );
}

/// Where the bytes of a key lie shows nowhere but in its cost.
#[test]
fn short_and_long_keys_are_keys_alike() {
    assert_eq!(size_of::<DocumentKey>(), 24);
    let keys: Vec<DocumentKey> = (1..60)
        .map(|length| DocumentKey::new(CollectionId(8), &vec![b'k'; length]).unwrap())
        .collect();
    for (length, key) in (1..60).zip(&keys) {
        assert_eq!(key.key(), vec![b'k'; length]);
        let copy = key.clone();
        let back = DocumentKey::from_encoded(key.as_encoded()).unwrap();
        for same in [&copy, &back] {
            assert_eq!(same, key);
            assert_eq!(hash_of(same), hash_of(key));
        }
        let encoded = length + 1;
        let allocated = if encoded > 22 { encoded } else { 0 };
        assert_eq!(key.allocated_bytes(), allocated);
    }
    assert!(keys.is_sorted(), "each is the beginning of the next");
}

fn hash_of(key: &DocumentKey) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn namespaces_come_back_from_their_bytes() {
    for namespace in Namespace::ALL {
        assert_eq!(Namespace::from_byte(namespace as u8), Some(namespace));
    }
    assert_eq!(Namespace::from_byte(3), None);
}
