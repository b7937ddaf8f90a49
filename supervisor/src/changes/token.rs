//! The resume token: how far a consumer is in every vbucket, in one line of text.
//!
//! Opaque to who holds it, checked by who takes it: a checksum over all of it, the number of vbuckets, what was selected.
//! Invariant: a token that is taken names positions a stream may be asked for; any other is refused with the reason.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use messages::stream::StreamFilter;
use storage::{Seqno, SnapshotRange, VbucketId};

const VERSION: u8 = 1;

/// How far a consumer is in one vbucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The branch of history its items are of; zero for none.
    pub(crate) vbucket_uuid: u64,
    /// The last seqno it has.
    pub(crate) seqno: Seqno,
    /// The snapshot that lies in.
    pub(crate) snapshot: SnapshotRange,
}

impl Position {
    /// At the end of a snapshot.
    pub(crate) fn at(vbucket_uuid: u64, seqno: Seqno) -> Position {
        Position {
            vbucket_uuid,
            seqno,
            snapshot: SnapshotRange {
                start: seqno,
                end: seqno,
            },
        }
    }
}

/// How far a consumer of [`Bucket::changes`](crate::Bucket::changes) is. Its text goes wherever the consumer keeps what
/// it made of the changes, in one transaction with it if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesToken {
    vbuckets: u16,
    selection: u32,
    positions: BTreeMap<VbucketId, Position>,
}

/// Why a token was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is not what was handed out.
    #[error("the token is damaged: {0}; give it as it was handed out, or begin without one")]
    Damaged(&'static str),
    /// It is of a bucket with another number of vbuckets.
    #[error(
        "the token is of a bucket of {token} vbuckets, this one has {bucket}; begin without it"
    )]
    OtherBucket {
        /// The token's.
        token: u16,
        /// The bucket's.
        bucket: u16,
    },
    /// It was handed out for other collections.
    #[error("the token was handed out for other collections; give those, or begin without it")]
    OtherSelection,
}

impl ChangesToken {
    /// That of a consumer that has nothing.
    pub(crate) fn new(vbuckets: u16, filter: &StreamFilter) -> ChangesToken {
        ChangesToken {
            vbuckets,
            selection: selection(filter),
            positions: BTreeMap::new(),
        }
    }

    pub(crate) fn check(&self, vbuckets: u16, filter: &StreamFilter) -> Result<(), TokenError> {
        if self.vbuckets != vbuckets {
            return Err(TokenError::OtherBucket {
                token: self.vbuckets,
                bucket: vbuckets,
            });
        }
        if self.selection != selection(filter) {
            return Err(TokenError::OtherSelection);
        }
        Ok(())
    }

    /// As if the consumer had nothing of this vbucket: what it does after a rollback, with what it holds of it.
    pub fn forget(&mut self, vbucket: VbucketId) {
        self.positions.remove(&vbucket);
    }

    /// The last seqno the consumer has of a vbucket.
    #[must_use]
    pub fn seqno(&self, vbucket: VbucketId) -> Seqno {
        self.position(vbucket).seqno
    }

    pub(crate) fn position(&self, vbucket: VbucketId) -> Position {
        self.positions.get(&vbucket).copied().unwrap_or_default()
    }

    pub(crate) fn set(&mut self, vbucket: VbucketId, position: Position) {
        self.positions.insert(vbucket, position);
    }
}

impl fmt::Display for ChangesToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        put(&mut bytes, u64::from(self.vbuckets));
        put(&mut bytes, u64::from(self.selection));
        for (vbucket, position) in &self.positions {
            let SnapshotRange { start, end } = position.snapshot;
            put(&mut bytes, u64::from(vbucket.get()));
            put(&mut bytes, position.vbucket_uuid);
            // Small numbers are short.
            put(&mut bytes, start.0);
            put(&mut bytes, position.seqno.0.saturating_sub(start.0));
            put(&mut bytes, end.0.saturating_sub(position.seqno.0));
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ChangesToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<ChangesToken, TokenError> {
        let bytes = unhexed(text.trim()).ok_or(TokenError::Damaged("it is no token"))?;
        let (body, crc) = bytes
            .split_last_chunk::<4>()
            .ok_or(TokenError::Damaged("it is too short"))?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(TokenError::Damaged("its checksum does not fit"));
        }
        read(body).ok_or(TokenError::Damaged("it says what cannot be"))
    }
}

