//! Ctrl-C, and the polite signals to end: work under way is brought to an orderly end instead of being cut off.
//!
//! Invariant: the second signal ends the process at once; what was acknowledged is as safe as after any other kill.

use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::{Condvar, Mutex};

/// Whether the user asked to stop. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    is_asked: Mutex<bool>,
    asked: Condvar,
    waker: AtomicWaker,
}

impl Interrupt {
    /// Listens from now on. Where the system refuses that, signals end the process.
    pub(crate) fn listen() -> Interrupt {
        let interrupt = Interrupt::default();
        let asked = interrupt.clone();
        let listening = ctrlc::set_handler(move || {
            let mut is_asked = asked.shared.is_asked.lock();
            if *is_asked {
                std::process::exit(2);
            }
            *is_asked = true;
            asked.shared.asked.notify_all();
            drop(is_asked);
            asked.shared.waker.wake();
        });
        listening.ok();
        interrupt
    }

    pub(crate) fn is_asked(&self) -> bool {
        *self.shared.is_asked.lock()
    }

    /// Whether the user asked to stop; if not, the task is woken when they do.
    pub(crate) fn poll_asked(&self, context: &Context<'_>) -> bool {
        self.shared.waker.register(context.waker());
        self.is_asked()
    }

    /// Waits so long, or until the user asks to stop.
    pub(crate) fn wait(&self, time: Duration) {
        let mut is_asked = self.shared.is_asked.lock();
        if !*is_asked {
            // Early or late makes no difference to a pause.
            self.shared.asked.wait_for(&mut is_asked, time);
        }
    }
}
