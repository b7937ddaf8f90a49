//! A compaction tells each document whose time is up, with the version that is there, and nothing else; how far it has
//! come can be seen at every step.
#![cfg(test)]

mod support;

use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{
    CompactionRequest, CompactionStage, ExpiredDocument, Expiry, Item, Job, Outcome, Seqno,
};
use support::log_store::{create_on, small_options};
use support::{Writer, commit_of, deletion, key, mutation, prepare, vbucket};

const TIME: u32 = 1_700_000_000;

fn expiring(item: Arc<Item>, at: u32) -> Arc<Item> {
    let mut item = Arc::unwrap_or_clone(item);
    item.document.expiry = Expiry(at);
    Arc::new(item)
}

/// MB-34768, MB-42610: prepares were expired.
#[test]
fn live_documents_once_each() {
    let (store, shared) = create_on(&SimulatedDisk::new(), small_options(1));
    let mut writer = Writer::create(&shared, 0);
    writer.write(vec![
        expiring(mutation(1, "superseded", "value"), TIME),
        expiring(mutation(2, "due", "value"), TIME),
        expiring(mutation(3, "not due", "value"), TIME + 1),
        mutation(4, "for ever", "value"),
        expiring(prepare(5, "prepared", "value"), TIME),
        expiring(prepare(6, "committed", "value"), TIME),
    ]);
    writer.seal(Seqno::ZERO);
    writer.write(vec![
        expiring(mutation(7, "superseded", "value"), TIME + 1),
        expiring(commit_of(6, 8, "committed", "value"), TIME),
        expiring(deletion(9, "deleted"), TIME),
        mutation(10, "last", "value"),
    ]);
    let before = writer.image();
    let request = CompactionRequest {
        expired_at_s: TIME + 1,
        history_floor: Seqno::ZERO,
        ..CompactionRequest::default()
    };
    let mut job = store.compaction_job(vbucket(0), request).unwrap();
    let mut told = Vec::new();
    let mut stages = Vec::new();
    let mut written = 0;
    loop {
        let progress = job.progress();
        stages.push(progress.stage);
        assert!(progress.bytes_written >= written);
        written = progress.bytes_written;
        let ended = job.step();
        told.extend(job.take_expired());
        if ended != Outcome::Yielded {
            assert!(matches!(ended, Outcome::Complete(_)), "{ended:?}");
            break;
        }
    }
    let expired = |name: &str, seqno: u64| {
        let item = before
            .by_seqno
            .iter()
            .find(|item| item.seqno == Seqno(seqno));
        ExpiredDocument {
            key: key(name),
            cas: item.unwrap().document.cas,
            seqno: Seqno(seqno),
        }
    };
    assert_eq!(told, [expired("due", 2), expired("committed", 8)]);
    assert_eq!(writer.image(), before);
    let progress = job.progress();
    assert_eq!(progress.bytes_read, progress.bytes_total);
    assert!(progress.bytes_written > progress.bytes_total);
    stages.dedup();
    assert_eq!(stages.first(), Some(&CompactionStage::Start));
    assert_eq!(stages.last(), Some(&CompactionStage::Publish));
}
