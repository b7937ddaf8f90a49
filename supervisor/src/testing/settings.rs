//! How a world is run, and why a run may come to nothing.
//!
//! Invariant: every error names the seed, so that the run can be looked at again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actors::executor::StopWorkers;
use actors::simulation::Latencies;
use actors::simulation::trace::Event;
use storage::disk::Disk;

/// How a world is run.
#[derive(Clone, Debug)]
pub struct WorldSettings {
    /// A run of more virtual time than this does not end, it is thought.
    pub virtual_time_max: Duration,
    /// A run of more events than this does not end, it is thought.
    pub events_max: u64,
    /// So many of the newest events are kept as text.
    pub events_kept: usize,
    /// How long workers rest before each step.
    pub latencies: Latencies,
    /// So many messages in a thousand are delivered late.
    pub late_permille: u64,
    /// Whether all leaves its buckets' memory that can, all the time: values alone where the seed is even.
    pub evicts: bool,
    /// Something of the caller's own before the disk, such as one that lies.
    pub disk: Layer<dyn Disk>,
    /// Something of the caller's own before the executors of buckets.
    pub executor: Layer<dyn StopWorkers>,
}

type Wrap<T> = Arc<dyn Fn(Arc<T>) -> Arc<T> + Send + Sync>;

/// Something put before a part of the world; nothing unless said otherwise.
pub struct Layer<T: ?Sized>(Option<Wrap<T>>);

impl<T: ?Sized> Layer<T> {
    /// What `wrap` makes of the part.
    pub fn new(wrap: impl Fn(Arc<T>) -> Arc<T> + Send + Sync + 'static) -> Layer<T> {
        Layer(Some(Arc::new(wrap)))
    }

    pub(crate) fn before(&self, part: Arc<T>) -> Arc<T> {
        match &self.0 {
            Some(wrap) => wrap(part),
            None => part,
        }
    }
}

impl<T: ?Sized> Default for Layer<T> {
    fn default() -> Layer<T> {
        Layer(None)
    }
}

impl<T: ?Sized> Clone for Layer<T> {
    fn clone(&self) -> Layer<T> {
        Layer(self.0.clone())
    }
}

impl<T: ?Sized> fmt::Debug for Layer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some" } else { "None" })
    }
}

impl Default for WorldSettings {
    fn default() -> WorldSettings {
        WorldSettings {
            virtual_time_max: Duration::from_secs(24 * 3600),
            events_max: 2_000_000,
            events_kept: 2_000,
            latencies: Latencies::default(),
            late_permille: 100,
            evicts: false,
            disk: Layer::default(),
            executor: Layer::default(),
        }
    }
}

/// Why a run came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It did not end within the virtual time allowed; perhaps it waits for what never comes.
    #[error("seed {seed}: no end after {} s of virtual time and {events} events; at last:\n{last}", after.as_secs())]
    TooLong {
        /// Of the run.
        seed: u64,
        /// The virtual time allowed.
        after: Duration,
        /// What happened until then.
        events: u64,
        /// The newest events.
        last: LastEvents,
    },
    /// It did not end within the events allowed; perhaps it goes round in a circle.
    #[error("seed {seed}: no end after {events} events, {} ms of virtual time; at last:\n{last}", at.as_millis())]
    TooManyEvents {
        /// Of the run.
        seed: u64,
        /// The virtual time reached.
        at: Duration,
        /// What happened until then.
        events: u64,
        /// The newest events.
        last: LastEvents,
    },
    /// Something was done that another run of the seed may do differently.
    #[error("seed {seed}: the run cannot be repeated: {what}")]
    NotDeterministic {
        /// Of the run.
        seed: u64,
        /// What was noticed.
        what: String,
    },
    /// The engine did what it must never do.
    #[error("seed {seed}: {what}")]
    Broken {
        /// Of the run.
        seed: u64,
        /// What was noticed first.
        what: String,
    },
    /// The system gave no thread or runtime.
    #[error("the simulation could not be started: {what}")]
    NotStarted {
        /// What the system said.
        what: String,
    },
}

/// The newest events of a run that was stopped, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastEvents(pub Vec<Event>);

impl fmt::Display for LastEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|event| writeln!(f, "  {event}"))
    }
}
