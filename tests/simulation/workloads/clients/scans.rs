//! A client scans its own keys, or some of them, and compares what it is told with what it was acknowledged.
//!
//! Invariant: a scan that comes to its end tells every write that was answered before it was opened, by rising key, and nothing
//! that nobody asked for.

use std::collections::BTreeMap;

use bytes::Bytes;

use piggin::messages::scan::{ScanError, ScanRange};
use piggin::storage::Seqno;

use super::{Client, Ended, KEYS, PATIENCE};

/// A scan that came to its end told a document.
pub(crate) const DOCUMENT: &str = "scanned";

/// What one scan is to read.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    first: u64,
    /// The first that is not read.
    behind: u64,
    with_values: bool,
    limit: Option<u64>,
}

impl Client {
    pub(super) async fn scan(&self) -> Ended {
        let first = self.random.below(KEYS);
        let wanted = Wanted {
            first,
            behind: self.random.between(first..=KEYS),
            with_values: self.random.chance(800),
            limit: self.random.chance(200).then(|| self.random.below(KEYS)),
        };
        match tokio::time::timeout(PATIENCE, self.told(wanted)).await {
            Ok(Ok(told)) => {
                self.compare(wanted, &told);
                Ended::Done
            }
            Ok(Err(_)) => Ended::Failed,
            Err(_) => Ended::Unanswered,
        }
    }

    async fn told(&self, wanted: Wanted) -> Result<Vec<(String, Option<Bytes>)>, ScanError> {
        let name = |key| self.place(key).1;
        let range = ScanRange::from(name(wanted.first)).up_to(name(wanted.behind));
        let mut scan = self.bucket.scan(range);
        if !wanted.with_values {
            scan = scan.keys_only();
        }
        if let Some(limit) = wanted.limit {
            scan = scan.limit(limit);
        }
        let mut scan = scan.open()?;
        let mut told = Vec::new();
        while let Some(one) = scan.next().await? {
            let key = String::from_utf8_lossy(one.key.key()).into_owned();
            told.push((key, one.value));
        }
        Ok(told)
    }

    fn compare(&self, wanted: Wanted, told: &[(String, Option<Bytes>)]) {
        if !told.is_sorted_by(|one, next| one.0 < next.0) {
            self.history.found(format!("{wanted:?} out of order"));
        }
        let is_cut = wanted.limit.is_some_and(|limit| told.len() as u64 >= limit);
        let read_to = told.last().filter(|_| is_cut).map(|(key, _)| key.clone());
        let mut told: BTreeMap<_, _> = told.iter().cloned().collect();
        for key in wanted.first..wanted.behind {
            let place = self.place(key);
            let one = told.remove(&place.1);
            if one.is_none() && is_cut && read_to.as_ref().is_none_or(|last| place.1 > *last) {
                continue;
            }
            if one.is_some() {
                self.history.did(DOCUMENT);
            }
            let possible = self.history.possible(&place, Seqno::MAX);
            let fits = |value: &Option<Bytes>| match &one {
                None => value.is_none(),
                Some(None) => value.is_some(),
                Some(read) => value == read,
            };
            if !possible.iter().any(fits) {
                self.history.found(format!(
                    "{wanted:?}: {place:?} is {one:?}, which was never acknowledged"
                ));
            }
        }
        if let Some(other) = told.keys().next() {
            self.history
                .found(format!("{wanted:?}: {other} was not asked for"));
        }
    }
}
