//! Every failure, of every kind, moves exactly one counter by one, is logged once and kept; a subscriber that is too
//! slow is told which ones it missed, and loses none.
#![cfg(test)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler};
use parking_lot::Mutex;
use tokio::time::Instant;

use actors::environment::{Clock, FailureReport, ReportFailure};
use messages::{
    ChildName, FailureCause, FailureId, FailureKind, FailureNotice, Generation, NextStep,
};
use piggin_supervisor::failure_bus::FailureBus;
use support::{LogProbe, Probe, millis, run};

#[derive(Debug)]
struct Paused(Instant);

impl Clock for Paused {
    fn since_epoch(&self) -> Duration {
        Duration::from_millis(77) + self.0.elapsed()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// One test at a time: which log events are wanted is remembered for the whole process, and another thread that reports
/// while nobody listens may be the one that says.
static ALONE: Mutex<()> = Mutex::new(());

fn bus(history: usize) -> FailureBus {
    FailureBus::new(Arc::new(Paused(Instant::now())), history)
}

fn report(kind: FailureKind) -> FailureReport {
    FailureReport {
        child: ChildName::new("it"),
        generation: Generation(3),
        vbucket: None,
        kind,
        cause: FailureCause::Injected("planted".to_owned()),
        next: NextStep::Nothing,
    }
}

/// A subscriber that stands still after each notice.
struct Slow(Arc<Mutex<Vec<FailureNotice>>>);

impl Actor for Slow {
    type Context = Context<Slow>;

    fn started(&mut self, ctx: &mut Context<Slow>) {
        ctx.set_mailbox_capacity(1);
    }
}

impl Handler<FailureNotice> for Slow {
    type Result = ();

    fn handle(&mut self, notice: FailureNotice, ctx: &mut Context<Slow>) {
        self.0.lock().push(notice);
        ctx.wait(actix::fut::wrap_future(millis(100)));
    }
}

#[test]
fn every_kind_moves_its_own_counter_and_is_logged_and_kept_once() {
    let _alone = ALONE.lock();
    run(async {
        let logged = LogProbe::default();
        let _log = tracing::subscriber::set_default(logged.clone());
        let mut names: Vec<_> = FailureKind::ALL.iter().map(|kind| kind.counter()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FailureKind::ALL.len(), "one counter, one kind");
        let bus = bus(100);
        let probe = Probe::default();
        bus.subscribe(probe.clone().start().recipient());
        for (number, kind) in (1..).zip(FailureKind::ALL) {
            let before = bus.counters();
            assert_eq!(bus.report(report(kind)), FailureId(number));
            let moved: Vec<_> = bus
                .counters()
                .into_iter()
                .zip(before)
                .filter(|(now, before)| now != before)
                .map(|((name, now), (_, before))| (name, now - before))
                .collect();
            assert_eq!(moved, [(kind.counter(), 1)]);
            assert_eq!(bus.count(kind), 1);
            assert_eq!(
                logged.0.lock().last().map(String::as_str),
                Some(kind.counter())
            );
            assert_eq!(logged.0.lock().len() as u64, number);
            let kept = bus.since(FailureId(number - 1));
            assert_eq!((kept.failures.len(), kept.forgotten), (1, None));
            assert_eq!((kept.failures[0].kind, kept.failures[0].at_ms), (kind, 77));
            tokio::task::yield_now().await;
        }
        let told: Vec<_> = bus
            .since(FailureId(0))
            .failures
            .into_iter()
            .map(FailureNotice::Failed)
            .collect();
        millis(1).await;
        assert_eq!(*probe.0.lock(), told);
    });
}

#[test]
fn a_slow_subscriber_misses_no_number() {
    let _alone = ALONE.lock();
    run(async {
        let bus = bus(8);
        let (slow, quick) = (Arc::<Mutex<Vec<_>>>::default(), Probe::default());
        bus.subscribe(Slow(Arc::clone(&slow)).start().recipient());
        let subscription = bus.subscribe(quick.clone().start().recipient());
        tokio::task::yield_now().await;
        for _ in 0..20 {
            bus.report(report(FailureKind::Flush));
            millis(1).await;
        }
        for _ in 0..10 {
            millis(1_000).await;
            bus.catch_up();
        }
        let mut next = 1;
        for notice in slow.lock().iter() {
            match notice {
                FailureNotice::Failed(failure) => {
                    assert_eq!(failure.id.0, next);
                    next += 1;
                }
                FailureNotice::Missed { from, to } => {
                    assert_eq!(from.0, next);
                    assert!(to >= from);
                    next = to.0 + 1;
                }
            }
        }
        assert_eq!(next, 21, "{:?}", slow.lock());
        let missed = |notice: &FailureNotice| matches!(notice, FailureNotice::Missed { .. });
        assert!(slow.lock().iter().any(missed), "it was slow");
        assert_eq!(quick.0.lock().len(), 20);
        let history = bus.since(FailureId(5));
        assert_eq!(history.forgotten, Some((FailureId(6), FailureId(12))));
        assert_eq!(history.failures.len(), 8);
        bus.unsubscribe(subscription);
        bus.report(report(FailureKind::Flush));
        millis(1).await;
        assert_eq!(quick.0.lock().len(), 20);
    });
}

#[test]
fn failures_of_many_threads_are_numbered_without_gaps() {
    let _alone = ALONE.lock();
    run(async {
        let bus = bus(1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        bus.report(report(FailureKind::Seal));
                    }
                });
            }
        });
        let kept = bus.since(FailureId(0)).failures;
        let numbers: Vec<u64> = kept.iter().map(|one| one.id.0).collect();
        assert_eq!(numbers, (1..=400).collect::<Vec<_>>());
        assert_eq!(bus.count(FailureKind::Seal), 400);
    });
}
