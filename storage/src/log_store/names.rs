//! Names of the store's files. One flat directory; every name says its kind, its shard and its number.
//!
//! Invariant: numbers of one kind and shard only rise and are never used twice in the life of a store, so a name
//! found in an old manifest or log can never mean newer bytes.

/// The file that makes a directory a store.
pub(crate) const IDENTITY: &str = "piggin.store";
/// The identity while it is written.
pub(crate) const IDENTITY_TEMPORARY: &str = "piggin.store.new";
/// The file whose lock says that a process has the store open.
pub(crate) const LOCK: &str = "piggin.lock";

/// What a file's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A log file in use, or prepared for use.
    Log,
    /// A log file being prepared: a leftover when found at open.
    LogPreparing,
    /// A manifest.
    Manifest,
    /// A manifest being written: a leftover when found at open.
    ManifestPreparing,
    /// A container of segments.
    Container,
}

/// A file's kind, shard and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) kind: Kind,
    pub(crate) shard: u16,
    pub(crate) number: u64,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::LogPreparing, "log-new"),
    (Kind::Log, "log"),
    (Kind::ManifestPreparing, "manifest-new"),
    (Kind::Manifest, "manifest"),
    (Kind::Container, "container"),
];

impl Name {
    pub(crate) fn new(kind: Kind, shard: u16, number: u64) -> Name {
        Name {
            kind,
            shard,
            number,
        }
    }

    /// The name's parts, or `None` for a name that no store gives.
    pub(crate) fn parse(name: &str) -> Option<Name> {
        KINDS.iter().find_map(|(kind, prefix)| {
            let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
            let (shard, number) = rest.split_once('.')?;
            let parsed = Name::new(*kind, shard.parse().ok()?, number.parse().ok()?);
            (parsed.to_string() == name).then_some(parsed)
        })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let prefix = KINDS
            .iter()
            .find(|(kind, _)| *kind == self.kind)
            .map_or("", |(_, p)| p);
        write!(f, "{prefix}.{:02}.{:010}", self.shard, self.number)
    }
}

#[cfg(test)]
mod tests;
