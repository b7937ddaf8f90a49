//! The items of a seal: which live, which go, and which older versions die of them.
//!
//! Invariant: a pure function of the layers, the version they lie on and the history floor; nothing here writes but to
//! the segment it is given. Versions whose killer is above the floor are kept (rule R11).

use std::sync::Arc;

use crate::counts::{VbucketCounts, Weight};
use crate::document::Item;
use crate::error::StorageError;
use crate::kv_store::ItemView;
use crate::log_store::layer::LayerView;
use crate::log_store::segment::{
    IndexEntry, IndexKey, Kill, Patience, RecordLocation, SegmentWriter,
};
use crate::log_store::version::Version;
use crate::seqno::Seqno;

/// The items of a seal, by seqno and by key, and what becomes of each.
pub(super) struct Run<'v> {
    items: Vec<&'v Arc<Item>>,
    /// Numbers of the items kept, by (namespace, key), newest version first.
    by_key: Vec<u32>,
    /// Whether the item is left out.
    dropped: Vec<bool>,
    /// Victims in older segments, with their bytes there.
    kills: Vec<Kill>,
    /// Superseded items kept: victim and killer, as numbers of items.
    kept_victims: Vec<(u32, Seqno)>,
    pub(super) exact_from: Seqno,
    pub(super) counts: VbucketCounts,
}

impl<'v> Run<'v> {
    pub(super) fn of(
        views: &'v [LayerView],
        version: &Version,
        history_floor: Seqno,
    ) -> Result<Run<'v>, StorageError> {
        let items: Vec<&Arc<Item>> = views.iter().flat_map(LayerView::items).collect();
        let mut run = Run {
            by_key: sorted_by_key(&items),
            dropped: vec![false; items.len()],
            items,
            kills: Vec::new(),
            kept_victims: Vec::new(),
            exact_from: Seqno::ZERO,
            counts: VbucketCounts::default(),
        };
        run.decide(version, history_floor)?;
        Ok(run)
    }

    fn item(&self, number: u32) -> Option<&'v Arc<Item>> {
        self.items.get(number as usize).copied()
    }

    pub(super) fn first(&self) -> Seqno {
        self.items.first().map_or(Seqno::ZERO, |item| item.seqno)
    }

    /// Key by key: the newest version lives, older ones go or become history, what lies in segments dies.
    fn decide(&mut self, version: &Version, floor: Seqno) -> Result<(), StorageError> {
        let by_key = std::mem::take(&mut self.by_key);
        let mut kept = Vec::with_capacity(by_key.len());
        let mut newer: Option<&Arc<Item>> = None;
        for (place, number) in by_key.iter().enumerate() {
            let Some(item) = self.item(*number) else {
                continue;
            };
            let killer = newer
                .filter(|newer| same_key(newer, item))
                .map(|newer| newer.seqno);
            self.judge(*number, item, killer, floor);
            if !self.dropped.get(*number as usize).copied().unwrap_or(false) {
                kept.push(*number);
            }
            let next = by_key
                .get(place.saturating_add(1))
                .and_then(|next| self.item(*next));
            if next.is_none_or(|next| !same_key(next, item)) {
                self.kill_sealed(version, item)?;
            }
            newer = Some(item);
        }
        self.by_key = kept;
        self.kills.sort_unstable_by_key(|kill| kill.victim);
        Ok(())
    }

    fn judge(&mut self, number: u32, item: &Item, killer: Option<Seqno>, floor: Seqno) {
        let collection = item.document.key.collection();
        match killer {
            None => self.counts.gained(collection, Weight::of(item), item.seqno),
            Some(killer) => {
                self.counts.saw(collection, item.seqno);
                if killer <= floor {
                    self.exact_from = self.exact_from.max(killer);
                    if let Some(dropped) = self.dropped.get_mut(number as usize) {
                        *dropped = true;
                    }
                } else {
                    self.kept_victims.push((number, killer));
                }
            }
        }
    }

    /// The key's version in the segments, if there is one, is superseded by `killer`, its oldest version here.
    /// Looked up whatever the writer's hint said (rule R8).
    fn kill_sealed(&mut self, version: &Version, killer: &Item) -> Result<(), StorageError> {
        let key = &killer.document.key;
        let Some((_, found)) =
            version.find_sealed(killer.namespace(), key.as_encoded(), Patience::Waits)?
        else {
            return Ok(());
        };
        self.counts
            .lost(key.collection(), found.weight(killer.namespace()));
        self.kills.push(Kill {
            victim: found.seqno,
            killer: killer.seqno,
            victim_bytes: found.location.length,
        });
        Ok(())
    }

    /// Writes the items by seqno; where each lies.
    pub(super) fn write_records(
        &self,
        writer: &mut SegmentWriter,
    ) -> Result<Vec<Option<RecordLocation>>, StorageError> {
        let mut locations = Vec::with_capacity(self.items.len());
        for (item, is_dropped) in self.items.iter().zip(&self.dropped) {
            let kept = (!is_dropped).then(|| writer.push(&ItemView::of(item)));
            locations.push(kept.transpose()?);
        }
        Ok(locations)
    }

    pub(super) fn write_index(
        &self,
        writer: &mut SegmentWriter,
        locations: &[Option<RecordLocation>],
    ) -> Result<(), StorageError> {
        for number in &self.by_key {
            let location = locations.get(*number as usize).copied().flatten();
            let (Some(item), Some(location)) = (self.item(*number), location) else {
                continue;
            };
            let key = IndexKey::new(item.namespace(), item.document.key.as_encoded());
            writer.push_index(IndexEntry {
                key: key.as_bytes(),
                seqno: item.seqno,
                location,
                is_tombstone: item.operation.is_tombstone(),
                user_bytes: item.user_bytes(),
            })?;
        }
        Ok(())
    }

    /// All kills, those of versions kept as history included, by victim.
    pub(super) fn kills_with_bytes(&self, locations: &[Option<RecordLocation>]) -> Vec<Kill> {
        let mut kills = self.kills.clone();
        for (number, killer) in &self.kept_victims {
            let location = locations.get(*number as usize).copied().flatten();
            if let (Some(item), Some(location)) = (self.item(*number), location) {
                let victim_bytes = location.length;
                kills.push(Kill {
                    victim: item.seqno,
                    killer: *killer,
                    victim_bytes,
                });
            }
        }
        kills.sort_unstable_by_key(|kill| kill.victim);
        kills
    }
}

