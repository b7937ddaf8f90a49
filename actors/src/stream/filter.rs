//! What of a vbucket's changes a stream is for, and how each is told.
//!
//! Pure. Invariant: a filter only loses collections by the event that ends them, and only gains them by the event that
//! begins them in its scope; so what a stream sends does not depend on when it is asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use messages::stream::{StreamEvent, StreamFilter, StreamRequestError, SystemEventAt};
use storage::{
    CollectionId, DeleteSource, Item, Namespace, Operation, ScopeId, Seqno, SystemEvent,
};

/// A collection a vbucket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenCollection {
    /// Its number.
    pub id: CollectionId,
    /// Its scope.
    pub scope: ScopeId,
    /// The seqno it began at; zero for the default collection.
    pub start: Seqno,
    /// Its newest item.
    pub high: Seqno,
}

/// What a stream is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    wanted: Wanted,
    /// Whether prepares, commits and aborts are told as such.
    is_synchronous: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Some {
        collections: BTreeSet<CollectionId>,
        /// What begins in here is wanted, too.
        scope: Option<ScopeId>,
    },
}

/// What a filter says of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It is told as this.
    Event(StreamEvent),
    /// It is of the filter's collections, but not to be seen: a prepare, or its abort.
    Invisible,
    /// It is of no concern.
    Other,
}

impl Filter {
    /// The filter for a request, among the collections and scopes there are.
    pub fn of(
        request: &StreamFilter,
        open: &[OpenCollection],
        scopes: &BTreeSet<ScopeId>,
    ) -> Result<Filter, StreamRequestError> {
        let wanted = match request {
            StreamFilter::All => Wanted::All,
            StreamFilter::Collections(ids) if ids.is_empty() => {
                return Err(StreamRequestError::EmptyFilter);
            }
            StreamFilter::Collections(ids) => {
                let is_open = |id: &&CollectionId| open.iter().any(|one| one.id == **id);
                if let Some(unknown) = ids.iter().find(|id| !is_open(id)) {
                    return Err(StreamRequestError::UnknownCollection(*unknown));
                }
                Wanted::Some {
                    collections: ids.iter().copied().collect(),
                    scope: None,
                }
            }
            StreamFilter::Scope(scope) => {
                if !scopes.contains(scope) {
                    return Err(StreamRequestError::UnknownScope(*scope));
                }
                let of_it = open.iter().filter(|one| one.scope == *scope);
                Wanted::Some {
                    collections: of_it.map(|one| one.id).collect(),
                    scope: Some(*scope),
                }
            }
        };
        Ok(Filter {
            wanted,
            is_synchronous: false,
        })
    }

    /// The same, for a consumer that takes part in durable writes, or does not.
    #[must_use]
    pub fn synchronous(self, is_synchronous: bool) -> Filter {
        Filter {
            is_synchronous,
            ..self
        }
    }

    /// Whether prepares, commits and aborts are told as such.
    #[must_use]
    pub fn is_synchronous(&self) -> bool {
        self.is_synchronous
    }

