//! The wish that a bucket stop, and the answer to it: between the handles, on any thread, and the engine.
//!
//! Invariant: asking never blocks, is answered once the engine is down, and a second wish joins the first; the engine
//! that ends without an answer (its thread died) answers by dropping the askers.

use std::future::Future;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::shutdown::ShutdownReport;

/// What is wanted of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// An orderly shutdown.
    Shutdown,
    /// Stop without waiting for the disk: the last handle is gone.
    Abandon,
}

/// The wish, shared by handles and engine.
#[derive(Debug, Default)]
pub(crate) struct StopRequest {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    wanted: Option<Wanted>,
    /// One for each handle that asked or only waits; bounded by the callers that do.
    askers: Vec<oneshot::Sender<ShutdownReport>>,
    is_over: bool,
}

impl StopRequest {
    /// Asks for an orderly shutdown; `None` when the engine is down already, or died on the way.
    pub(crate) async fn request(&self) -> Option<ShutdownReport> {
        let answer = {
            let mut state = self.state.lock();
            if state.is_over {
                return None;
            }
            let (asker, answer) = oneshot::channel();
            state.askers.push(asker);
            state.wanted.get_or_insert(Wanted::Shutdown);
            answer
        };
        self.changed.notify_one();
        answer.await.ok()
    }

    /// Comes to an end once the engine is down, whoever wanted it, or died. Holds nothing of the bucket.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let (asker, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if !state.is_over {
                state.askers.push(asker);
            }
        }
        async move { drop(answer.await) }
    }

    /// Whether the engine is down.
    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().is_over
    }

    /// Whether the end is asked for.
    pub(crate) fn is_wanted(&self) -> bool {
        self.state.lock().wanted.is_some()
    }

    /// Asks the engine to stop at once; nobody waits for it.
    pub(crate) fn abandon(&self) {
        self.state.lock().wanted.get_or_insert(Wanted::Abandon);
        self.changed.notify_one();
    }

    /// For the engine: waits until something is wanted.
    pub(crate) async fn wanted(&self) -> Wanted {
        loop {
            if let Some(wanted) = self.state.lock().wanted {
                return wanted;
            }
            self.changed.notified().await;
        }
    }

    /// For the engine: it is down.
    pub(crate) fn over(&self, report: &ShutdownReport) {
        let askers = {
            let mut state = self.state.lock();
            state.is_over = true;
            std::mem::take(&mut state.askers)
        };
        for asker in askers {
            // Whoever does not wait any more needs no answer.
            drop(asker.send(report.clone()));
        }
    }
}