fn same_key(one: &Item, other: &Item) -> bool {
    one.namespace() == other.namespace() && one.document.key == other.document.key
}

/// Numbers of the items by (namespace, key), newest first within a key. The first bytes decide most comparisons
/// without going to the items.
fn sorted_by_key(items: &[&Arc<Item>]) -> Vec<u32> {
    let prefix = |item: &Item| {
        let mut bytes = [0u8; 8];
        let key = item.document.key.as_encoded();
        let source = std::iter::once(item.namespace() as u8).chain(key.iter().copied());
        for (slot, byte) in bytes.iter_mut().zip(source) {
            *slot = byte;
        }
        u64::from_be_bytes(bytes)
    };
    let numbers = 0..u32::try_from(items.len()).unwrap_or(u32::MAX);
    let mut order: Vec<(u64, u32)> = items
        .iter()
        .zip(numbers)
        .map(|(item, number)| (prefix(item), number))
        .collect();
    order.sort_unstable_by(|(prefix_a, a), (prefix_b, b)| {
        prefix_a.cmp(prefix_b).then_with(|| {
            let key = |n: &u32| items.get(*n as usize).map(|i| i.document.key.as_encoded());
            // Equal prefixes mean equal namespaces; a higher number is a higher seqno.
            key(a).cmp(&key(b)).then_with(|| b.cmp(a))
        })
    });
    order.into_iter().map(|(_, number)| number).collect()
}
