//! The stores, each behind the same few calls.
//!
//! A peer keeps two ordered trees, by key and by seqno, so that it offers what ours offers; `two_trees` turns
//! mutations into operations on them, in either of two layouts. Ours takes the mutations as they are.

#[cfg(any(
    feature = "fjall",
    feature = "redb",
    feature = "rocksdb",
    feature = "lmdb"
))]
mod two_trees;
mod piggin;
pub(crate) mod cache;
#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(feature = "lmdb")]
mod lmdb;

use std::path::Path;

use crate::workload::{Batch, Name};

pub(crate) use piggin::{PUBLISH_STEPS, Piggin};

/// One open store. Any number of threads read and write; how durable writes are changes only while nobody writes.
pub(crate) trait Store: Send + Sync {
    /// Writes a batch atomically.
    fn write(&self, batch: Batch<'_>, durability: Durability);
    /// Makes everything written durable.
    fn sync(&self);
    /// Brings what was written into the form it is read from, and waits for background work.
    fn settle(&self);
    /// Merges everything there is, however long it takes. What it no longer needs may still lie on disk until the
    /// store settled.
    fn compact(&self);
    /// Holds background work between two of its steps, where it can be held: only ours can.
    fn hold(&self) {}
    /// Lets it go on.
    fn release(&self) {}
    /// Hands the value of each document to `visit`, in order. Ends the program when one is missing.
    fn get(&self, names: &[Name], visit: &mut dyn FnMut(&[u8]));
    /// Hands a vbucket's documents to `visit` by rising seqno.
    fn scan(&self, vbucket: u16, visit: &mut dyn FnMut(Found<'_>));
    /// Closes it in an orderly way.
    fn close(self: Box<Self>);
}

/// A document a scan came upon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) seqno: u64,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Durability {
    /// When it is on disk.
    Synced,
    /// At once; the next sync makes it durable.
    Buffered,
}

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    Piggin,
    Fjall,
    Redb,
    Rocksdb,
    Lmdb,
}

impl Kind {
    /// All of them, in the order of the columns.
    pub(crate) const ALL: [Kind; 5] = [
        Kind::Piggin,
        Kind::Fjall,
        Kind::Redb,
        Kind::Rocksdb,
        Kind::Lmdb,
    ];

    /// The peers that keep what is written in memory first and merge later.
    pub(crate) const LSM: [Kind; 2] = [Kind::Fjall, Kind::Rocksdb];

    /// Whether it was compiled in.
    pub(crate) const fn is_available(self) -> bool {
        match self {
            Kind::Piggin => true,
            Kind::Fjall => cfg!(feature = "fjall"),
            Kind::Redb => cfg!(feature = "redb"),
            Kind::Rocksdb => cfg!(feature = "rocksdb"),
            Kind::Lmdb => cfg!(feature = "lmdb"),
        }
    }

    /// Its name on the command line and in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Piggin => "piggin",
            Kind::Fjall => "fjall",
            Kind::Redb => "redb",
            Kind::Rocksdb => "rocksdb",
            Kind::Lmdb => "lmdb",
        }
    }

    const fn layouts(self) -> &'static [Layout] {
        match self {
            Kind::Piggin => &[Layout::Own],
            Kind::Fjall | Kind::Redb | Kind::Rocksdb | Kind::Lmdb => &[Layout::S, Layout::K],
        }
    }
}

/// Where a document lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Layout {
    /// Where the store puts it.
    Own,
    /// In the by-seqno tree; the by-key tree holds the seqno. Scans are one range, gets two lookups.
    S,
    /// In the by-key tree; the by-seqno tree holds the key. Gets are one lookup, scans a lookup per document.
    K,
}

impl Layout {
    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Layout::Own => "own",
            Layout::S => "s",
            Layout::K => "k",
        }
    }
}

/// A store in one of its layouts: what is measured beside the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Column {
    pub(crate) kind: Kind,
    pub(crate) layout: Layout,
}

impl Column {
    /// Ours.
    pub(crate) const PIGGIN: Column = Column {
        kind: Kind::Piggin,
        layout: Layout::Own,
    };

    /// Every layout of these stores.
    pub(crate) fn of(kinds: &[Kind]) -> Vec<Column> {
        let layouts = |&kind: &Kind| {
            let column = move |&layout| Column { kind, layout };
            kind.layouts().iter().map(column)
        };
        kinds.iter().flat_map(layouts).collect()
    }
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.name())?;
        match self.layout {
            Layout::Own => Ok(()),
            Layout::S => f.write_str(" S"),
            Layout::K => f.write_str(" K"),
        }
    }
}

/// Opens the store in `directory`, creating it where there is none.
pub(crate) fn open(
    column: Column,
    directory: &Path,
    vbuckets: u16,
    background: Background,
) -> Box<dyn Store> {
    std::fs::create_dir_all(directory).unwrap();
    match column.kind {
        Kind::Piggin => Box::new(Piggin::open(directory, vbuckets, background)),
        #[cfg(feature = "fjall")]
        Kind::Fjall => two_trees::open(fjall::Fjall::open(directory), column.layout),
        #[cfg(feature = "redb")]
        Kind::Redb => two_trees::open(redb::Redb::open(directory), column.layout),
        #[cfg(feature = "rocksdb")]
        Kind::Rocksdb => two_trees::open(rocksdb::Rocksdb::open(directory), column.layout),
        #[cfg(feature = "lmdb")]
        Kind::Lmdb => two_trees::open(lmdb::Lmdb::open(directory), column.layout),
        #[cfg(not(all(
            feature = "fjall",
            feature = "redb",
            feature = "rocksdb",
            feature = "lmdb"
        )))]
        kind => panic!("{} was not compiled in", kind.name()),
    }
}

/// Whether our store's background work runs. The peers start their own threads whatever we say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Background {
    /// On a thread of its own.
    Running,
    /// On a thread of its own, but nothing is merged: what was sealed stays as it is.
    SealingOnly,
    /// Not at all, so that everything written stays in the log.
    Stopped,
}
