//! Nothing acknowledged is lost, nothing else is there, and the counts agree.
//!
//! Invariants (id `acknowledged-survives`): while the bucket lives every key holds its newest acknowledged write,
//! whatever panicked (or a later one whose outcome nobody knows). After a crash there is a seqno for each vbucket up to
//! which everything is there and above which nothing is; no write acknowledged as persisted lies above it. (Id
//! `counts-are-exact`): as many documents are counted as are found.

use std::collections::BTreeMap;

use bytes::Bytes;

use piggin::Bucket;
use piggin::messages::OperationError;
use piggin::storage::{Seqno, VbucketId};

use crate::history::{History, KeyHistory, Outcome, Place};

/// Of a bucket that was not ended since what the history tells.
pub(crate) async fn while_it_lives(bucket: &Bucket, history: &History) -> Vec<String> {
    check(bucket, history, |_| Seqno::MAX).await
}

/// Of a bucket that was just opened after a crash; what is found is the truth from then on.
pub(crate) async fn after_a_crash(bucket: &Bucket, history: &History) -> Vec<String> {
    let vbuckets = bucket.statistics().vbuckets;
    let high: BTreeMap<VbucketId, Seqno> = vbuckets
        .iter()
        .map(|vbucket| (vbucket.vbucket, vbucket.high_seqno))
        .collect();
    check(bucket, history, |vbucket| {
        high.get(&vbucket).copied().unwrap_or(Seqno::ZERO)
    })
    .await
}

async fn check(
    bucket: &Bucket,
    history: &History,
    high: impl Fn(VbucketId) -> Seqno,
) -> Vec<String> {
    let mut findings = Vec::new();
    let mut documents = 0;
    for (place, asked) in history.keys() {
        let found = match bucket.get(&place.1).await {
            Ok(found) => Some(found.value),
            Err(OperationError::KeyNotFound) => None,
            Err(error) => {
                findings.push(format!("{place:?}: {error}"));
                continue;
            }
        };
        documents += u64::from(found.is_some());
        findings.extend(judge(&place, &asked, high(place.0), found.as_ref()));
        if high(place.0) != Seqno::MAX {
            history.settle(&place, found);
        }
    }
    let counted = bucket.statistics().documents;
    if findings.is_empty() && counted != documents {
        findings.push(format!(
            "{counted} documents are counted, {documents} there"
        ));
    }
    findings
}

fn judge(place: &Place, asked: &KeyHistory, high: Seqno, found: Option<&Bytes>) -> Vec<String> {
    let mut findings = Vec::new();
    for written in &asked.writes {
        if let Outcome::Persisted(seqno) = written.outcome
            && seqno > high
        {
            findings.push(format!(
                "{place:?}: a write acknowledged as persisted at {seqno} is gone, the vbucket ends at {high}"
            ));
        }
    }
    let possible = asked.possible(high);
    if !possible.iter().any(|one| one.as_ref() == found) {
        let short = |value: Option<&Bytes>| {
            value.map(|value| {
                String::from_utf8_lossy(value)
                    .chars()
                    .take(16)
                    .collect::<String>()
            })
        };
        let possible: Vec<_> = possible.iter().map(|one| short(one.as_ref())).collect();
        findings.push(format!(
            "{place:?}: {:?} is there up to {high}, and of what was acknowledged it should be one of {possible:?}",
            short(found)
        ));
    }
    findings
}
