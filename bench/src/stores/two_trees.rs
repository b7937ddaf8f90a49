//! Documents in a peer: two ordered trees, written in one atomic batch.
//!
//! By key: `vbucket ++ key -> seqno ++ metadata`; by seqno: `vbucket ++ seqno -> key`. The value (in layout S with
//! the metadata) lies in one of the two. Both begin with the vbucket in big-endian order, so that a vbucket is a
//! range. The seqno a write replaces is handed in, so that no peer pays a read to remove the old by-seqno row.

use std::cell::RefCell;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Durability, Found, Layout, Store};
use crate::workload::{Batch, KEY_LENGTH, Key, Name};

/// CAS, revision, flags and expiry.
const METADATA: [u8; 24] = [7; 24];
/// How long a reader looks again for a document that another thread is replacing.
const PATIENCE: Duration = Duration::from_secs(5);
const SEQNO_LENGTH: usize = 8;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    ByKey = 0,
    BySeqno = 1,
}

/// Sets a row, or removes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation<'a> {
    pub(super) tree: Tree,
    pub(super) key: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
}

/// Looks rows up within one read transaction.
pub(super) type Lookup<'a> = &'a dyn Fn(Tree, &[u8], &mut dyn FnMut(Option<&[u8]>));

/// What a peer must be able to do.
pub(super) trait Trees: Send + Sync + 'static {
    fn commit(&self, operations: &[Operation<'_>], durability: Durability);
    fn sync(&self);
    fn settle(&self) {}
    /// Nothing where there is nothing to merge.
    fn compact(&self) {}
    /// Calls `with` once, with a way to look rows up.
    fn read(&self, with: &mut dyn FnMut(Lookup<'_>));
    /// Rows with `from <= key < to`, in order.
    fn scan(&self, tree: Tree, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]));
    fn close(self);
}

/// The store on those trees.
pub(super) fn open<T: Trees>(trees: T, layout: Layout) -> Box<dyn Store> {
    Box::new(Documents { trees, layout })
}

struct Documents<T> {
    trees: T,
    layout: Layout,
}

thread_local! {
    /// Where a thread puts its rows together.
    static ROWS: RefCell<Rows> = RefCell::default();
}

#[derive(Default)]
struct Rows {
    arena: Vec<u8>,
    rows: Vec<Row>,
}

struct Row {
    tree: Tree,
    key: Range<usize>,
    value: Option<Range<usize>>,
}

impl<T: Trees> Store for Documents<T> {
    fn write(&self, batch: Batch<'_>, durability: Durability) {
        ROWS.with_borrow_mut(|rows| {
            rows.fill(batch, self.layout);
            self.trees.commit(&rows.operations(), durability);
        });
    }

    fn sync(&self) {
        self.trees.sync();
    }

    fn settle(&self) {
        self.trees.settle();
    }

    fn compact(&self) {
        self.trees.compact();
    }

    fn get(&self, names: &[Name], visit: &mut dyn FnMut(&[u8])) {
        self.trees.read(&mut |lookup| {
            for name in names {
                self.get_one(lookup, name, visit);
            }
        });
    }

    fn scan(&self, vbucket: u16, visit: &mut dyn FnMut(Found<'_>)) {
        let from = by_seqno_key(vbucket, 0);
        let to = by_seqno_key(vbucket, u64::MAX);
        if self.layout == Layout::K {
            self.scan_through_keys(vbucket, &from, &to, visit);
            return;
        }
        let each = &mut |key: &[u8], row: &[u8]| {
            let seqno = seqno_of(key);
            let (key, rest) = row.split_at(KEY_LENGTH);
            let value = &rest[METADATA.len()..];
            visit(Found { seqno, key, value });
        };
        self.trees.scan(Tree::BySeqno, &from, &to, each);
    }

    fn close(self: Box<Self>) {
        self.trees.close();
    }
}

impl Rows {
    fn fill(&mut self, batch: Batch<'_>, layout: Layout) {
        self.arena.clear();
        self.rows.clear();
        for mutation in batch.mutations {
            let seqno = mutation.seqno.to_be_bytes();
            let value = batch.value(mutation);
            let (by_key_value, by_seqno_value): (&[&[u8]], &[&[u8]]) = match layout {
                Layout::K => (&[&seqno, &METADATA, value], &[&mutation.key]),
                Layout::S | Layout::Own => {
                    (&[&seqno, &METADATA], &[&mutation.key, &METADATA, value])
                }
            };
            if mutation.replaces != 0 {
                let old = by_seqno_key(mutation.vbucket, mutation.replaces);
                self.row(Tree::BySeqno, &old, None);
            }
            let key = by_key_key(mutation.vbucket, &mutation.key);
            self.row(Tree::ByKey, &key, Some(by_key_value));
            let key = by_seqno_key(mutation.vbucket, mutation.seqno);
            self.row(Tree::BySeqno, &key, Some(by_seqno_value));
        }
    }

    fn operations(&self) -> Vec<Operation<'_>> {
        let operation = |row: &Row| Operation {
            tree: row.tree,
            key: &self.arena[row.key.clone()],
            value: row.value.clone().map(|value| &self.arena[value]),
        };
        self.rows.iter().map(operation).collect()
    }

    fn row(&mut self, tree: Tree, key: &[u8], value: Option<&[&[u8]]>) {
        let key = self.store(&[key]);
        let value = value.map(|parts| self.store(parts));
        self.rows.push(Row { tree, key, value });
    }

    fn store(&mut self, parts: &[&[u8]]) -> Range<usize> {
        let from = self.arena.len();
        for part in parts {
            self.arena.extend_from_slice(part);
        }
        from..self.arena.len()
    }
}

impl<T: Trees> Documents<T> {
    fn get_one(&self, lookup: Lookup<'_>, name: &Name, visit: &mut dyn FnMut(&[u8])) {
        let key = by_key_key(name.vbucket, &name.key);
        if self.layout == Layout::K {
            lookup(Tree::ByKey, &key, &mut |row| {
                visit(&row.expect("a document is missing")[SEQNO_LENGTH + METADATA.len()..]);
            });
            return;
        }
        let mut missing_since: Option<Instant> = None;
        loop {
            let mut seqno = 0;
            lookup(Tree::ByKey, &key, &mut |row| {
                seqno = seqno_of(&row.expect("a key is missing")[..SEQNO_LENGTH]);
            });
            let row_key = by_seqno_key(name.vbucket, seqno);
            let mut is_found = false;
            lookup(Tree::BySeqno, &row_key, &mut |row| {
                if let Some(row) = row {
                    is_found = true;
                    visit(&row[KEY_LENGTH + METADATA.len()..]);
                }
            });
            if is_found {
                return;
            }
            // Another thread replaced it between the two lookups, or is about to: not every peer shows a batch as one.
            let since = *missing_since.get_or_insert_with(Instant::now);
            assert!(since.elapsed() < PATIENCE, "a document is missing");
            std::thread::yield_now();
        }
    }

    fn scan_through_keys(
        &self,
        vbucket: u16,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Found<'_>),
    ) {
        let mut seqnos = Vec::new();
        let mut names = Vec::new();
        self.trees.scan(Tree::BySeqno, from, to, &mut |key, row| {
            seqnos.push(seqno_of(key));
            let key = Key::try_from(row).unwrap();
            names.push(Name { vbucket, key });
        });
        let mut next = 0;
        self.get(&names, &mut |value| {
            let (seqno, key) = (seqnos[next], &names[next].key);
            visit(Found { seqno, key, value });
            next += 1;
        });
    }
}

fn by_key_key(vbucket: u16, key: &Key) -> [u8; 2 + KEY_LENGTH] {
    let mut row = [0; 2 + KEY_LENGTH];
    row[..2].copy_from_slice(&vbucket.to_be_bytes());
    row[2..].copy_from_slice(key);
    row
}

fn by_seqno_key(vbucket: u16, seqno: u64) -> [u8; 2 + SEQNO_LENGTH] {
    let mut row = [0; 2 + SEQNO_LENGTH];
    row[..2].copy_from_slice(&vbucket.to_be_bytes());
    row[2..].copy_from_slice(&seqno.to_be_bytes());
    row
}

/// The seqno a row's key, or the seqno part of a row, ends with.
fn seqno_of(bytes: &[u8]) -> u64 {
    let (_, seqno) = bytes.split_last_chunk().expect("a row is too short");
    u64::from_be_bytes(*seqno)
}
