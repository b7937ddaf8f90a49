//! The names of the simulated disk, and which of them a power cut would leave.
//!
//! Invariant: `durable` plus `unsynced` in order gives `current`. A file keeps its content as long as any of the
//! three, or an open handle, knows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::inode::SharedInode;

pub(super) type Names = BTreeMap<Arc<str>, SharedInode>;

#[derive(Debug, Default)]
pub(super) struct Directory {
    current: Names,
    durable: Names,
    unsynced: Vec<NameChange>,
}

#[derive(Debug)]
enum NameChange {
    Create { name: Arc<str>, inode: SharedInode },
    Rename { from: Arc<str>, to: Arc<str> },
    Remove { name: Arc<str> },
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Create { name, inode } => {
                names.insert(Arc::clone(name), Arc::clone(inode));
            }
            NameChange::Rename { from, to } => {
                if let Some(inode) = names.remove(from) {
                    names.insert(Arc::clone(to), inode);
                }
            }
            NameChange::Remove { name } => {
                names.remove(name);
            }
        }
    }
}

impl Directory {
    /// A directory whose names are all durable.
    pub(super) fn of(names: Names) -> Self {
        Self {
            current: names.clone(),
            durable: names,
            unsynced: Vec::new(),
        }
    }

    pub(super) fn current(&self) -> &Names {
        &self.current
    }

    pub(super) fn find(&self, name: &str) -> Option<&SharedInode> {
        self.current.get(name)
    }

    pub(super) fn create(&mut self, name: Arc<str>, inode: SharedInode) {
        self.change(NameChange::Create { name, inode });
    }

    /// False when there is no such file.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        if !self.current.contains_key(from) {
            return false;
        }
        if from != to {
            self.change(NameChange::Rename {
                from: from.into(),
                to: to.into(),
            });
        }
        true
    }

    /// False when there is no such file.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        if !self.current.contains_key(name) {
            return false;
        }
        self.change(NameChange::Remove { name: name.into() });
        true
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    pub(super) fn unsynced_changes(&self) -> usize {
        self.unsynced.len()
    }

    /// The names a power cut leaves when the first `kept` unsynced changes reached the disk.
    pub(super) fn surviving(&self, kept: usize) -> Names {
        let mut names = self.durable.clone();
        for change in self.unsynced.iter().take(kept) {
            change.apply(&mut names);
        }
        names
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }
}
