//! Hears of failures on a thread of its own, for tests without an actix System.
//!
//! Invariant: notices come out in the order they were told.

use actix::prelude::*;
use futures_executor::block_on;
use tokio::sync::{mpsc, oneshot};

use piggin::Bucket;
use piggin::messages::{Failure, FailureKind, FailureNotice};

/// A subscriber of a bucket's failures.
#[derive(Debug)]
pub(crate) struct Listener {
    notices: mpsc::UnboundedReceiver<Failure>,
    system: System,
}

struct Ear(mpsc::UnboundedSender<Failure>);

impl Actor for Ear {
    type Context = Context<Self>;
}

impl Handler<FailureNotice> for Ear {
    type Result = ();

    fn handle(&mut self, notice: FailureNotice, _: &mut Context<Self>) {
        match notice {
            FailureNotice::Failed(failure) => drop(self.0.send(failure)),
            FailureNotice::Missed { .. } => unreachable!("so many are not told here"),
        }
    }
}

impl Listener {
    /// An address to be told failures at, and what hears them.
    pub(crate) fn start() -> (Recipient<FailureNotice>, Listener) {
        let (sender, notices) = mpsc::unbounded_channel();
        let (started, starting) = oneshot::channel();
        std::thread::spawn(move || {
            let runner = System::new();
            runner.block_on(async move {
                let ear = Ear(sender).start().recipient();
                drop(started.send((ear, System::current())));
            });
            runner.run()
        });
        let (ear, system) = block_on(starting).unwrap();
        (ear, Listener { notices, system })
    }

    pub(crate) fn to(bucket: &Bucket) -> Listener {
        let (ear, listener) = Listener::start();
        bucket.subscribe(ear);
        listener
    }

    /// The next failure told.
    pub(crate) fn next(&mut self) -> Failure {
        block_on(self.notices.recv()).unwrap()
    }

    /// As [`Listener::next`], for whoever has a System to keep running.
    pub(crate) async fn heard(&mut self) -> Failure {
        self.notices.recv().await.unwrap()
    }

    /// The next failure of that kind told.
    pub(crate) fn next_of(&mut self, kind: FailureKind) -> Failure {
        loop {
            let failure = self.next();
            if failure.kind == kind {
                return failure;
            }
        }
    }

    /// Whether nothing more was told so far.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.notices.try_recv().is_err()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.system.stop();
    }
}
