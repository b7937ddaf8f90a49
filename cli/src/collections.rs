//! `piggin collections`: which there are, and making and dropping them.
//!
//! Invariant: a change is answered once it is on disk; one that cannot be made changes nothing, nor is a scope made for a
//! collection that would be refused then.

use std::fmt;

use clap::{Args, Subcommand};
use serde::Serialize;

use piggin::actors::vbucket::changed;
use piggin::messages::{
    ChangeManifest, CollectionsManifest, ManifestChange, ManifestError, OperationError,
};
use piggin::storage::{Advice, ManifestUid};
use piggin::{Bucket, CollectionStatistics};

use crate::collection_name::CollectionName;
use crate::disk_watch::durably;
use crate::failure::{CliError, Exit};
use crate::interrupt::Interrupt;
use crate::output::{Output, bytes_in_words, counted};
use crate::session::{Missing, Session};

#[derive(Debug, Args)]
pub(crate) struct CollectionsArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say which scopes and collections there are.
    List,
    /// Make a collection, and its scope where that is missing; or a scope alone.
    Create {
        /// scope.collection, or a scope alone.
        name: String,
        /// Longest life of a document of the collection in seconds; 0 for no limit.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        max_ttl: u32,
    },
    /// Drop a collection with its documents; or a scope with all its collections.
    Drop {
        /// scope.collection, or a scope alone.
        name: String,
    },
}

#[derive(Debug, Serialize)]
struct Listed {
    uid: u64,
    scopes: Vec<String>,
    collections: Vec<ListedCollection>,
}

#[derive(Debug, Serialize)]
struct ListedCollection {
    scope: String,
    name: String,
    id: u32,
    documents: u64,
    bytes: u64,
    max_ttl_seconds: u32,
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "manifest {}", self.uid)?;
        for scope in &self.scopes {
            let mut in_scope = self.collections.iter().filter(|one| one.scope == *scope);
            if in_scope.clone().next().is_none() {
                write!(f, "\n{scope}  empty")?;
            }
            in_scope.try_for_each(|one| write!(f, "\n{one}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for ListedCollection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (documents, bytes) = (
            counted(self.documents, "document"),
            bytes_in_words(self.bytes),
        );
        write!(f, "{}.{}  {documents}, {bytes}", self.scope, self.name)?;
        match self.max_ttl_seconds {
            0 => Ok(()),
            seconds => write!(f, ", each for {seconds} s at most"),
        }
    }
}

impl From<CollectionStatistics> for ListedCollection {
    fn from(from: CollectionStatistics) -> ListedCollection {
        ListedCollection {
            scope: from.scope,
            name: from.name,
            id: from.id.0,
            documents: from.documents,
            bytes: from.document_bytes,
            max_ttl_seconds: from.max_ttl_s,
        }
    }
}

/// A change that is on disk.
#[derive(Debug, Serialize)]
struct Changed {
    name: String,
    uid: u64,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: on disk with manifest {}", self.name, self.uid)
    }
}

pub(crate) fn run(
    session: &Session,
    arguments: &CollectionsArguments,
    output: Output,
) -> Result<Exit, CliError> {
    let (name, max_ttl) = match &arguments.what {
        What::List => return list(session, output),
        What::Create { name, max_ttl } => (name, Some(*max_ttl)),
        What::Drop { name } => (name, None),
    };
    let named = Named::parse(name)?;
    if max_ttl.is_some_and(|max_ttl| max_ttl > 0) && matches!(named, Named::Scope(_)) {
        return Err(CliError::mistake(
            format!("{name} is a scope, and --max-ttl is of a collection"),
            "give it with each collection: scope.collection",
        ));
    }
    let uid = session.with_bucket(Missing::IsAMistake, async |bucket| {
        let manifest = bucket.manifest();
        let changes = match max_ttl {
            Some(max_ttl) => named.to_create(&manifest, max_ttl),
            None => vec![named.to_drop()],
        };
        judge(&manifest, &changes)?;
        let mut uid = manifest.uid;
        for change in changes {
            uid = make(session, bucket, change).await?;
        }
        Ok(uid)
    })?;
    output.answer(&Changed {
        name: name.clone(),
        uid: uid.0,
    })?;
    Ok(Exit::Done)
}