    /// Whether everything passes.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.wanted == Wanted::All
    }

    /// Those of `open` that pass; `None` if everything does, or one that is wanted is not open.
    #[must_use]
    pub fn among<'o>(&self, open: &'o [OpenCollection]) -> Option<Vec<&'o OpenCollection>> {
        let Wanted::Some { collections, .. } = &self.wanted else {
            return None;
        };
        let of = |id: &CollectionId| open.iter().find(|one| one.id == *id);
        collections.iter().map(of).collect()
    }

    /// How an item is told, if it is; an event that cannot be read is of no concern to anybody.
    #[must_use]
    pub fn sees(&self, item: Arc<Item>) -> Sight {
        if self.passes(&item) {
            self.event_of(item).map_or(Sight::Other, Sight::Event)
        } else if item.namespace() == Namespace::Prepared
            && self.has(item.document.key.collection())
        {
            Sight::Invisible
        } else {
            Sight::Other
        }
    }

    /// An item that passes, as its consumer is told; an event that cannot be read is told to nobody.
    #[must_use]
    pub fn event_of(&self, item: Arc<Item>) -> Option<StreamEvent> {
        Some(match item.operation {
            Operation::Prepare { .. } => StreamEvent::Prepare(item),
            Operation::Abort { .. } => StreamEvent::Abort(item),
            Operation::CommitMutation { .. } | Operation::CommitDeletion { .. } => {
                if self.is_synchronous {
                    StreamEvent::Commit(item)
                } else {
                    return self.event_of(written(item));
                }
            }
            Operation::Deletion {
                source: DeleteSource::Expiration,
                ..
            } => StreamEvent::Expiration(item),
            Operation::Deletion { .. } => StreamEvent::Deletion(item),
            Operation::Mutation => StreamEvent::Mutation(item),
            Operation::SystemEventBegin | Operation::SystemEventEnd => {
                StreamEvent::SystemEvent(Box::new(SystemEventAt {
                    seqno: item.seqno,
                    cas: item.document.cas,
                    event: SystemEvent::of(&item).ok()?,
                }))
            }
        })
    }

    /// An event was sent: the filter follows it.
    pub fn follow(&mut self, event: &SystemEvent) {
        let Wanted::Some { collections, scope } = &mut self.wanted else {
            return;
        };
        match event {
            SystemEvent::CollectionBegin { collection, .. } => {
                collections.insert(*collection);
            }
            SystemEvent::CollectionEnd { collection, .. } => {
                collections.remove(collection);
            }
            SystemEvent::ScopeBegin { .. } => {}
            SystemEvent::ScopeEnd { .. } => {
                *scope = None;
                collections.clear();
            }
        }
    }

    /// The same of an item that passed, if it is an event.
    pub fn follow_item(&mut self, item: &Item) {
        if item.namespace() == Namespace::SystemEvent
            && let Ok(event) = SystemEvent::of(item)
        {
            self.follow(&event);
        }
    }

    /// Whether nothing will ever pass again.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.wanted, Wanted::Some { collections, scope: None } if collections.is_empty())
    }

    /// Whether an item is told at all.
    #[must_use]
    pub fn passes(&self, item: &Item) -> bool {
        match item.namespace() {
            Namespace::Committed => self.has(item.document.key.collection()),
            Namespace::SystemEvent => {
                SystemEvent::of(item).is_ok_and(|event| self.has_event(&event))
            }
            Namespace::Prepared => self.is_synchronous && self.has(item.document.key.collection()),
        }
    }

    /// Whether the items of a collection pass.
    #[must_use]
    pub fn has(&self, id: CollectionId) -> bool {
        match &self.wanted {
            Wanted::All => true,
            Wanted::Some { collections, .. } => collections.contains(&id),
        }
    }

    fn has_event(&self, event: &SystemEvent) -> bool {
        let Wanted::Some { collections, scope } = &self.wanted else {
            return true;
        };
        match event {
            SystemEvent::CollectionBegin {
                collection,
                scope: of,
                ..
            }
            | SystemEvent::CollectionEnd {
                collection,
                scope: of,
                ..
            } => collections.contains(collection) || *scope == Some(*of),
            SystemEvent::ScopeBegin { scope: of, .. } | SystemEvent::ScopeEnd { scope: of, .. } => {
                *scope == Some(*of)
            }
        }
    }
}

/// A commit for those who were told of no prepare: the same document, written as any other.
fn written(mut item: Arc<Item>) -> Arc<Item> {
    let operation = as_written(item.operation);
    Arc::make_mut(&mut item).operation = operation;
    item
}

/// What a commit did to its document.
#[must_use]
pub const fn as_written(operation: Operation) -> Operation {
    match operation {
        Operation::CommitMutation { .. } => Operation::Mutation,
        Operation::CommitDeletion { deleted_at, .. } => Operation::Deletion {
            deleted_at,
            source: DeleteSource::Explicit,
        },
        Operation::Mutation
        | Operation::Deletion { .. }
        | Operation::Prepare { .. }
        | Operation::Abort { .. }
        | Operation::SystemEventBegin
        | Operation::SystemEventEnd => operation,
    }
}

#[cfg(test)]
mod tests {
    use storage::{Cas, Document, DocumentKey, ManifestUid};

    use super::*;

    const FRUIT: CollectionId = CollectionId(8);

    fn filter_for(wanted: &StreamFilter) -> Filter {
        Filter::of(wanted, &open(), &[ScopeId::DEFAULT].into()).expect("a filter")
    }

    fn open() -> [OpenCollection; 2] {
        let collection = |id, start| OpenCollection {
            id,
            scope: ScopeId::DEFAULT,
            start: Seqno(start),
            high: Seqno(9),
        };
        [collection(CollectionId::DEFAULT, 0), collection(FRUIT, 4)]
    }

    fn item(collection: CollectionId) -> Arc<Item> {
        let key = DocumentKey::new(collection, b"k").expect("a key");
        Arc::new(Item::mutation(Seqno(5), Document::new(key, "v", Cas(1))))
    }

    fn end(collection: CollectionId) -> SystemEvent {
        SystemEvent::CollectionEnd {
            uid: ManifestUid(2),
            scope: ScopeId::DEFAULT,
            collection,
            start: Seqno(4),
        }
    }

