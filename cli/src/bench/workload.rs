//! What the workloads of YCSB are: which operations in which shares, on which keys, with which values.
//!
//! Invariant: shares and key distributions are those of the YCSB core workloads (Cooper et al. 2010).

use bytes::Bytes;
use clap::ValueEnum;

/// A core workload of YCSB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// 50% reads, 50% updates.
    A,
    /// 95% reads, 5% updates.
    B,
    /// Reads only.
    C,
    /// 95% reads of the latest documents, 5% inserts.
    D,
    /// 95% short ranges, 5% inserts.
    E,
    /// 50% reads, 50% read-modify-writes.
    F,
}

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    Read,
    Update,
    Insert,
    ReadModifyWrite,
    Scan,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Update => "update",
            Action::Insert => "insert",
            Action::ReadModifyWrite => "read_modify_write",
            Action::Scan => "scan",
        }
    }
}

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::A => "a",
            Workload::B => "b",
            Workload::C => "c",
            Workload::D => "d",
            Workload::E => "e",
            Workload::F => "f",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Workload::A => "workload A",
            Workload::B => "workload B",
            Workload::C => "workload C",
            Workload::D => "workload D",
            Workload::E => "workload E",
            Workload::F => "workload F",
        }
    }

    /// Percent of reads, and what the rest is.
    fn shares(self) -> (u8, Action) {
        match self {
            Workload::A => (50, Action::Update),
            Workload::B => (95, Action::Update),
            Workload::C => (100, Action::Read),
            Workload::D | Workload::E => (95, Action::Insert),
            Workload::F => (50, Action::ReadModifyWrite),
        }
    }

    /// Whether reads prefer what was written last, instead of the same few keys all the time.
    pub(crate) fn reads_the_latest(self) -> bool {
        self == Workload::D
    }

    fn read(self) -> Action {
        if self == Workload::E {
            Action::Scan
        } else {
            Action::Read
        }
    }

    pub(crate) fn next(self, random: &mut fastrand::Rng) -> Action {
        let (reads, other) = self.shares();
        if random.u8(0..100) < reads {
            self.read()
        } else {
            other
        }
    }
}

/// Most documents of a range; fewer are as likely.
pub(crate) const RANGE_MAX: u64 = 100;

/// The key of the document of that number: as long as YCSB's, spread evenly.
pub(crate) fn key(number: u64) -> String {
    format!("user{:020}", scattered(number))
}

/// FNV-1a over the bytes of a number: where YCSB puts it, so that neighbours are not neighbours.
pub(crate) fn scattered(number: u64) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    number
        .to_le_bytes()
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, fold)
}

/// Values that do not compress, each a copy of its own.
#[derive(Debug)]
pub(crate) struct Values {
    pool: Vec<u8>,
    length: usize,
}

impl Values {
    /// Random bytes beyond one value, so that values differ.
    const SPARE: usize = 1 << 20;

    pub(crate) fn new(length: u32, seed: u64) -> Values {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut pool = vec![0; length.saturating_add(Self::SPARE)];
        fastrand::Rng::with_seed(seed).fill(&mut pool);
        Values { pool, length }
    }

    pub(crate) fn next(&self, random: &mut fastrand::Rng) -> Bytes {
        let start = random.usize(0..Self::SPARE);
        let end = start.saturating_add(self.length);
        Bytes::copy_from_slice(self.pool.get(start..end).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_come_in_their_shares() {
        let mut random = fastrand::Rng::with_seed(7);
        let expected = [
            (Workload::A, 50, Action::Update),
            (Workload::B, 95, Action::Update),
            (Workload::C, 100, Action::Read),
            (Workload::D, 95, Action::Insert),
            (Workload::E, 95, Action::Insert),
            (Workload::F, 50, Action::ReadModifyWrite),
        ];
        for (workload, percent, other) in expected {
            let mut reads = 0;
            for _ in 0..10_000 {
                let action = workload.next(&mut random);
                reads += i32::from(action == workload.read());
                assert!(action == workload.read() || action == other);
            }
            let difference: i32 = reads - percent * 100;
            assert!(difference.abs() < 200, "{workload:?}: {reads} reads");
        }
    }

    #[test]
    fn values_have_their_length_and_keys_are_apart() {
        let mut random = fastrand::Rng::with_seed(7);
        let values = Values::new(100, 1);
        assert_eq!(values.next(&mut random).len(), 100);
        assert_ne!(values.next(&mut random), values.next(&mut random));
        let mut keys: Vec<String> = (0..10_000).map(key).collect();
        assert!(keys.iter().all(|key| key.len() == 24));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 10_000);
    }
}
