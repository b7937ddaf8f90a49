//! What is known of a shard's open containers: which extents live in each, and which parts may be given back.
//!
//! Invariant: nothing here calls the disk but for whoever holds a way to an extent; an extent goes only when the frame
//! that retired it is durable and nobody holds one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::disk::{DiskError, DiskFile};

use super::EXTENT_ALIGNMENT;

#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) containers: BTreeMap<u64, Container>,
    /// Containers with retired extents, or with gaps that may not be punched yet.
    pub(super) suspects: BTreeSet<u64>,
    /// Containers of which less than half is live.
    pub(super) sparse: BTreeSet<u64>,
    /// Files without a live extent, still to be removed.
    pub(super) doomed: Vec<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) name: Arc<str>,
    pub(super) file: Arc<dyn DiskFile>,
    /// By offset.
    pub(super) extents: BTreeMap<u64, Extent>,
    pub(super) length: u64,
    /// Whether all gaps between extents were given back.
    pub(super) is_punched: bool,
}

/// A file, and the offsets and lengths of gaps in it.
pub(super) type Gaps = (Arc<dyn DiskFile>, Vec<(u64, u64)>);

#[derive(Debug)]
pub(super) struct Extent {
    pub(super) length: u64,
    handle: Arc<ExtentHandle>,
    /// The frame that took it out of its version; it may go once that frame is durable.
    pub(super) retired_at: Option<u64>,
}

/// One reader's way to an extent; as long as somebody holds it, the extent stays.
#[derive(Debug)]
struct ExtentHandle(Arc<dyn DiskFile>);

impl DiskFile for ExtentHandle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.0.read_at(buffer, offset)
    }
    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.0.read_at_once(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        self.0.write_at(data, offset)
    }
    fn sync(&self) -> Result<(), DiskError> {
        self.0.sync()
    }
    fn length(&self) -> Result<u64, DiskError> {
        self.0.length()
    }
    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.0.truncate(length)
    }
    fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.0.zero(offset, length)
    }
    fn punch(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.0.punch(offset, length)
    }
}

impl Open {
    /// A container that has something to give back.
    pub(super) fn next_suspect(&self, durable: u64) -> Option<u64> {
        let has_some = |number: &&u64| {
            self.containers.get(number).is_some_and(|container| {
                !container.is_punched || container.extents.values().any(|e| e.is_free(durable))
            })
        };
        self.suspects.iter().find(has_some).copied()
    }

    /// Forgets a container's free extents: the gaps to punch, or nothing when the whole container goes.
    pub(super) fn free(&mut self, number: u64, durable: u64) -> Option<Gaps> {
        let container = self.containers.get_mut(&number)?;
        let mut freed = BTreeSet::new();
        container.extents.retain(|offset, extent| {
            let is_free = extent.is_free(durable);
            if is_free {
                freed.insert(*offset);
            }
            !is_free
        });
        if container.extents.is_empty() {
            self.doomed.push(Arc::clone(&container.name));
            self.containers.remove(&number);
            self.suspects.remove(&number);
            self.sparse.remove(&number);
            return None;
        }
        let mut gaps = container.gaps();
        if std::mem::replace(&mut container.is_punched, true) {
            // The others were given back before.
            gaps.retain(|(offset, length)| {
                let end = offset.saturating_add(*length);
                freed.range(*offset..end).next().is_some()
            });
        }
        if container
            .extents
            .values()
            .all(|extent| extent.retired_at.is_none())
        {
            self.suspects.remove(&number);
        }
        if container.is_sparse() {
            self.sparse.insert(number);
        }
        Some((Arc::clone(&container.file), gaps))
    }

    pub(super) fn is_not_punched(&mut self, number: u64) {
        if let Some(container) = self.containers.get_mut(&number) {
            container.is_punched = false;
            self.suspects.insert(number);
        }
    }
}

impl Container {
    /// The space between extents: offset and length.
    fn gaps(&self) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut end = EXTENT_ALIGNMENT;
        for (offset, extent) in &self.extents {
            if *offset > end {
                gaps.push((end, offset.saturating_sub(end)));
            }
            end = offset
                .saturating_add(extent.length)
                .next_multiple_of(EXTENT_ALIGNMENT);
        }
        if self.length > end {
            gaps.push((end, self.length.saturating_sub(end)));
        }
        gaps
    }

    /// Less than half of it is live, counted in whole blocks, as a copy would need them.
    pub(super) fn is_sparse(&self) -> bool {
        let blocks = self
            .live()
            .map(|extent| extent.length.next_multiple_of(EXTENT_ALIGNMENT));
        let live: u64 = blocks.sum();
        let used = self.length.saturating_sub(EXTENT_ALIGNMENT);
        live > 0 && live.saturating_mul(2) < used
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Extent> {
        self.extents
            .values()
            .filter(|extent| extent.retired_at.is_none())
    }
}

impl Extent {
    pub(super) fn new(file: &Arc<dyn DiskFile>, length: u64) -> Extent {
        Extent {
            length,
            handle: Arc::new(ExtentHandle(Arc::clone(file))),
            retired_at: None,
        }
    }

    /// A way to its bytes; while it is held, they stay.
    pub(super) fn lease(&self) -> Arc<dyn DiskFile> {
        Arc::<ExtentHandle>::clone(&self.handle)
    }

    pub(super) fn is_free(&self, durable: u64) -> bool {
        self.retired_at.is_some_and(|at| at <= durable) && Arc::strong_count(&self.handle) == 1
    }
}
