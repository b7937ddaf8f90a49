//! Keys of documents: the collection's id, then the client's key.
//!
//! Invariant: a [`DocumentKey`] always holds a whole collection prefix and 1 to 250 bytes in all; limits are checked where
//! keys are made, never again on the paths that carry them. A short key, as most are, costs no allocation of its own.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use super::CollectionId;
use crate::leb128;

/// Longest key that lies in the [`DocumentKey`] itself: as many bytes as make it three words.
const INLINE_MAX: usize = 22;

/// A document's key: the collection's id as unsigned LEB128, then the client's key.
#[derive(Clone)]
pub struct DocumentKey(Encoded);

#[derive(Clone)]
enum Encoded {
    Inline(u8, [u8; INLINE_MAX]),
    Boxed(Box<[u8]>),
}

impl Encoded {
    /// The bytes of both parts, one behind the other.
    fn of(prefix: &[u8], key: &[u8]) -> Encoded {
        let length = prefix.len().saturating_add(key.len());
        let mut inline = [0; INLINE_MAX];
        if let Some(place) = inline.get_mut(..length)
            && let Ok(length) = u8::try_from(length)
        {
            let (front, back) = place.split_at_mut(prefix.len());
            front.copy_from_slice(prefix);
            back.copy_from_slice(key);
            return Encoded::Inline(length, inline);
        }
        Encoded::Boxed([prefix, key].concat().into_boxed_slice())
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Encoded::Inline(length, bytes) => bytes.get(..usize::from(*length)).unwrap_or(bytes),
            Encoded::Boxed(bytes) => bytes,
        }
    }
}

impl DocumentKey {
    /// Longest key in bytes, prefix included.
    pub const LENGTH_MAX: usize = 250;

    /// The key `key` of collection `collection`.
    pub fn new(collection: CollectionId, key: &[u8]) -> Result<DocumentKey, KeyError> {
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        let (prefix, prefix_length) = leb128::encode_u32(collection.0);
        let prefix = prefix.get(..prefix_length).unwrap_or(&prefix);
        let length = prefix.len().saturating_add(key.len());
        if length > Self::LENGTH_MAX {
            return Err(KeyError::TooLong { length });
        }
        Ok(DocumentKey(Encoded::of(prefix, key)))
    }

    /// What the stored form of every key of `collection` begins with.
    #[must_use]
    pub fn prefix(collection: CollectionId) -> Vec<u8> {
        let (prefix, length) = leb128::encode_u32(collection.0);
        prefix.get(..length).unwrap_or(&prefix).to_vec()
    }

    /// A key from its stored form.
    pub fn from_encoded(encoded: &[u8]) -> Result<DocumentKey, KeyError> {
        split(encoded)?;
        Ok(DocumentKey(Encoded::of(&[], encoded)))
    }

    /// The stored form: prefix and key.
    #[inline]
    #[must_use]
    pub fn as_encoded(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The collection this key belongs to.
    #[must_use]
    pub fn collection(&self) -> CollectionId {
        split(self.as_encoded()).map_or(CollectionId::DEFAULT, |(collection, _)| collection)
    }

    /// The client's key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        split(self.as_encoded()).map_or(&[], |(_, key)| key)
    }

    /// Bytes it has allocated besides itself.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        match &self.0 {
            Encoded::Inline(..) => 0,
            Encoded::Boxed(bytes) => bytes.len(),
        }
    }
}

/// Takes an encoded key apart, checking every limit. Done for every record that is read.
#[inline]
pub(crate) fn split(encoded: &[u8]) -> Result<(CollectionId, &[u8]), KeyError> {
    if encoded.len() > DocumentKey::LENGTH_MAX {
        return Err(KeyError::TooLong {
            length: encoded.len(),
        });
    }
    let (collection, key) = leb128::take_u32(encoded).ok_or(KeyError::BadPrefix)?;
    if key.is_empty() {
        return Err(KeyError::Empty);
    }
    // One collection, one prefix, the shortest: its keys lie side by side in
    // every order. A longer one ends in a byte that adds nothing.
    let prefix_length = encoded.len().saturating_sub(key.len());
    if prefix_length > 1 && encoded.get(prefix_length - 1) == Some(&0) {
        return Err(KeyError::BadPrefix);
    }
    Ok((CollectionId(collection), key))
}

// Keys are what they say, wherever the bytes lie.

impl PartialEq for DocumentKey {
    fn eq(&self, other: &DocumentKey) -> bool {
        self.as_encoded() == other.as_encoded()
    }
}

impl Eq for DocumentKey {}

impl PartialOrd for DocumentKey {
    fn partial_cmp(&self, other: &DocumentKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DocumentKey {
    fn cmp(&self, other: &DocumentKey) -> Ordering {
        self.as_encoded().cmp(other.as_encoded())
    }
}

impl Hash for DocumentKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_encoded().hash(state);
    }
}

impl std::fmt::Debug for DocumentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}:\"{}\"",
            self.collection().0,
            self.key().escape_ascii()
        )
    }
}

/// Why bytes cannot be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key at all.
    #[error("the key is empty; give at least one byte")]
    Empty,
    /// Over the limit.
    #[error(
        "the key is {length} bytes with its collection prefix; the most is {max}",
        max = DocumentKey::LENGTH_MAX
    )]
    TooLong {
        /// Length with the prefix.
        length: usize,
    },
    /// Stored bytes that do not begin with a collection id.
    #[error("the key does not begin with a collection id")]
    BadPrefix,
}