fn read(body: &[u8]) -> Option<ChangesToken> {
    let (&version, mut rest) = body.split_first()?;
    if version != VERSION {
        return None;
    }
    let rest = &mut rest;
    let vbuckets = u16::try_from(take(rest)?).ok()?;
    let selection = u32::try_from(take(rest)?).ok()?;
    let mut positions = BTreeMap::new();
    while !rest.is_empty() {
        let vbucket = VbucketId::new(u16::try_from(take(rest)?).ok()?)?;
        let vbucket_uuid = take(rest)?;
        let start = take(rest)?;
        let seqno = start.checked_add(take(rest)?)?;
        let end = seqno.checked_add(take(rest)?)?;
        let position = Position {
            vbucket_uuid,
            seqno: Seqno(seqno),
            snapshot: SnapshotRange {
                start: Seqno(start),
                end: Seqno(end),
            },
        };
        if vbucket.get() >= vbuckets || positions.insert(vbucket, position).is_some() {
            return None;
        }
    }
    Some(ChangesToken {
        vbuckets,
        selection,
        positions,
    })
}

fn selection(filter: &StreamFilter) -> u32 {
    let mut bytes = Vec::new();
    match filter {
        StreamFilter::All => {}
        StreamFilter::Collections(collections) => {
            let mut numbers: Vec<u32> = collections.iter().map(|one| one.0).collect();
            numbers.sort_unstable();
            numbers.dedup();
            bytes.push(b'c');
            for number in numbers {
                put(&mut bytes, u64::from(number));
            }
        }
        StreamFilter::Scope(scope) => {
            bytes.push(b's');
            put(&mut bytes, u64::from(scope.0));
        }
    }
    crc32fast::hash(&bytes)
}

/// Seven bits a byte, the lowest first.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        let placed = bits << shift;
        if placed >> shift != bits {
            return None;
        }
        number |= placed;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn unhexed(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use storage::CollectionId;

    use super::*;

    fn token() -> ChangesToken {
        let mut token = ChangesToken::new(128, &StreamFilter::All);
        for (number, seqno) in [(0, 1), (7, u64::MAX), (127, 300)] {
            let seqno = Seqno(seqno);
            let position = Position {
                vbucket_uuid: u64::MAX - 5,
                seqno,
                snapshot: SnapshotRange {
                    start: Seqno(seqno.0 / 2),
                    end: seqno,
                },
            };
            token.set(VbucketId::new(number).expect("a vbucket"), position);
        }
        token
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        assert_eq!(token().to_string().parse(), Ok(token()));
        let none = ChangesToken::new(4, &StreamFilter::All);
        assert_eq!(none.to_string().parse(), Ok(none));
    }

    #[test]
    fn whatever_else_is_refused() {
        let text = token().to_string();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let damaged = String::from_utf8(bytes).expect("text");
            assert!(damaged.parse::<ChangesToken>().is_err(), "{at}");
            assert!(
                text.get(..at).unwrap().parse::<ChangesToken>().is_err(),
                "{at}"
            );
        }
        for wrong in ["", "no", "zz", "00", "0102030405"] {
            assert!(wrong.parse::<ChangesToken>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn it_is_for_what_it_was_handed_out_for() {
        let fruit = StreamFilter::Collections(vec![CollectionId(8)]);
        assert_eq!(token().check(128, &StreamFilter::All), Ok(()));
        assert_eq!(token().check(128, &fruit), Err(TokenError::OtherSelection));
        let other = TokenError::OtherBucket {
            token: 128,
            bucket: 64,
        };
        assert_eq!(token().check(64, &StreamFilter::All), Err(other));
    }
}
