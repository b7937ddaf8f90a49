//! Collections: what a bucket's manifest says, how it is changed, and why a change is refused.
//!
//! Invariant: a manifest is a value; every change makes another one whose uid is higher by one. A collection's number is
//! never used again, so that what belonged to one that was dropped is never taken for part of one of the same name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use actix::Message;
use storage::{Advice, CollectionId, ManifestUid, ScopeId};

use crate::status::OperationError;

/// Name of the scope and of the collection every bucket begins with.
pub const DEFAULT_NAME: &str = "_default";

/// The scopes and collections of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionsManifest {
    /// Raised by one with every change.
    pub uid: ManifestUid,
    /// Names of the scopes.
    pub scopes: BTreeMap<ScopeId, String>,
    /// The collections.
    pub collections: BTreeMap<CollectionId, CollectionEntry>,
}

/// A collection of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionEntry {
    /// The scope it is in.
    pub scope: ScopeId,
    /// Its name, unique in its scope.
    pub name: String,
    /// Longest life of its documents in seconds; zero for no limit.
    pub max_ttl_s: u32,
}

impl Default for CollectionsManifest {
    /// What every bucket begins with.
    fn default() -> CollectionsManifest {
        let collection = CollectionEntry {
            scope: ScopeId::DEFAULT,
            name: DEFAULT_NAME.to_owned(),
            max_ttl_s: 0,
        };
        CollectionsManifest {
            uid: ManifestUid(0),
            scopes: BTreeMap::from([(ScopeId::DEFAULT, DEFAULT_NAME.to_owned())]),
            collections: BTreeMap::from([(CollectionId::DEFAULT, collection)]),
        }
    }
}

impl CollectionsManifest {
    /// Most scopes a bucket may have.
    pub const SCOPES_MAX: usize = 1000;
    /// Most collections a bucket may have: each costs memory in every vbucket.
    pub const COLLECTIONS_MAX: usize = 1000;

    /// The scope of that name.
    #[must_use]
    pub fn scope(&self, name: &str) -> Option<ScopeId> {
        let mut scopes = self.scopes.iter();
        scopes.find(|(_, one)| *one == name).map(|(id, _)| *id)
    }

    /// The collection of that name in that scope.
    #[must_use]
    pub fn collection(&self, scope: &str, name: &str) -> Option<CollectionId> {
        let scope = self.scope(scope)?;
        let mut collections = self.in_scope(scope);
        collections
            .find(|(_, entry)| entry.name == name)
            .map(|(id, _)| id)
    }

    /// The collections of a scope.
    pub fn in_scope(
        &self,
        scope: ScopeId,
    ) -> impl Iterator<Item = (CollectionId, &CollectionEntry)> {
        let of_scope = move |(_, entry): &(&CollectionId, &CollectionEntry)| entry.scope == scope;
        let collections = self.collections.iter().filter(of_scope);
        collections.map(|(id, entry)| (*id, entry))
    }
}

/// A change of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestChange {
    /// A new scope, with no collection in it.
    CreateScope {
        /// Its name.
        scope: String,
    },
    /// A new collection.
    CreateCollection {
        /// Name of its scope, which is there.
        scope: String,
        /// Its name.
        collection: String,
        /// Longest life of its documents in seconds; zero for no limit.
        max_ttl_s: u32,
    },
    /// A scope goes, with all its collections.
    DropScope {
        /// Its name.
        scope: String,
    },
    /// A collection goes, with all its documents.
    DropCollection {
        /// Name of its scope.
        scope: String,
        /// Its name.
        collection: String,
    },
}

/// Change the manifest. Answered with the new uid once the change is on disk in every vbucket that is in service; it is in
/// force for everybody before that.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<ManifestUid, ManifestError>")]
pub struct ChangeManifest {
    /// The change.
    pub change: ManifestChange,
    /// The manifest the caller knows; the change is refused when the bucket's is another one.
    pub expected: Option<ManifestUid>,
}

impl From<ManifestChange> for ChangeManifest {
    fn from(change: ManifestChange) -> ChangeManifest {
        ChangeManifest {
            change,
            expected: None,
        }
    }
}

/// Say which scopes and collections there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Arc<CollectionsManifest>")]
pub struct GetManifest;

