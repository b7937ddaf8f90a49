//! fjall: an LSM tree in Rust. One database, a keyspace per tree, the journal synced per batch.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};

use super::two_trees::{Lookup, Operation, Tree, Trees};
use super::{Durability, cache};

pub(super) struct Fjall {
    database: Database,
    trees: [Keyspace; 2],
}

impl Fjall {
    pub(super) fn open(directory: &Path) -> Fjall {
        let builder = Database::builder(directory).cache_size(cache::bytes(512 << 20));
        let database = builder.open().unwrap();
        let keyspace = |name| {
            let keyspace = database.keyspace(name, KeyspaceCreateOptions::default);
            keyspace.unwrap()
        };
        let trees = [keyspace("k"), keyspace("s")];
        Fjall { database, trees }
    }

    fn wait_for_compactions(&self) {
        while self.database.outstanding_flushes() > 0 || self.database.active_compactions() > 0 {
            sleep(Duration::from_millis(20));
        }
    }
}

impl Trees for Fjall {
    fn commit(&self, operations: &[Operation<'_>], durability: Durability) {
        let sync = match durability {
            Durability::Synced => Some(PersistMode::SyncData),
            Durability::Buffered => None,
        };
        let batch = OwnedWriteBatch::with_capacity(self.database.clone(), operations.len());
        let mut batch = batch.durability(sync);
        for operation in operations {
            let tree = &self.trees[operation.tree as usize];
            match operation.value {
                Some(value) => batch.insert(tree, operation.key, value),
                None => batch.remove(tree, operation.key),
            }
        }
        batch.commit().unwrap();
    }

    fn sync(&self) {
        self.database.persist(PersistMode::SyncData).unwrap();
    }

    fn settle(&self) {
        for tree in &self.trees {
            tree.rotate_memtable_and_wait().unwrap();
        }
        self.wait_for_compactions();
        // A compaction begins a little after the flush that calls for it.
        sleep(Duration::from_millis(300));
        self.wait_for_compactions();
    }

    fn compact(&self) {
        self.settle();
        for tree in &self.trees {
            tree.major_compact().unwrap();
        }
    }

    fn read(&self, with: &mut dyn FnMut(Lookup<'_>)) {
        with(&|tree, key, visit| {
            let row = self.trees[tree as usize].get(key).unwrap();
            visit(row.as_deref());
        });
    }

    fn scan(&self, tree: Tree, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) {
        for row in self.trees[tree as usize].range(from..to) {
            let (key, value) = row.into_inner().unwrap();
            visit(&key, &value);
        }
    }

    fn close(self) {}
}
