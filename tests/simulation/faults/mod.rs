//! Faults: what goes wrong while a workload runs.

pub(crate) mod bad_disk;
pub(crate) mod children;
pub(crate) mod power_cut;
