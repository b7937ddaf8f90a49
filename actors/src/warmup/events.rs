//! The system events a vbucket's store holds: which scopes and collections there are, and which there were.
//!
//! Invariant: what cannot be read, or read and not understood, keeps the vbucket out of service: it must not look as if it
//! had fewer collections than it has.

use std::ops::ControlFlow;

use storage::{
    ItemView, KeyRange, KvStore, LogStore, Namespace, Outcome, Scan, Seqno, StorageError,
    SystemEvent, VbucketId, VbucketStateRecord,
};

/// Bytes of one step of the scan: all there is, as a rule.
const STEP_BYTES: usize = 1 << 20;

/// The newest event of each slot. A vbucket that never followed a manifest has none, and is not searched.
pub(crate) fn read(
    store: &LogStore,
    vbucket: VbucketId,
    state: &VbucketStateRecord,
) -> Result<Vec<(Seqno, SystemEvent)>, StorageError> {
    if state.identity.manifest_uid == 0 {
        return Ok(Vec::new());
    }
    let snapshot = store.snapshot(vbucket)?;
    let mut scan = snapshot.scan_by_key(KeyRange::all(Namespace::SystemEvent));
    let mut events = Vec::new();
    read_all(&mut *scan, vbucket, &mut events)?;
    Ok(events)
}

fn read_all(
    scan: &mut dyn Scan,
    vbucket: VbucketId,
    events: &mut Vec<(Seqno, SystemEvent)>,
) -> Result<(), StorageError> {
    let mut bad = None;
    let mut visit = |view: ItemView<'_>| {
        let Ok(event) = SystemEvent::read(view.operation, view.key, view.value) else {
            bad = Some(view.seqno);
            return ControlFlow::Break(());
        };
        events.push((view.seqno, event));
        ControlFlow::Continue(())
    };
    loop {
        match scan.step(STEP_BYTES, &mut visit) {
            Outcome::Yielded => {}
            Outcome::Complete(_) => return Ok(()),
            Outcome::Failed(cause) => return Err(cause),
            Outcome::Aborted(_) => break,
        }
    }
    Err(StorageError::Corruption {
        file: format!("the history of vbucket {vbucket}"),
        offset: bad.unwrap_or_default().0,
        what: "the system event of this seqno says nothing of a scope or a collection".to_owned(),
    })
}
