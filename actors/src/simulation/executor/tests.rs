//! Workers in virtual time: their order is that of the seed, and they end, restart and idle as on threads.

use std::sync::atomic::AtomicU64;

use messages::Generation;

use crate::environment::Clock;
use crate::executor::{MakeWorker, Worker};
use crate::guardian::{ExitCause, Guardian, Verdict};
use crate::simulation::clock::SimulatedClock;

use super::*;

#[derive(Debug)]
struct Restart(Duration);

impl Guardian for Restart {
    fn child_down(&self, _: &ChildName, _: Generation, cause: ExitCause) -> Verdict {
        if cause == ExitCause::Finished {
            return Verdict::StayDown;
        }
        Verdict::RestartAfter(self.0)
    }

    fn child_up(&self, _: &ChildName, _: Generation) {}
}

struct Closure<F>(F);

impl<F: FnMut() -> Step + Send> Worker for Closure<F> {
    fn step(&mut self) -> Step {
        (self.0)()
    }
}

fn spec(name: &str, make: MakeWorker) -> WorkerSpec {
    WorkerSpec {
        name: ChildName::new(name),
        make,
        guardian: Arc::new(Restart(Duration::from_millis(100))),
    }
}

/// Runs `scenario` in a local set with paused time.
fn simulate<T, F: Future<Output = T>>(
    seed: u64,
    scenario: impl FnOnce(SimulatedClock, Trace, SimulatedExecutor) -> F,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let clock = SimulatedClock::start();
        let trace = Trace::new(clock.clone(), 1000, 100_000);
        let random = SimulatedRandom::new(seed);
        let (latencies, hooks) = (Latencies::default(), Hooks::none());
        let executor = SimulatedExecutor::new(random, latencies, trace.clone(), hooks);
        scenario(clock, trace, executor).await
    })
}

fn steps(count: &Arc<AtomicU64>, idle: Step) -> MakeWorker {
    let count = Arc::clone(count);
    Box::new(move |_| {
        let count = Arc::clone(&count);
        Box::new(Closure(move || {
            count.fetch_add(1, Ordering::SeqCst);
            idle
        }))
    })
}

