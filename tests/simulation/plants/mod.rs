//! Bugs on purpose: each breaks one promise from outside of the bucket, where it cannot know it, and some seed must find
//! it.

mod deaf_workers;
mod lying_disk;

use std::sync::Arc;

use supervisor::testing::{Layer, WorldSettings};

use deaf_workers::DeafWorkers;
use lying_disk::LyingDisk;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    Nothing,
    /// A sync of a log is told to be done before it is: what is noted as persisted is not yet.
    NotesBeforeTheSync,
    /// A sync of a log does nothing.
    NeverSyncs,
    /// Some wake-ups of writers are lost (rule R18).
    LosesWakes,
    /// A document is deleted behind everybody's back, as if a restart had lost it.
    LosesADocument,
    /// Clients are started in the order of a randomly hashed map.
    StartsInRandomOrder,
}

impl Plant {
    pub(crate) fn settings(self, settings: WorldSettings) -> WorldSettings {
        match self {
            Plant::NotesBeforeTheSync | Plant::NeverSyncs => WorldSettings {
                disk: Layer::new(move |disk| {
                    Arc::new(LyingDisk::new(disk, self == Plant::NeverSyncs))
                }),
                ..settings
            },
            Plant::LosesWakes => WorldSettings {
                executor: Layer::new(|executor| Arc::new(DeafWorkers::new(executor))),
                ..settings
            },
            Plant::Nothing | Plant::LosesADocument | Plant::StartsInRandomOrder => settings,
        }
    }
}
