//! Freezing: what is committed from now on goes to a new layer, and what was committed so far can be sealed.
//!
//! Invariant: a version's newest layer is never frozen without items, and freezing costs a few pointers.

use std::sync::Arc;

use crate::log_store::layer::Layer;
use crate::log_store::shard::{Shard, Slot};
use crate::log_store::version::Version;

/// Whether there is something to seal.
pub(super) fn has_unsealed(version: &Version) -> bool {
    let has_items = |layer: &Arc<Layer>| !layer.view().is_empty();
    version.layers.len() > 1 || version.active().is_some_and(has_items)
}

/// The version with everything committed so far in frozen layers. The caller holds the writer.
pub(super) fn freeze(shard: &Shard, version: Arc<Version>) -> Arc<Version> {
    let Some(active) = version.active().map(Layer::view) else {
        return version;
    };
    if active.is_empty() {
        return version;
    }
    let mut frozen = Version::clone(&version);
    let next = Layer::new(active.state().clone());
    frozen.layers.push(Arc::new(next));
    let frozen = Arc::new(frozen);
    let slot = Slot::Up(Arc::clone(&frozen));
    shard.publish(version.place.vbucket, slot);
    frozen
}

/// The layers that are sealed.
pub(super) fn frozen_layers(version: &Version) -> &[Arc<Layer>] {
    version
        .layers
        .split_last()
        .map_or(&[], |(_, frozen)| frozen)
}