#[test]
fn workers_interleave_differently_for_each_seed_and_alike_for_one() {
    let run = |seed| {
        simulate(seed, |_, trace, executor| async move {
            let order = Arc::new(Mutex::new(Vec::new()));
            for name in ["a-0", "a-1", "b-0"] {
                let order = Arc::clone(&order);
                let make: MakeWorker = Box::new(move |_| {
                    let (order, mut left) = (Arc::clone(&order), 5);
                    Box::new(Closure(move || {
                        order.lock().push(name);
                        left -= 1;
                        if left == 0 { Step::Ended } else { Step::Again }
                    }))
                });
                executor.start(spec(name, make)).unwrap();
            }
            executor.all_ended().await;
            let order = order.lock().clone();
            (order, trace.hash())
        })
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_eq!(first.0.len(), 15);
    let orders: std::collections::BTreeSet<_> = (0..20).map(|seed| run(seed).0).collect();
    assert!(orders.len() > 15, "{} orders of 20", orders.len());
}

#[test]
fn a_wake_is_kept_and_an_idle_worker_rests() {
    simulate(1, |clock, _, executor| async move {
        let count = Arc::new(AtomicU64::new(0));
        let wake = executor
            .start(spec("w", steps(&count, Step::Idle)))
            .unwrap();
        // Before its first step.
        wake.wake();
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(count.load(Ordering::SeqCst), 2);
        wake.wake();
        wake.wake();
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(count.load(Ordering::SeqCst), 3);
        assert_eq!(clock.monotonic(), Duration::from_secs(7200));
        executor.stop();
        executor.all_ended().await;
        assert_eq!(count.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn a_time_to_idle_is_virtual() {
    simulate(1, |_, _, executor| async move {
        let count = Arc::new(AtomicU64::new(0));
        let idle = Step::IdleFor(Duration::from_secs(60));
        executor.start(spec("w", steps(&count, idle))).unwrap();
        sleep(Duration::from_secs(3600)).await;
        let count = count.load(Ordering::SeqCst);
        assert!((59..=60).contains(&count), "{count}");
    });
}

#[test]
fn a_panic_is_guarded_and_a_new_worker_made_after_the_delay() {
    simulate(1, |clock, trace, executor| async move {
        let lives = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&lives);
        let now = clock.clone();
        let make: MakeWorker = Box::new(move |generation| {
            seen.lock().push((generation.0, now.monotonic()));
            Box::new(Closure(move || match generation.0 {
                1 | 2 => panic!("life {}", generation.0),
                _ => Step::Ended,
            }))
        });
        executor.start(spec("w", make)).unwrap();
        executor.all_ended().await;
        let lives = lives.lock().clone();
        assert_eq!(
            lives.iter().map(|life| life.0).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        for pair in lives.windows(2) {
            assert!(pair[1].1 >= pair[0].1 + Duration::from_millis(100));
        }
        let panics = trace.newest();
        let panics = panics.iter().filter(|event| event.what == "panicked");
        assert_eq!(panics.count(), 2);
    });
}

#[test]
fn the_killed_do_nothing_more() {
    simulate(1, |_, _, executor| async move {
        let count = Arc::new(AtomicU64::new(0));
        executor
            .start(spec("w", steps(&count, Step::Again)))
            .unwrap();
        sleep(Duration::from_millis(50)).await;
        let before = count.load(Ordering::SeqCst);
        assert!(before > 3, "{before}");
        executor.kill_all();
        executor.all_ended().await;
        assert_eq!(count.load(Ordering::SeqCst), before);
        executor
            .start(spec("w", steps(&count, Step::Again)))
            .unwrap();
        sleep(Duration::from_millis(50)).await;
        assert!(count.load(Ordering::SeqCst) > before);
    });
}

#[test]
fn another_thread_can_neither_start_nor_wake_unseen() {
    simulate(1, |_, trace, executor| async move {
        let count = Arc::new(AtomicU64::new(0));
        let wake = executor
            .start(spec("w", steps(&count, Step::Idle)))
            .unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let start = executor.start(spec("x", steps(&count, Step::Idle)));
                assert!(start.is_err());
                wake.wake();
            });
        });
        assert_eq!(trace.violations().len(), 1);
    });
}

#[test]
fn a_class_has_its_own_latency() {
    let latencies = Latencies::all(0..=1).of_class("writer", 7..=9);
    assert_eq!(latencies.of(&ChildName::new("writer-12")), 7..=9);
    assert_eq!(latencies.of(&ChildName::new("writer")), 7..=9);
    assert_eq!(latencies.of(&ChildName::new("writer-x")), 0..=1);
    assert_eq!(latencies.of(&ChildName::new("other-1")), 0..=1);
}

/// Panics in the second step and holds up the fourth.
#[derive(Debug)]
struct Planned(Mutex<u64>);

impl crate::hooks::Hook for Planned {
    fn step(&self, _: &ChildName, _: Generation) -> Delivery {
        let mut asked = self.0.lock();
        *asked += 1;
        match *asked {
            2 => Delivery::Panic("as asked".to_owned()),
            4 => Delivery::After(Duration::from_secs(30)),
            _ => Delivery::Handle,
        }
    }
}

#[test]
fn a_hook_makes_a_step_panic_or_stall() {
    simulate(1, |clock, _, _| async move {
        let trace = Trace::new(clock.clone(), 1000, 1000);
        let hooks = Hooks::new(Arc::new(Planned(Mutex::new(0))));
        let (random, latencies) = (SimulatedRandom::new(1), Latencies::all(0..=0));
        let executor = SimulatedExecutor::new(random, latencies, trace.clone(), hooks);
        let count = Arc::new(AtomicU64::new(0));
        executor
            .start(spec("w", steps(&count, Step::Again)))
            .unwrap();
        sleep(Duration::from_secs(20)).await;
        // One step, a panic, a restart, one step, and then it stalls.
        assert_eq!(count.load(Ordering::SeqCst), 2);
        executor.kill_all();
    });
}
