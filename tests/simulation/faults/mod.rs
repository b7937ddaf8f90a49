//! Faults: what goes wrong while a workload runs.

pub(crate) mod power_cut;
