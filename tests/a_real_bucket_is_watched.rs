//! Taps and faults of a bucket on threads: the harness is part of its configuration.
#![cfg(test)]

use std::sync::Arc;

use actix::System;

use piggin::messages::vbucket::{Set, WriteOptions};
use piggin::messages::{ChildName, FailureCause, FailureId, FailureKind};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{CollectionId, DocumentKey};
use piggin::{Bucket, BucketConfig};
use supervisor::testing::{Fault, Harness, MessagesOf};

#[test]
fn a_bucket_on_threads_is_seen_and_made_to_fail() {
    let harness = Harness::new();
    let sets = MessagesOf::<Set>::default();
    harness.tap(sets.clone());
    let config = BucketConfig {
        vbuckets: Some(4),
        hooks: harness.hooks(),
        ..BucketConfig::on(Arc::new(SimulatedDisk::new()))
    };
    System::new().block_on(async {
        let bucket = Bucket::create(config).await.expect("a bucket");
        let address = bucket.vbucket(bucket.vbucket_of(b"key")).expect("it");
        let set = |value: &'static str| Set {
            key: DocumentKey::new(CollectionId::DEFAULT, b"key").expect("a key"),
            value: value.into(),
            options: WriteOptions::default(),
        };
        let faults = [
            Fault::panic_on::<Set>(2),
            Fault::PanicIn {
                child: ChildName::new("writer-0"),
                nth: 2,
            },
            Fault::FlushCommit(2),
        ];
        for fault in &faults {
            let injected = harness.inject(fault.clone());
            assert!(injected.is_ok(), "a disk's matter: {fault:?}");
        }
        for (value, is_ok) in [("1", true), ("2", false), ("3", true)] {
            let answer = address.send(set(value)).await.expect("an answer");
            assert_eq!(answer.is_ok(), is_ok, "{answer:?}");
        }
        // Each goes to disk whatever becomes of the writer, and after enough of them everything has struck.
        while harness.faults_waiting() > 0 {
            bucket.set("other", "x").persisted().await.expect("a write");
        }
        assert_eq!(bucket.get("key").await.expect("it").value, "3");
        assert_eq!(sets.all().len(), 3);
        assert_eq!(harness.faults_struck().len(), 3);
        bucket.flush().await.expect("all on disk");
        let failures = bucket.failures(FailureId(0)).failures;
        for fault in &faults {
            let (text, cause) = (fault.panic_text(), fault.cause());
            let is_its_panic = |cause: &FailureCause| matches!(cause, FailureCause::Panic(said) if said.ends_with(&text));
            let tells = |told: &FailureCause| *told == cause || is_its_panic(told);
            let told = failures.iter().filter(|failure| tells(&failure.cause));
            assert_eq!(told.count(), 1, "{fault:?}: {failures:?}");
        }
        let panics = failures
            .iter()
            .filter(|failure| failure.kind == FailureKind::ChildPanicked);
        assert_eq!(panics.count(), 2);
        bucket.shutdown().await.expect("an orderly end");
    });
}
