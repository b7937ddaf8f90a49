//! The parts of a deterministic simulation: clock, randomness, trace and executor, all on one thread.
//!
//! Invariant: one seed is one run. Time is tokio's paused time, every number comes from the seed, and everything that
//! happens is hashed into the trace, so that two runs can be compared.

pub mod clock;
pub mod executor;
pub mod random;
pub mod trace;

pub use clock::SimulatedClock;
pub use executor::{Latencies, SimulatedExecutor};
pub use random::SimulatedRandom;
pub use trace::Trace;
