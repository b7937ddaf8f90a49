//! redb: a copy-on-write B-tree in Rust. One file, a table per tree.

use std::path::Path;

use redb::{Database, Durability as RedbDurability, ReadableDatabase, TableDefinition};

use super::two_trees::{Lookup, Operation, Tree, Trees};
use super::{Durability, cache};

const TREES: [TableDefinition<'_, &[u8], &[u8]>; 2] =
    [TableDefinition::new("k"), TableDefinition::new("s")];

pub(super) struct Redb(Database);

impl Redb {
    pub(super) fn open(directory: &Path) -> Redb {
        let mut builder = Database::builder();
        builder.set_cache_size(cache::bytes(1 << 30) as usize);
        let database = builder.create(directory.join("db.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        for tree in TREES {
            transaction.open_table(tree).unwrap();
        }
        transaction.commit().unwrap();
        Redb(database)
    }
}

impl Trees for Redb {
    fn commit(&self, operations: &[Operation<'_>], durability: Durability) {
        let mut transaction = self.0.begin_write().unwrap();
        let durability = match durability {
            Durability::Synced => RedbDurability::Immediate,
            Durability::Buffered => RedbDurability::None,
        };
        transaction.set_durability(durability).unwrap();
        {
            let open = |tree| transaction.open_table(tree).unwrap();
            let mut trees = TREES.map(open);
            for operation in operations {
                let tree = &mut trees[operation.tree as usize];
                match operation.value {
                    Some(value) => tree.insert(operation.key, value).unwrap(),
                    None => tree.remove(operation.key).unwrap(),
                };
            }
        }
        transaction.commit().unwrap();
    }

    fn sync(&self) {
        let mut transaction = self.0.begin_write().unwrap();
        transaction
            .set_durability(RedbDurability::Immediate)
            .unwrap();
        transaction.commit().unwrap();
    }

    fn read(&self, with: &mut dyn FnMut(Lookup<'_>)) {
        let transaction = self.0.begin_read().unwrap();
        let trees = TREES.map(|tree| transaction.open_table(tree).unwrap());
        with(&|tree, key, visit| {
            let row = trees[tree as usize].get(key).unwrap();
            visit(row.as_ref().map(|row| row.value()));
        });
    }

    fn scan(&self, tree: Tree, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) {
        let transaction = self.0.begin_read().unwrap();
        let tree = transaction.open_table(TREES[tree as usize]).unwrap();
        for row in tree.range(from..to).unwrap() {
            let (key, value) = row.unwrap();
            visit(key.value(), value.value());
        }
    }

    fn close(self) {}
}
