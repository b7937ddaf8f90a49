//! Shell and core: an actor whose address outlives every panic of what is inside it.
//!
//! The public `Addr` names a [`Shell`]. It owns the mailbox and never dies of a panic; the [`Core`] inside is made by
//! a factory, once for each generation. Everything that runs code of the core (a message, a timer, each poll of a
//! future, the factory) goes through one guard that catches panics. After one, the core and all it had under way are
//! dropped, whoever waited for an answer gets a typed one, the mailbox is paused, the guardian decides, and the core
//! is made anew. What was queued is then served, and every `Addr` and `Recipient` is as good as before.
//!
//! ```
//! # use piggin_actors as actors;
//! use std::sync::Arc;
//! use std::time::Duration;
//! use actix::{Message, System};
//! use actors::guardian::{ExitCause, Guardian, Verdict};
//! use actors::shell::{Core, On, Reply, ShellConfig, ShellContext, ShellFault, start};
//! use messages::{ChildName, Generation};
//!
//! #[derive(Message)]
//! #[rtype(result = "Result<u64, ShellFault>")]
//! struct Add(u64);
//!
//! struct Sum(u64);
//!
//! impl Core for Sum {}
//!
//! impl On<Add> for Sum {
//!     fn on(&mut self, Add(n): Add, _: &mut ShellContext<'_, Sum>) -> Reply<Sum, Result<u64, ShellFault>> {
//!         self.0 = self.0.checked_add(n).expect("too much");
//!         Reply::Now(Ok(self.0))
//!     }
//! }
//!
//! #[derive(Debug)]
//! struct AtOnce;
//!
//! impl Guardian for AtOnce {
//!     fn child_down(&self, _: &ChildName, _: Generation, _: ExitCause) -> Verdict {
//!         Verdict::RestartAfter(Duration::ZERO)
//!     }
//!     fn child_up(&self, _: &ChildName, _: Generation) {}
//! }
//!
//! System::new().block_on(async {
//!     let config = ShellConfig::new(ChildName::new("sum"), Arc::new(AtOnce));
//!     let sum = start(&actix::Arbiter::current(), config, |_| Sum(0));
//!     assert_eq!(sum.send(Add(2)).await.unwrap(), Ok(2));
//!     assert!(sum.send(Add(u64::MAX)).await.unwrap().is_err());
//!     assert_eq!(sum.send(Add(3)).await.unwrap(), Ok(3));
//! });
//! ```

#[cfg(not(panic = "unwind"))]
compile_error!("supervision catches panics; build with panic = \"unwind\"");

mod answer;
mod contract;
mod context;
mod jobs;
mod actor;
#[cfg(test)]
mod tests;

pub use actor::{Replied, Shell, ShellConfig, start};
pub use answer::{Answer, FaultCause, ShellFault};
pub use context::{ShellContext, Task};
pub use contract::{Core, Later, On, Reply, Stopping, Then};