fn list(session: &Session, output: Output) -> Result<Exit, CliError> {
    let listed = session.with_bucket(Missing::IsAMistake, async |bucket| {
        let statistics = bucket.collection_statistics();
        let statistics =
            statistics.map_err(|error| CliError::storage(session.directory(), &error))?;
        let manifest = bucket.manifest();
        Ok(Listed {
            uid: manifest.uid.0,
            scopes: manifest.scopes.values().cloned().collect(),
            collections: statistics.into_iter().map(ListedCollection::from).collect(),
        })
    })?;
    output.answer(&listed)?;
    Ok(Exit::Done)
}

/// What a name on the command line names.
#[derive(Clone, Debug)]
enum Named {
    Scope(String),
    Collection(CollectionName),
}

impl Named {
    fn parse(name: &str) -> Result<Named, CliError> {
        if !name.contains('.') {
            return Ok(Named::Scope(name.to_owned()));
        }
        let parsed = name.parse().map(Named::Collection);
        parsed.map_err(|remedy: String| {
            CliError::mistake(format!("{name:?} names no collection"), remedy)
        })
    }

    /// For a collection its scope first, if that is missing.
    fn to_create(&self, manifest: &CollectionsManifest, max_ttl_s: u32) -> Vec<ManifestChange> {
        let create_scope = |scope: &String| ManifestChange::CreateScope {
            scope: scope.clone(),
        };
        match self {
            Named::Scope(scope) => vec![create_scope(scope)],
            Named::Collection(CollectionName { scope, collection }) => {
                let is_missing = manifest.scope(scope).is_none();
                let first = is_missing.then(|| create_scope(scope));
                let then = ManifestChange::CreateCollection {
                    scope: scope.clone(),
                    collection: collection.clone(),
                    max_ttl_s,
                };
                first.into_iter().chain([then]).collect()
            }
        }
    }

    fn to_drop(&self) -> ManifestChange {
        match self.clone() {
            Named::Scope(scope) => ManifestChange::DropScope { scope },
            Named::Collection(CollectionName { scope, collection }) => {
                ManifestChange::DropCollection { scope, collection }
            }
        }
    }
}

/// Refuses what the bucket would refuse, before the first change is made.
fn judge(manifest: &CollectionsManifest, changes: &[ManifestChange]) -> Result<(), CliError> {
    let mut manifest = manifest.clone();
    for change in changes {
        let next = changed(&manifest, &change.clone().into());
        manifest = next.map_err(|refused| refusal(&refused))?;
    }
    Ok(())
}

async fn make(
    session: &Session,
    bucket: &Bucket,
    change: ManifestChange,
) -> Result<ManifestUid, CliError> {
    let never = Interrupt::default();
    let request = ChangeManifest::from(change);
    let change = async || match bucket.change_manifest(request.clone()).await {
        Ok(uid) => Ok(Ok(uid)),
        // Nothing was changed where it may be tried again; what is in force is another error.
        Err(ManifestError::Operation(error)) => Err::<_, OperationError>(error),
        Err(refused) => Ok(Err(refused)),
    };
    let made = durably(session.directory(), bucket, &never, change).await?;
    made.map_err(|refused| refusal(&refused))
}

/// The texts of refusals say what to do.
fn refusal(error: &ManifestError) -> CliError {
    let remedy = if matches!(error, ManifestError::InForce { .. }) {
        "do not repeat it; see whether it lasted: piggin collections list"
    } else {
        "see which there are: piggin collections list"
    };
    match error.advice() {
        Advice::FixRequest => CliError::mistake(error.to_string(), remedy),
        Advice::RetryLater | Advice::Resynchronize | Advice::Reopen | Advice::Repair => {
            CliError::failure(error.to_string(), remedy)
        }
    }
}
