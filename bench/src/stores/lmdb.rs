//! LMDB, through heed: a copy-on-write B-tree in C, read from a memory map. It has no checksums to verify.

use std::ops::Bound;
use std::path::Path;

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, FlagSetMode};

use super::Durability;
use super::two_trees::{Lookup, Operation, Tree, Trees};

const MAP_LENGTH: usize = 16 << 30;

pub(super) struct Lmdb {
    environment: Env,
    trees: [Database<Bytes, Bytes>; 2],
}

impl Lmdb {
    #[expect(
        unsafe_code,
        reason = "opening maps a file into memory; its directory is the bench's own, so nobody else changes it"
    )]
    pub(super) fn open(directory: &Path) -> Lmdb {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_LENGTH).max_dbs(4);
        // SAFETY: see the reason above.
        let environment = unsafe { options.open(directory) }.unwrap();
        let mut transaction = environment.write_txn().unwrap();
        let trees = ["k", "s"].map(|name| {
            let tree = environment.create_database(&mut transaction, Some(name));
            tree.unwrap()
        });
        transaction.commit().unwrap();
        Lmdb { environment, trees }
    }

    #[expect(
        unsafe_code,
        reason = "changing how an environment syncs is safe while no transaction is open, and the bench changes it only while one thread writes"
    )]
    fn set_sync(&self, durability: Durability) {
        let is_off = self.environment.get_flags().unwrap() & EnvFlags::NO_SYNC.bits() != 0;
        let mode = match durability {
            Durability::Synced if is_off => FlagSetMode::Disable,
            Durability::Buffered if !is_off => FlagSetMode::Enable,
            Durability::Synced | Durability::Buffered => return,
        };
        // SAFETY: see the reason above.
        unsafe { self.environment.set_flags(EnvFlags::NO_SYNC, mode) }.unwrap();
    }
}

impl Trees for Lmdb {
    fn commit(&self, operations: &[Operation<'_>], durability: Durability) {
        self.set_sync(durability);
        let mut transaction = self.environment.write_txn().unwrap();
        for operation in operations {
            let tree = &self.trees[operation.tree as usize];
            match operation.value {
                Some(value) => tree.put(&mut transaction, operation.key, value).unwrap(),
                None => {
                    tree.delete(&mut transaction, operation.key).unwrap();
                }
            }
        }
        transaction.commit().unwrap();
    }

    fn sync(&self) {
        self.environment.force_sync().unwrap();
    }

    fn read(&self, with: &mut dyn FnMut(Lookup<'_>)) {
        let transaction = self.environment.read_txn().unwrap();
        with(&|tree, key, visit| {
            visit(self.trees[tree as usize].get(&transaction, key).unwrap());
        });
    }

    fn scan(&self, tree: Tree, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) {
        let transaction = self.environment.read_txn().unwrap();
        let range = (Bound::Included(from), Bound::Excluded(to));
        let rows = self.trees[tree as usize].range(&transaction, &range);
        for row in rows.unwrap() {
            let (key, value) = row.unwrap();
            visit(key, value);
        }
    }

    fn close(self) {
        // Dropping is not enough: heed keeps an environment open until it is told to close it.
        self.environment.prepare_for_closing().wait();
    }
}
