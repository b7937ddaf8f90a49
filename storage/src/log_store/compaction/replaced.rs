//! The planted bug of a publish that replaces everything.

use std::sync::Arc;

use crate::log_store::layer::Layer;
use crate::log_store::version::Version;

/// The version as it is now, without what is committed to it later.
pub(super) fn frozen(version: &Version) -> Option<Arc<Version>> {
    let mut frozen = version.clone();
    frozen.layers = vec![Arc::new(Layer::new(version.state()?))];
    Some(Arc::new(frozen))
}

/// What is published: the output, on top of what was there then.
pub(super) fn with_output_of(then: &Version, published: Version) -> Version {
    Version {
        segments: published.segments.into_iter().take(1).collect(),
        layers: then.layers.clone(),
        sealed: then.sealed,
        dropped: Arc::clone(&then.dropped),
        ..published
    }
}