    fn event_item(event: &SystemEvent) -> Arc<Item> {
        let document = Document::new(event.key().expect("a key"), event.value(), Cas(1));
        let mut item = Item::mutation(Seqno(7), document);
        item.operation = event.operation();
        Arc::new(item)
    }

    #[test]
    fn only_what_is_wanted_passes() {
        let filter = filter_for(&StreamFilter::Collections(vec![FRUIT]));
        assert!(matches!(filter.sees(item(FRUIT)), Sight::Event(_)));
        assert_eq!(filter.sees(item(CollectionId::DEFAULT)), Sight::Other);
        let all = filter_for(&StreamFilter::All);
        assert!(matches!(all.sees(item(FRUIT)), Sight::Event(_)));
        assert!(matches!(all.sees(event_item(&end(FRUIT))), Sight::Event(_)));
    }

    #[test]
    fn the_end_of_its_last_collection_empties_it() {
        let mut filter = filter_for(&StreamFilter::Collections(vec![FRUIT]));
        let other = event_item(&end(CollectionId(9)));
        assert_eq!(filter.sees(other), Sight::Other);
        assert!(matches!(
            filter.sees(event_item(&end(FRUIT))),
            Sight::Event(_)
        ));
        assert!(!filter.is_empty());
        filter.follow(&end(FRUIT));
        assert!(filter.is_empty());
    }

    #[test]
    fn a_scope_gains_what_begins_in_it() {
        let scope = StreamFilter::Scope(ScopeId::DEFAULT);
        let mut filter = filter_for(&scope);
        let begin = SystemEvent::CollectionBegin {
            uid: ManifestUid(3),
            scope: ScopeId::DEFAULT,
            collection: CollectionId(9),
            name: "new".to_owned(),
            max_ttl_s: 0,
        };
        assert!(matches!(filter.sees(event_item(&begin)), Sight::Event(_)));
        filter.follow(&begin);
        assert!(matches!(
            filter.sees(item(CollectionId(9))),
            Sight::Event(_)
        ));
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let scopes = [ScopeId::DEFAULT].into();
        let ask = |filter| Filter::of(&filter, &open(), &scopes).expect_err("no filter");
        let unknown = ask(StreamFilter::Collections(vec![CollectionId(77)]));
        assert_eq!(
            unknown,
            StreamRequestError::UnknownCollection(CollectionId(77))
        );
        let unknown = ask(StreamFilter::Scope(ScopeId(77)));
        assert_eq!(unknown, StreamRequestError::UnknownScope(ScopeId(77)));
        assert_eq!(
            ask(StreamFilter::Collections(Vec::new())),
            StreamRequestError::EmptyFilter
        );
    }

    #[test]
    fn only_who_takes_part_in_durable_writes_is_told_of_them() {
        let level = storage::DurabilityLevel::Majority;
        let prepare_seqno = Seqno(4);
        let is_deletion = false;
        let operations = [
            Operation::Prepare { level, is_deletion },
            Operation::CommitMutation { prepare_seqno },
            Operation::CommitDeletion {
                prepare_seqno,
                deleted_at: 9,
            },
            Operation::Abort {
                prepare_seqno,
                deleted_at: 9,
            },
        ];
        let of = |operation| {
            Arc::new(Item {
                operation,
                ..item(FRUIT).as_ref().clone()
            })
        };
        let others = filter_for(&StreamFilter::All);
        let seen: Vec<_> = operations.iter().map(|one| others.sees(of(*one))).collect();
        let deletion = Operation::Deletion {
            deleted_at: 9,
            source: DeleteSource::Explicit,
        };
        assert_eq!(
            seen,
            [
                Sight::Invisible,
                Sight::Event(StreamEvent::Mutation(of(Operation::Mutation))),
                Sight::Event(StreamEvent::Deletion(of(deletion))),
                Sight::Invisible,
            ]
        );
        let replica = filter_for(&StreamFilter::All).synchronous(true);
        let [prepare, commit, deletion, abort] = operations.map(of);
        assert_eq!(
            replica.sees(Arc::clone(&prepare)),
            Sight::Event(StreamEvent::Prepare(Arc::clone(&prepare)))
        );
        for commit in [commit, deletion] {
            let event = StreamEvent::Commit(Arc::clone(&commit));
            assert_eq!(replica.sees(Arc::clone(&commit)), Sight::Event(event));
        }
        assert_eq!(
            replica.sees(Arc::clone(&abort)),
            Sight::Event(StreamEvent::Abort(Arc::clone(&abort)))
        );
        // Of collections it is not for it is told nothing either way.
        let elsewhere = filter_for(&StreamFilter::Collections(vec![CollectionId::DEFAULT]));
        assert_eq!(
            elsewhere.synchronous(true).sees(Arc::clone(&prepare)),
            Sight::Other
        );
    }
}
