//! Names of scopes and collections on the command line, and the collection a command works on.
//!
//! Invariant: a name is taken apart at its one point, which no name may hold, and looked at no further: what a name may be
//! the engine decides.

use std::fmt;
use std::str::FromStr;

use clap::Args;

use piggin::messages::collections::DEFAULT_NAME;
use piggin::{Bucket, Collection};

use crate::failure::CliError;
use crate::session::Missing;

/// A collection by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CollectionName {
    pub(crate) scope: String,
    pub(crate) collection: String,
}

impl CollectionName {
    /// The collection in this bucket.
    pub(crate) fn of(&self, bucket: &Bucket) -> Result<Collection, CliError> {
        let collection = bucket.collection(&self.scope, &self.collection);
        collection.map_err(|_| {
            CliError::mistake(
                format!("there is no collection {self}"),
                format!("see which there are: piggin collections list; or make it: piggin collections create {self}"),
            )
        })
    }
}

impl FromStr for CollectionName {
    type Err = String;

    fn from_str(text: &str) -> Result<CollectionName, String> {
        match text.split_once('.') {
            Some((scope, collection)) if !scope.is_empty() && !collection.is_empty() => {
                Ok(CollectionName {
                    scope: scope.to_owned(),
                    collection: collection.to_owned(),
                })
            }
            _ => Err("give a scope and a collection: scope.collection".to_owned()),
        }
    }
}

impl fmt::Display for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.scope, self.collection)
    }
}

/// Which collection a command on documents works on.
#[derive(Debug, Args)]
pub(crate) struct CollectionArgument {
    /// The collection, as scope.collection [default: the bucket's default collection].
    #[arg(long, value_name = "SCOPE.COLLECTION")]
    collection: Option<CollectionName>,
}

impl CollectionArgument {
    /// What a command that writes does where there is no bucket: in one made for it there is no such collection.
    pub(crate) fn missing(&self) -> Missing {
        match self.collection {
            None => Missing::IsCreated,
            Some(_) => Missing::IsAMistake,
        }
    }

    /// The collection in this bucket.
    pub(crate) fn of(&self, bucket: &Bucket) -> Result<Collection, CliError> {
        let default = || CollectionName {
            scope: DEFAULT_NAME.to_owned(),
            collection: DEFAULT_NAME.to_owned(),
        };
        let name = self.collection.clone().unwrap_or_else(default);
        name.of(bucket)
    }
}
