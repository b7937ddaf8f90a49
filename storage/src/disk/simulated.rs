//! placeholder
/// x
#[derive(Debug)]
pub struct SimulatedDisk;
