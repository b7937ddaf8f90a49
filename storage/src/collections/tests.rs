//! Events say the same after they were stored; what is no event is refused.

use crate::cas::Cas;
use crate::collections::{ManifestUid, ScopeId, SystemEvent, SystemEventError};
use crate::document::{CollectionId, Document, DocumentKey, Item, Operation};
use crate::seqno::Seqno;

fn events() -> [SystemEvent; 4] {
    let (uid, scope, collection) = (ManifestUid(300), ScopeId(9), CollectionId(70_000));
    [
        SystemEvent::CollectionBegin {
            uid,
            scope,
            collection,
            name: "orders".into(),
            max_ttl_s: 86_400,
        },
        SystemEvent::CollectionEnd {
            uid,
            scope,
            collection,
            start: Seqno(12_345),
        },
        SystemEvent::ScopeBegin {
            uid,
            scope,
            name: "shop".into(),
        },
        SystemEvent::ScopeEnd { uid, scope },
    ]
}

fn item(event: &SystemEvent) -> Item {
    let key = event.key().expect("short");
    let mut item = Item::mutation(Seqno(1), Document::new(key, event.value(), Cas(1)));
    item.operation = event.operation();
    item
}

#[test]
fn an_event_reads_as_it_was_written() {
    for event in events() {
        assert_eq!(SystemEvent::of(&item(&event)), Ok(event));
    }
}

#[test]
fn begin_and_end_share_a_slot_and_collections_and_scopes_do_not() {
    let [begin, end, scope_begin, scope_end] = events().map(|event| event.key().expect("short"));
    assert_eq!(begin, end);
    assert_eq!(scope_begin, scope_end);
    assert_ne!(begin, scope_begin);
}

#[test]
fn what_is_no_event_is_refused() {
    for event in events() {
        let good = item(&event);
        let mut of_a_client = good.clone();
        of_a_client.document.key =
            DocumentKey::new(CollectionId(8), good.document.key.key()).expect("short");
        assert_eq!(SystemEvent::of(&of_a_client), Err(SystemEventError));
        let mut written = good.clone();
        written.operation = Operation::Mutation;
        assert_eq!(SystemEvent::of(&written), Err(SystemEventError));
        let mut empty = good;
        empty.document.value = bytes::Bytes::new();
        assert_eq!(SystemEvent::of(&empty), Err(SystemEventError));
    }
}
