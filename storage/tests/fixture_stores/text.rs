//! Everything a store says, as text: a line per vbucket, its state, its counts, and a line per item.

use std::fmt::Write;
use std::ops::ControlFlow;

use piggin_storage::{
    CollectionCounts, ItemView, KeyRange, KvStore, Namespace, Outcome, Scan, SeqnoRange, Snapshot,
    StorageError,
};

use super::Failure;

/// Everything `store` says.
pub(crate) fn tell(store: &dyn KvStore) -> Result<String, Failure> {
    let mut out = String::new();
    for status in store.vbuckets() {
        let vbucket = status.vbucket;
        match (status.position, store.snapshot(vbucket)) {
            (Ok(position), Ok(snapshot)) => {
                writeln!(out, "vbucket {vbucket}: {position:?}")?;
                tell_vbucket(&mut out, snapshot.as_ref())?;
            }
            (Err(_), Err(StorageError::VbucketDown { cause, .. })) => {
                writeln!(out, "vbucket {vbucket} is down: {cause}")?;
            }
            other => return Err(format!("vbucket {vbucket}: {other:?}").into()),
        }
    }
    Ok(out)
}

fn tell_vbucket(out: &mut String, snapshot: &dyn Snapshot) -> Result<(), Failure> {
    let state = snapshot.state();
    writeln!(out, "  {:?}", state.identity)?;
    writeln!(out, "  {:?}", state.watermarks)?;
    for (collection, counts) in &snapshot.counts()?.collections {
        if *counts != CollectionCounts::default() {
            writeln!(out, "  {collection:?}: {counts:?}")?;
        }
    }
    for dropped in snapshot.dropped_collections() {
        writeln!(out, "  {dropped:?}")?;
    }
    let by_seqno = lines(snapshot.scan_by_seqno(SeqnoRange::ALL), snapshot)?;
    out.extend(by_seqno.iter().map(|line| format!("  {line}\n")));
    let mut by_key = Vec::new();
    for namespace in Namespace::ALL {
        by_key.extend(lines(
            snapshot.scan_by_key(KeyRange::all(namespace)),
            snapshot,
        )?);
    }
    by_key.sort();
    let mut sorted = by_seqno;
    sorted.sort();
    if by_key != sorted {
        return Err("a scan by key finds other items than one by seqno".into());
    }
    Ok(())
}

/// A line per item, without the hint of its predecessor, of which a store may learn more; each is also looked up.
fn lines(mut scan: Box<dyn Scan>, snapshot: &dyn Snapshot) -> Result<Vec<String>, Failure> {
    let mut items = Vec::new();
    loop {
        let mut visit = |view: ItemView<'_>| {
            items.push(view.to_item(view.value.to_vec().into()));
            ControlFlow::Continue(())
        };
        match scan.step(1 << 20, &mut visit) {
            Outcome::Yielded => {}
            Outcome::Complete(_) => break,
            other @ (Outcome::Aborted(_) | Outcome::Failed(_)) => {
                return Err(format!("a scan ended as {other:?}").into());
            }
        }
    }
    let mut lines = Vec::new();
    for item in items {
        let item = item?;
        let document = &item.document;
        let found = snapshot.get(item.namespace(), &document.key)?;
        if found.is_none_or(|found| found.seqno != item.seqno || found.document != *document) {
            return Err(format!("{:?} is not found by its key", document.key).into());
        }
        lines.push(format!(
            "{:?} {:?} {document:?}",
            item.seqno, item.operation
        ));
    }
    Ok(lines)
}
