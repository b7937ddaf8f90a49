//! RocksDB: an LSM tree in C++. A column family per tree, bloom filters, a recycled log synced per batch.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor,
    CompactOptions, DB, DBCompressionType, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::two_trees::{Lookup, Operation, Tree, Trees};
use super::{Durability, cache};

const TREES: [&str; 2] = ["k", "s"];

pub(super) struct Rocksdb(DB);

impl Rocksdb {
    pub(super) fn open(directory: &Path) -> Rocksdb {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_background_jobs(2);
        // Needs the default kPointInTimeRecovery: under kTolerateCorruptedTailRecords RocksDB silently drops it.
        options.set_recycle_log_file_num(2);
        let cache = Cache::new_lru_cache(cache::bytes(512 << 20) as usize);
        let families = ["default", TREES[0], TREES[1]];
        let families =
            families.map(|name| ColumnFamilyDescriptor::new(name, family_options(&cache)));
        Rocksdb(DB::open_cf_descriptors(&options, directory, families).unwrap())
    }

    fn families(&self) -> [&ColumnFamily; 2] {
        TREES.map(|name| self.0.cf_handle(name).unwrap())
    }

    fn is_busy(&self) -> bool {
        let properties = [
            "rocksdb.num-running-compactions",
            "rocksdb.num-running-flushes",
        ];
        self.families().iter().any(|family| {
            properties.iter().any(|property| {
                let running = self.0.property_int_value_cf(family, *property);
                running.unwrap().unwrap_or(0) > 0
            })
        })
    }
}

fn family_options(cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_format_version(5);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::None);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_write_buffer_number(4);
    options
}

impl Trees for Rocksdb {
    fn commit(&self, operations: &[Operation<'_>], durability: Durability) {
        let families = self.families();
        let mut batch = WriteBatch::default();
        for operation in operations {
            let family = families[operation.tree as usize];
            match operation.value {
                Some(value) => batch.put_cf(family, operation.key, value),
                None => batch.delete_cf(family, operation.key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.0.write_opt(batch, &options).unwrap();
    }

    fn sync(&self) {
        self.0.flush_wal(true).unwrap();
    }

    fn settle(&self) {
        for family in self.families() {
            self.0.flush_cf(family).unwrap();
        }
        // A compaction begins a little after the flush that calls for it.
        sleep(Duration::from_millis(200));
        while self.is_busy() {
            sleep(Duration::from_millis(20));
        }
    }

    fn compact(&self) {
        self.settle();
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        let all: Option<&[u8]> = None;
        for family in self.families() {
            self.0.compact_range_cf_opt(family, all, all, &options);
        }
    }

    fn read(&self, with: &mut dyn FnMut(Lookup<'_>)) {
        let families = self.families();
        with(&|tree, key, visit| {
            let row = self.0.get_pinned_cf(families[tree as usize], key).unwrap();
            visit(row.as_deref());
        });
    }

    fn scan(&self, tree: Tree, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        options.set_readahead_size(2 << 20);
        let family = self.families()[tree as usize];
        let mut rows = self.0.raw_iterator_cf_opt(family, options);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            visit(key, value);
            rows.next();
        }
        rows.status().unwrap();
    }

    fn close(self) {}
}
