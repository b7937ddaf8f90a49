//! What every store is given: the same keys, values, seqnos and batches, from the same seeds.
//!
//! A document's vbucket is its number modulo the vbuckets (round robin), its key 16 hexadecimal digits of a hash of
//! its number, and its value a slice of one pool of random bytes, chosen by key and seqno, so that a reader can
//! check it.

use std::ops::Range;

/// Bytes of a key without the collection.
pub(crate) const KEY_LENGTH: usize = 16;

/// Bytes besides key and value that a mutation costs in a plain log: metadata (24), seqno, length, vbucket. The
/// raw reference writes as much.
const RECORD_OVERHEAD: usize = 38;

const POOL_LENGTH: usize = 4 << 20;

/// A client's key.
pub(crate) type Key = [u8; KEY_LENGTH];

/// One write of one document.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    pub(crate) vbucket: u16,
    pub(crate) key: Key,
    pub(crate) seqno: u64,
    /// The seqno of the version it replaces, as the engine's hash table knows it; 0 for a new document.
    pub(crate) replaces: u64,
    value: Range<usize>,
}

/// Mutations to be written as one, with what their values are slices of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) mutations: &'a [Mutation],
    pool: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The value of one of its mutations.
    pub(crate) fn value(&self, mutation: &Mutation) -> &'a [u8] {
        &self.pool[mutation.value.clone()]
    }

    /// One mutation whose value lies elsewhere.
    pub(crate) fn of_one(mutation: &'a Mutation, value: &'a [u8]) -> Batch<'a> {
        Batch {
            mutations: std::slice::from_ref(mutation),
            pool: value,
        }
    }
}

impl Mutation {
    /// A write of a value of `value_length` bytes, for [`Batch::of_one`].
    pub(crate) fn alone(name: Name, seqno: u64, replaces: u64, value_length: usize) -> Mutation {
        Mutation {
            vbucket: name.vbucket,
            key: name.key,
            seqno,
            replaces,
            value: 0..value_length,
        }
    }
}

/// Random bytes that values are slices of.
#[derive(Debug)]
pub(crate) struct Pool(Vec<u8>);

impl Pool {
    /// The same for everybody.
    pub(crate) fn new() -> Pool {
        let mut bytes = vec![0; POOL_LENGTH];
        fill(&mut bytes, 11);
        Pool(bytes)
    }

    /// The value of a version of a document.
    pub(crate) fn value(&self, document: u64, version: u64, length: usize) -> &[u8] {
        &self.0[self.range(document, version, length)]
    }

    fn range(&self, document: u64, version: u64, length: usize) -> Range<usize> {
        let room = (self.0.len() - length) as u64;
        let from = (mix(document ^ version.rotate_left(40)) % room) as usize;
        from..from + length
    }
}

/// Bytes a plain log would need for mutations with such values.
pub(crate) fn log_bytes(value_length: usize, mutations: u64) -> u64 {
    mutations * (KEY_LENGTH + value_length + RECORD_OVERHEAD) as u64
}

/// The name of a document: where it lies and its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) vbucket: u16,
    pub(crate) key: Key,
}

impl Name {
    /// Of a document of a workload of so many vbuckets.
    pub(crate) fn of(document: u64, vbuckets: u16) -> Name {
        Name {
            vbucket: (document % u64::from(vbuckets)) as u16,
            key: key_of(document),
        }
    }
}

/// A document's key.
pub(crate) fn key_of(document: u64) -> Key {
    hexadecimal(mix(document))
}

/// Makes batches, and remembers the newest seqno of every document and vbucket.
#[derive(Debug)]
pub(crate) struct Workload {
    vbuckets: u16,
    value_length: usize,
    pool: Pool,
    high_seqnos: Vec<u64>,
    newest: Vec<u64>,
    batch: Vec<Mutation>,
}

impl Workload {
    /// Of up to `documents` documents.
    pub(crate) fn new(vbuckets: u16, value_length: usize, documents: u64) -> Workload {
        Workload {
            vbuckets,
            value_length,
            pool: Pool::new(),
            high_seqnos: vec![0; usize::from(vbuckets)],
            newest: vec![0; usize::try_from(documents).unwrap()],
            batch: Vec::new(),
        }
    }

    /// How many documents it is of.
    pub(crate) fn documents(&self) -> u64 {
        self.newest.len() as u64
    }

    /// Bytes of a document's key and value.
    pub(crate) fn user_bytes_each(&self) -> u64 {
        (KEY_LENGTH + self.value_length) as u64
    }

    /// The next writes of these documents.
    pub(crate) fn batch(&mut self, documents: impl IntoIterator<Item = u64>) -> Batch<'_> {
        self.batch.clear();
        for document in documents {
            let name = Name::of(document, self.vbuckets);
            let high_seqno = &mut self.high_seqnos[usize::from(name.vbucket)];
            *high_seqno += 1;
            let seqno = *high_seqno;
            let replaces = std::mem::replace(&mut self.newest[document as usize], seqno);
            let value = self.pool.range(document, seqno, self.value_length);
            self.batch.push(Mutation {
                vbucket: name.vbucket,
                key: name.key,
                seqno,
                replaces,
                value,
            });
        }
        Batch {
            mutations: &self.batch,
            pool: &self.pool.0,
        }
    }

    /// Where a document lies.
    pub(crate) fn name(&self, document: u64) -> Name {
        Name::of(document, self.vbuckets)
    }

    /// What a reader must find there.
    pub(crate) fn newest_value(&self, document: u64) -> &[u8] {
        let seqno = self.newest[document as usize];
        self.pool.value(document, seqno, self.value_length)
    }
}

/// A small generator of random numbers, the same everywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }
}

/// Fills with random bytes, which no compressor shortens.
pub(crate) fn fill(bytes: &mut [u8], seed: u64) {
    let mut random = Random(seed);
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
}

pub(crate) fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

fn hexadecimal(number: u64) -> Key {
    let mut digits = [0; KEY_LENGTH];
    for (place, digit) in digits.iter_mut().enumerate() {
        let nibble = (number >> (60 - 4 * place)) & 15;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    digits
}
