//! A vbucket is taken back in the middle of everything, in the store and in memory, as a rollback does it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use piggin::Bucket;
use piggin::storage::{
    ItemView, Job, KeyRange, KvStore, Namespace, Outcome, Scan, Seqno, SeqnoRange, SystemEvent,
    VbucketId,
};
use supervisor::testing::World;

const STEP_BYTES: usize = 1 << 20;
/// Longer than a restart, or the opening of a store, takes.
const SETTLED: Duration = Duration::from_secs(2);

/// Takes a vbucket back to `to` and begins a new branch there; whether it was done: not while the store is away, or its disk
/// fails. Nobody may write meanwhile, and what a panic or a bad disk left for the flusher to ask the store is over by then.
pub(crate) async fn roll_back(world: &World, bucket: &Bucket, id: VbucketId, to: Seqno) -> bool {
    world.sleep(SETTLED).await;
    if bucket.flush().await.is_err() {
        return false;
    }
    let core = bucket.vbucket_core(id);
    let Some(core) = core.filter(|core| !core.is_suspect()) else {
        return false;
    };
    let Ok(lease) = bucket.store_handle().lease() else {
        return false;
    };
    let to = to.min(core.persisted_seqno());
    let Ok(mut job) = lease.store().rollback_job(id, to) else {
        return false;
    };
    loop {
        match job.step() {
            Outcome::Yielded => world.sleep(Duration::from_millis(1)).await,
            Outcome::Complete(_) => break,
            Outcome::Failed(_) | Outcome::Aborted(_) => return false,
        }
    }
    let snapshot = lease.store().snapshot(id).expect("what was rolled back");
    core.reset(&snapshot.state());
    let mut events = Vec::new();
    let of_events = KeyRange::all(Namespace::SystemEvent);
    read_all(snapshot.scan_by_key(of_events), |view| {
        let event = SystemEvent::read(view.operation, view.key, view.value);
        events.push((view.seqno, event.expect("an event")));
    });
    core.warm_collections(events);
    read_all(snapshot.scan_by_seqno(SeqnoRange::ALL), |view| {
        if view.namespace() == Namespace::Committed {
            let value = Bytes::copy_from_slice(view.value);
            core.warm_insert(Arc::new(view.to_item(value).expect("an item")));
        }
    });
    core.begin_branch().expect("a branch");
    core.warm_done();
    true
}

fn read_all(mut scan: Box<dyn Scan>, mut visit: impl FnMut(ItemView<'_>)) {
    let mut visit = |view: ItemView<'_>| {
        visit(view);
        ControlFlow::Continue(())
    };
    loop {
        match scan.step(STEP_BYTES, &mut visit) {
            Outcome::Yielded => {}
            Outcome::Complete(_) => return,
            broken @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{broken:?}"),
        }
    }
}
