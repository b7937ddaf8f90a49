//! One file below its names: what it reads as, what a power cut would leave, and what lies between.
//!
//! Invariant: `durable` plus `unsynced` in order is what a sync makes durable; writes a failed sync lost are in
//! neither, so no later sync brings them back. `current` alone may still show them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::fault::SyncFailure;
use super::image::Image;

pub(super) type SharedInode = Arc<Mutex<Inode>>;

#[derive(Debug)]
pub(super) struct Inode {
    current: Image,
    durable: Image,
    unsynced: Vec<Change>,
    pub(super) locked: bool,
    space: Charge,
}

/// A change of a file that no sync has made durable.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, data: Vec<u8> },
    Zero { offset: u64, length: u64 },
    Punch { offset: u64, length: u64 },
    Truncate { length: u64 },
}

impl Change {
    pub(super) fn apply(&self, image: &mut Image) {
        match self {
            Change::Write { offset, data } => image.write(data, *offset),
            Change::Zero { offset, length } => image.zero(*offset, *length),
            Change::Punch { offset, length } => image.punch(*offset, *length),
            Change::Truncate { length } => image.truncate(*length),
        }
    }
}

impl Inode {
    /// A file whose content is durable. Its space counts in `used` until its last name and handle are gone.
    pub(super) fn new(durable: Image, used: &Arc<AtomicU64>) -> SharedInode {
        let mut inode = Self {
            current: durable.clone(),
            durable,
            unsynced: Vec::new(),
            locked: false,
            space: Charge {
                used: Arc::clone(used),
                bytes: 0,
            },
        };
        inode.count_space();
        Arc::new(Mutex::new(inode))
    }

    pub(super) fn current(&self) -> &Image {
        &self.current
    }

    pub(super) fn durable(&self) -> &Image {
        &self.durable
    }

    pub(super) fn unsynced(&self) -> &[Change] {
        &self.unsynced
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
        self.count_space();
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A sync that fails: what it should have made durable never will be.
    pub(super) fn lose_sync(&mut self, failure: SyncFailure) {
        self.unsynced.clear();
        match failure {
            SyncFailure::KeepsPages => {}
            SyncFailure::DropsPages => self.current = self.durable.clone(),
        }
        self.count_space();
    }

    /// Flips a bit wherever it is kept; false when no image reaches that far.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) -> bool {
        let durable = self.durable.flip(offset, bit);
        let current = self.current.flip(offset, bit);
        let mut byte = [0];
        if !self.unsynced.is_empty() && self.current.read(&mut byte, offset) {
            // Or the next sync would write the byte as it was.
            self.unsynced.push(Change::Write {
                offset,
                data: byte.to_vec(),
            });
        }
        self.count_space();
        durable || current
    }

    fn count_space(&mut self) {
        self.space.set(self.current.bytes_allocated());
    }
}

/// What a file takes of its disk's space; given back when the file is gone.
#[derive(Debug)]
struct Charge {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Charge {
    fn set(&mut self, bytes: u64) {
        // Wrapping, so that a smaller charge gives back: the sum over all charges never wraps.
        self.used
            .fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}
