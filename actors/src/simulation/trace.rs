//! The trace: everything noteworthy of a simulated run, in order and with its virtual time, as one hash.
//!
//! Invariant: two runs with the same hash did the same; so whatever may differ between runs must be an event, and
//! nothing that is different by nature (addresses, thread ids, real time) may be in one. The newest events are kept as
//! text, to look at.

use std::collections::VecDeque;
use std::fmt;
use std::fmt::Write;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::environment::Clock;
use crate::simulation::clock::SimulatedClock;
use crate::split_mix::mix;

/// The trace of a run. A clone is the same trace.
#[derive(Clone)]
pub struct Trace {
    shared: Arc<Shared>,
}

struct Shared {
    clock: SimulatedClock,
    events_kept: usize,
    events_max: u64,
    inner: Mutex<Inner>,
    overrun: Notify,
}

#[derive(Default)]
struct Inner {
    hash: u64,
    events: u64,
    newest: VecDeque<Event>,
    violations: Vec<String>,
    findings: Vec<String>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in virtual time since the start.
    pub at: Duration,
    /// What, such as `step` or `write`.
    pub what: &'static str,
    /// Of or by whom.
    pub who: String,
    /// The particulars.
    pub figures: Vec<u64>,
}

impl Trace {
    /// An empty trace that keeps the newest `events_kept` events as text, and holds a run of more than `events_max`
    /// for one without end.
    #[must_use]
    pub fn new(clock: SimulatedClock, events_kept: usize, events_max: u64) -> Trace {
        Trace {
            shared: Arc::new(Shared {
                clock,
                events_kept,
                events_max,
                inner: Mutex::default(),
                overrun: Notify::new(),
            }),
        }
    }

    /// Notes that something happened now.
    pub fn event(&self, what: &'static str, who: &str, figures: &[u64]) {
        let at = self.shared.clock.monotonic();
        let mut inner = self.shared.inner.lock();
        inner.absorb(at.as_secs());
        inner.absorb(u64::from(at.subsec_nanos()));
        inner.absorb_text(what);
        inner.absorb_text(who);
        inner.absorb(figures.len() as u64);
        for figure in figures {
            inner.absorb(*figure);
        }
        inner.events = inner.events.saturating_add(1);
        if self.shared.events_kept > 0 {
            if inner.newest.len() >= self.shared.events_kept {
                inner.newest.pop_front();
            }
            inner.newest.push_back(Event {
                at,
                what,
                who: who.to_owned(),
                figures: figures.to_vec(),
            });
        }
        if inner.events > self.shared.events_max {
            drop(inner);
            self.shared.overrun.notify_one();
        }
    }

    /// Notes that something happened that makes the run worthless, such as a second thread; the run fails with it.
    pub fn violation(&self, what: String) {
        self.shared.inner.lock().violations.push(what);
    }

    /// Notes that the engine did what it must never do; the run fails with it.
    pub fn finding(&self, what: String) {
        self.shared.inner.lock().findings.push(what);
    }

    /// What it did.
    #[must_use]
    pub fn findings(&self) -> Vec<String> {
        self.shared.inner.lock().findings.clone()
    }

    /// All of it so far, as one number.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.shared.inner.lock().hash
    }

    /// How many events there were.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.shared.inner.lock().events
    }

    /// The newest events.
    #[must_use]
    pub fn newest(&self) -> Vec<Event> {
        self.shared.inner.lock().newest.iter().cloned().collect()
    }

    /// What makes the run worthless.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.shared.inner.lock().violations.clone()
    }

    /// Comes to an end once there were too many events.
    pub fn overrun(&self) -> impl Future<Output = ()> + use<> {
        let shared = Arc::clone(&self.shared);
        async move { shared.overrun.notified().await }
    }
}

impl Inner {
    fn absorb(&mut self, number: u64) {
        self.hash = mix(self.hash.rotate_left(5) ^ number).wrapping_add(number);
    }

    fn absorb_text(&mut self, text: &str) {
        self.absorb(digest(text.as_bytes()));
    }
}

/// A short stand-in for some bytes, the same on every machine.
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    let mut digest = bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word.iter_mut()
            .zip(chunk)
            .for_each(|(place, byte)| *place = *byte);
        digest = mix(digest.rotate_left(7) ^ u64::from_le_bytes(word)).wrapping_add(1);
    }
    digest
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.at.as_millis();
        write!(f, "{millis:>8} ms  {:<16} {}", self.what, self.who)?;
        self.figures.iter().try_for_each(|figure| {
            f.write_char(' ')?;
            fmt::Display::fmt(figure, f)
        })
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.shared.inner.lock();
        f.debug_struct("Trace")
            .field("hash", &inner.hash)
            .field("events", &inner.events)
            .finish_non_exhaustive()
    }
}
