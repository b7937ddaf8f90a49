//! The harness: a simulated world in which one seed is one run, faults by name, and eyes on every message.
//!
//! For the tests of whoever embeds a bucket as much as for our own; `docs/harness.md` is its manual. Invariant: nothing
//! here is needed, or compiled, in production; the engine asks its [`Hooks`] at few named places and knows no more.

mod disk;
pub mod fault;
mod guardian;
mod harness;
mod hold;
mod failures;
pub mod probe;
mod process;
mod settings;
pub mod tap;
pub mod world;

/// Every child of a bucket, to be started alone.
pub use actors;
pub use actors::environment::{Clock, Environment, Random};
pub use actors::executor::{
    Executor, StartError, Step, StopWorkers, WakeWorker, Worker, WorkerSpec,
};
pub use actors::hooks::{Delivery, FaultPoint, HoldPoint, Hook, Hooks, Passing};
pub use actors::simulation::trace::{Event, digest};
pub use actors::simulation::{
    Latencies, SimulatedClock, SimulatedExecutor, SimulatedRandom, Trace,
};
pub use disk::TracedDisk;
pub use failures::FailureLog;
pub use fault::{DiskEffect, DiskFault, Fault, FaultPlan};
pub use guardian::AlwaysRestart;
pub use harness::Harness;
pub use hold::Hold;
pub use probe::Probe;
pub use settings::{LastEvents, Layer, RunError, WorldSettings};
pub use tap::{MessageLog, MessagesOf, Tap, Tapped};
pub use world::World;

#[cfg(test)]
mod tests;
