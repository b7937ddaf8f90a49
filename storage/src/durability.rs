//! Durability levels, as stored in prepares.

use serde::{Deserialize, Serialize};

/// What a durable write waits for before it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum DurabilityLevel {
    /// A majority of the chain holds it in memory.
    Majority = 1,
    /// As `Majority`, and the active has it on disk.
    MajorityAndPersistOnActive = 2,
    /// A majority of the chain has it on disk.
    PersistToMajority = 3,
}

impl DurabilityLevel {
    /// The level stored as `byte`.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<DurabilityLevel> {
        match byte {
            1 => Some(DurabilityLevel::Majority),
            2 => Some(DurabilityLevel::MajorityAndPersistOnActive),
            3 => Some(DurabilityLevel::PersistToMajority),
            _ => None,
        }
    }
}
