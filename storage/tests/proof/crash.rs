//! The power cuts a proof tries at one moment.

use piggin_storage::disk::SimulatedDisk;

/// What a power cut leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Crash {
    LosesUnsynced,
    KeepsEverything,
    Seed(u64),
}

/// The two ends and some between.
pub(crate) const CRASHES: [Crash; 5] = [
    Crash::LosesUnsynced,
    Crash::KeepsEverything,
    Crash::Seed(1),
    Crash::Seed(2),
    Crash::Seed(3),
];

impl Crash {
    /// The disk as it is left; `salt` makes equal seeds differ from moment to moment.
    pub(crate) fn of(self, disk: &SimulatedDisk, salt: u64) -> SimulatedDisk {
        match self {
            Crash::LosesUnsynced => disk.crash_losing_everything_unsynced(),
            Crash::KeepsEverything => disk.crash_keeping_everything(),
            Crash::Seed(seed) => disk.crash(seed.wrapping_add(salt.wrapping_mul(0x9e37_79b9))),
        }
    }
}