/// A number that a vbucket's manifest and its bucket's give to two things: they come of different buckets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("number {number} is {in_bucket} in the bucket and {in_vbucket} in the vbucket")]
pub struct ManifestClash {
    /// The number.
    pub number: u32,
    /// What it is in the bucket.
    pub in_bucket: Named,
    /// What it is in the vbucket.
    pub in_vbucket: Named,
}

/// A scope or a collection as its users know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A scope.
    Scope(String),
    /// A collection.
    Collection {
        /// Name of its scope.
        scope: String,
        /// Its name.
        collection: String,
        /// Longest life of its documents in seconds; zero for no limit.
        max_ttl_s: u32,
    },
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Named::Scope(scope) => write!(f, "scope {scope}"),
            Named::Collection {
                scope,
                collection,
                max_ttl_s: 0,
            } => write!(f, "collection {scope}.{collection}"),
            Named::Collection {
                scope,
                collection,
                max_ttl_s,
            } => write!(
                f,
                "collection {scope}.{collection} (documents of at most {max_ttl_s} s)"
            ),
        }
    }
}

/// Why a manifest was not changed. Nothing was, but for [`ManifestError::InForce`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// A name outside the rules.
    #[error("{name:?} cannot be the name of a scope or a collection: {cause}")]
    Name {
        /// The name.
        name: String,
        /// Which rule.
        cause: NameError,
    },
    /// There is such a scope.
    #[error("there is a scope {scope} already")]
    ScopeExists {
        /// Its name.
        scope: String,
    },
    /// There is such a collection.
    #[error("there is a collection {scope}.{collection} already")]
    CollectionExists {
        /// Name of its scope.
        scope: String,
        /// Its name.
        collection: String,
    },
    /// There is no such scope.
    #[error("there is no scope {scope}; create it first")]
    UnknownScope {
        /// The name given.
        scope: String,
    },
    /// There is no such collection.
    #[error(
        "there is no collection {scope}.{collection}; ask for the manifest to see which there are"
    )]
    UnknownCollection {
        /// Name of the scope given.
        scope: String,
        /// The name given.
        collection: String,
    },
    /// The default scope and the default collection stay.
    #[error("{DEFAULT_NAME} cannot be dropped; delete its documents instead")]
    Default,
    /// The caller knows another manifest than the bucket.
    #[error("the manifest has uid {}, not {}; ask for it, then decide anew", current.0, given.0)]
    Stale {
        /// The uid given.
        given: ManifestUid,
        /// The bucket's.
        current: ManifestUid,
    },
    /// A bucket has no room for more.
    #[error("a bucket has room for {max} {what}; drop one first")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        max: usize,
    },
    /// The change was made and stays, but it is not known to be on disk everywhere: made again, it is refused or made twice.
    #[error(
        "the change is in force with manifest {}, but perhaps not on disk ({cause}); \
         do not make it again: flush, or open the bucket anew and ask for the manifest",
        uid.0
    )]
    InForce {
        /// The manifest with the change.
        uid: ManifestUid,
        /// What came in between.
        cause: OperationError,
    },
    /// The bucket takes no change now.
    #[error(transparent)]
    Operation(#[from] OperationError),
}

impl ManifestError {
    /// What the caller does next.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            ManifestError::Name { .. }
            | ManifestError::ScopeExists { .. }
            | ManifestError::CollectionExists { .. }
            | ManifestError::UnknownScope { .. }
            | ManifestError::UnknownCollection { .. }
            | ManifestError::Default
            | ManifestError::TooMany { .. } => Advice::FixRequest,
            ManifestError::Stale { .. } => Advice::Resynchronize,
            ManifestError::InForce { cause, .. } => match cause.advice() {
                advice @ (Advice::Reopen | Advice::Repair) => advice,
                Advice::RetryLater | Advice::FixRequest | Advice::Resynchronize => {
                    Advice::Resynchronize
                }
            },
            ManifestError::Operation(error) => error.advice(),
        }
    }
}

/// The rule a name breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No name, or a long one.
    #[error("it is {length} bytes; give 1 to {max}", max = NameError::LENGTH_MAX)]
    Length {
        /// Its length.
        length: usize,
    },
    /// Kept for names of the system.
    #[error("it begins with {first:?}, which only names of the system do")]
    Reserved {
        /// How it begins.
        first: char,
    },
    /// A character no name may hold.
    #[error("it holds {character:?}; give letters, digits, and any of _ - %")]
    Character {
        /// The character.
        character: char,
    },
}

impl NameError {
    /// Longest name in bytes.
    pub const LENGTH_MAX: usize = 251;
}
