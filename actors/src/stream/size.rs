//! What an event counts for flow control: the bytes it has in the field's protocol, header, extras, key and value.
//!
//! Invariant: an event counts the same when it is sent and when it is acknowledged, so that nothing is ever left over.

use messages::stream::StreamEvent;
use storage::Item;

const MUTATION: u64 = 55;
const DELETION: u64 = 45;
const EXPIRATION: u64 = 44;
const PREPARE: u64 = 57;
/// The document comes with it, which in the field's protocol the replica has from the prepare; so it counts.
const COMMIT: u64 = 40;
const ABORT: u64 = 40;
const SYSTEM_EVENT: u64 = 37;
const SNAPSHOT_MARKER: u64 = 24 + 1 + 52;
const SEQNO_ADVANCED: u64 = 32;
const STREAM_END: u64 = 28;

/// What it counts.
#[must_use]
pub fn flow_bytes(event: &StreamEvent) -> u64 {
    match event {
        StreamEvent::Mutation(item) => of_item(MUTATION, item),
        StreamEvent::Deletion(item) => of_item(DELETION, item),
        StreamEvent::Expiration(item) => of_item(EXPIRATION, item),
        StreamEvent::Prepare(item) => of_item(PREPARE, item),
        StreamEvent::Commit(item) => of_item(COMMIT, item),
        StreamEvent::Abort(item) => of_item(ABORT, item),
        StreamEvent::SystemEvent(event) => {
            SYSTEM_EVENT.saturating_add(event.event.value().len() as u64)
        }
        StreamEvent::SnapshotMarker(_) => SNAPSHOT_MARKER,
        StreamEvent::SeqnoAdvanced(_) => SEQNO_ADVANCED,
        StreamEvent::StreamEnd(_) => STREAM_END,
    }
}

fn of_item(fixed: u64, item: &Item) -> u64 {
    fixed.saturating_add(item.user_bytes())
}
