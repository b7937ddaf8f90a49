//! Every injected failure is told exactly once, and no panic is told that was not injected.
//!
//! Invariant (id `failures-are-told-once`): a panic is one `ChildPanicked` with its text, a fault at a named place one
//! failure with its cause; ids rise by one.

use piggin::Bucket;
use piggin::messages::{Failure, FailureCause, FailureId, FailureKind};
use supervisor::testing::{Fault, World};

/// Of a bucket since it was opened, with the faults since then.
pub(crate) fn check(world: &World, bucket: &Bucket) -> Vec<String> {
    let failures = bucket.failures(FailureId(0)).failures;
    let mut findings = Vec::new();
    for (failure, id) in failures.iter().zip(1..) {
        if failure.id != FailureId(id) {
            findings.push(format!("failure {id} has the id {:?}", failure.id));
        }
    }
    let struck = world.faults_struck();
    for fault in &struck {
        let told = failures.iter().filter(|failure| tells(failure, fault));
        let (told, expected) = (told.count(), usize::from(!is_a_stall(fault)));
        // A stall is a failure once it lasted long enough, which the end of the bucket may forestall.
        if told != expected && !(is_a_stall(fault) && told <= 1) {
            findings.push(format!("{fault:?} was told {told} times: {failures:#?}"));
        }
    }
    let panics = failures
        .iter()
        .filter(|failure| failure.kind == FailureKind::ChildPanicked);
    for panic in panics {
        if !struck.iter().any(|fault| tells(panic, fault)) {
            findings.push(format!("a panic nobody asked for: {panic:?}"));
        }
    }
    findings
}

fn is_a_stall(fault: &Fault) -> bool {
    matches!(fault, Fault::Stall { .. })
}

fn tells(failure: &Failure, fault: &Fault) -> bool {
    if let Fault::Stall { child, .. } = fault {
        failure.kind == FailureKind::ChildStalled && failure.child == *child
    } else if let Fault::PanicIn { .. } | Fault::PanicOn { .. } = fault {
        // Where it panicked is told before it.
        failure.kind == FailureKind::ChildPanicked
            && matches!(&failure.cause, FailureCause::Panic(text) if text.ends_with(&fault.panic_text()))
    } else {
        failure.cause == fault.cause()
    }
}
