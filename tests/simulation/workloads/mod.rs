//! Workloads: who asks the engine for what.

pub(crate) mod clients;
pub(crate) mod compactions;
