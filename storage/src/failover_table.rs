//! The failover table: the branches of a vbucket's history, newest first.
//!
//! Invariant: never empty, at most [`FailoverTable::ENTRIES_MAX`] entries, no uuid is zero, and seqnos do not rise
//! from newer to older entries. Whoever builds one from untrusted parts goes through [`FailoverTable::sanitized`].

use serde::{Deserialize, Serialize};

use crate::seqno::Seqno;
use crate::vbucket::VbucketUuid;

/// One branch: the history of `uuid` begins after `seqno`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverEntry {
    /// Name of the branch.
    pub uuid: VbucketUuid,
    /// Where it began.
    pub seqno: Seqno,
}

/// The branches of a vbucket's history, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<FailoverEntry>", into = "Vec<FailoverEntry>")]
pub struct FailoverTable {
    entries: Vec<FailoverEntry>,
}

impl FailoverTable {
    /// Most entries kept; the oldest is dropped beyond.
    pub const ENTRIES_MAX: usize = 25;

    /// The table of a new history.
    #[must_use]
    pub fn new(uuid: VbucketUuid) -> FailoverTable {
        FailoverTable {
            entries: vec![FailoverEntry {
                uuid,
                seqno: Seqno::ZERO,
            }],
        }
    }

    /// A table of these entries (newest first) without the ones that cannot be: uuid zero, or a seqno above that
    /// of a newer entry. `None` when nothing is left.
    #[must_use]
    pub fn sanitized(entries: impl IntoIterator<Item = FailoverEntry>) -> Option<FailoverTable> {
        let mut kept: Vec<FailoverEntry> = Vec::new();
        for entry in entries {
            let falls = kept.last().is_none_or(|newer| entry.seqno <= newer.seqno);
            if entry.uuid.0 != 0 && falls && kept.len() < Self::ENTRIES_MAX {
                kept.push(entry);
            }
        }
        (!kept.is_empty()).then_some(FailoverTable { entries: kept })
    }

    /// The entries, newest first.
    #[must_use]
    pub fn entries(&self) -> &[FailoverEntry] {
        &self.entries
    }

    /// Begins a new branch at `seqno`: entries above it go, the oldest goes when the table is full.
    pub fn create_entry(&mut self, uuid: VbucketUuid, seqno: Seqno) {
        self.entries.retain(|entry| entry.seqno <= seqno);
        self.entries.insert(0, FailoverEntry { uuid, seqno });
        self.entries.truncate(Self::ENTRIES_MAX);
    }

    /// Forgets branches that began above `seqno`; the oldest entry always stays.
    pub fn prune(&mut self, seqno: Seqno) {
        let oldest = self.entries.last().copied();
        self.entries.retain(|entry| entry.seqno <= seqno);
        if self.entries.is_empty() {
            self.entries
                .extend(oldest.map(|entry| FailoverEntry { seqno, ..entry }));
        }
    }
}

impl TryFrom<Vec<FailoverEntry>> for FailoverTable {
    type Error = InvalidFailoverTable;

    fn try_from(entries: Vec<FailoverEntry>) -> Result<Self, Self::Error> {
        let count = entries.len();
        let table = FailoverTable::sanitized(entries).ok_or(InvalidFailoverTable)?;
        if table.entries.len() == count {
            Ok(table)
        } else {
            Err(InvalidFailoverTable)
        }
    }
}

impl From<FailoverTable> for Vec<FailoverEntry> {
    fn from(table: FailoverTable) -> Vec<FailoverEntry> {
        table.entries
    }
}

/// Entries that cannot be a failover table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a failover table is empty, too long, out of order, or names uuid zero")]
pub struct InvalidFailoverTable;

#[cfg(test)]
mod tests;
