//! Every acknowledged write is there, unless one after it whose outcome nobody knows took its place.
//!
//! Invariant (id `acknowledged-is-durable`): the value of a key is the newest acknowledged one or one asked for after
//! it; a key nobody was acknowledged for may be missing. What was found is from then on as good as acknowledged.

use piggin::storage::StorageError;

use crate::engine::Engine;
use crate::workloads::clients::History;

pub(crate) fn check(engine: &Engine, history: &History) -> Result<Vec<String>, StorageError> {
    let mut findings = Vec::new();
    for (place, asked) in history.keys() {
        let (vbucket, key) = &place;
        let found = engine.read(*vbucket, key)?;
        let is_unknown = |found| asked.unknown.contains(found);
        if found != asked.settled && !found.as_ref().is_some_and(is_unknown) {
            let what = match (&found, &asked.settled) {
                (Some(_), Some(_)) => "another value than the acknowledged one is there",
                (Some(_), None) => "a value nobody wrote is there, or one that was lost before",
                (None, _) => "an acknowledged write is gone",
            };
            findings.push(format!("vbucket {vbucket} key {key:?}: {what}"));
        }
        history.settle(&place, found);
    }
    Ok(findings)
}
