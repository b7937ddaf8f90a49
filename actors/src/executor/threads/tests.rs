//! Workers on threads: what is kept across wakes, panics and stops. Nothing here sleeps; a test waits for what it expects.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use messages::Generation;

use super::*;
use crate::executor::{MakeWorker, Worker};
use crate::guardian::{ExitCause, Guardian, Verdict};

/// Long enough for any machine: a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Up(u64),
    Down(u64, ExitCause),
}

/// Gives its verdicts in order, then says to stay down; tells the test what it was told.
#[derive(Debug)]
struct Scripted {
    verdicts: Mutex<VecDeque<Verdict>>,
    told: Mutex<Sender<Told>>,
}

fn guardian(verdicts: &[Verdict]) -> (Arc<Scripted>, Receiver<Told>) {
    let (told, hears) = channel();
    let scripted = Scripted {
        verdicts: Mutex::new(verdicts.iter().copied().collect()),
        told: Mutex::new(told),
    };
    (Arc::new(scripted), hears)
}

impl Guardian for Scripted {
    fn child_down(&self, _: &ChildName, generation: Generation, cause: ExitCause) -> Verdict {
        self.told.lock().send(Told::Down(generation.0, cause)).ok();
        let next = self.verdicts.lock().pop_front();
        next.unwrap_or(Verdict::StayDown)
    }

    fn child_up(&self, _: &ChildName, generation: Generation) {
        self.told.lock().send(Told::Up(generation.0)).ok();
    }
}

/// A worker made of a closure; tells when it is dropped.
struct Closure<F> {
    step: F,
    _dropped: Sender<()>,
}

impl<F: FnMut() -> Step + Send> Worker for Closure<F> {
    fn step(&mut self) -> Step {
        (self.step)()
    }
}

fn spec(name: &str, guardian: Arc<Scripted>, make: MakeWorker) -> WorkerSpec {
    WorkerSpec {
        name: ChildName::new(name),
        make,
        guardian,
    }
}

fn worker(step: impl FnMut() -> Step + Send + 'static) -> Box<dyn Worker> {
    let (dropped, _) = channel();
    Box::new(Closure {
        step,
        _dropped: dropped,
    })
}

/// A worker that counts its steps and idles after each.
fn counting(steps: &Arc<AtomicU64>, seen: Sender<u64>, idle: Step) -> MakeWorker {
    let steps = Arc::clone(steps);
    Box::new(move |_| {
        let (steps, seen) = (Arc::clone(&steps), seen.clone());
        worker(move || {
            seen.send(steps.fetch_add(1, Ordering::SeqCst) + 1).ok();
            idle
        })
    })
}

/// Says how its thread counts beside others.
#[cfg(target_os = "linux")]
struct Polite {
    gives_way: bool,
    says: Sender<i32>,
}

#[cfg(target_os = "linux")]
impl Worker for Polite {
    fn step(&mut self) -> Step {
        let nice = rustix::process::getpriority_process(None).unwrap();
        self.says.send(nice).ok();
        Step::Idle
    }

    fn gives_way(&self) -> bool {
        self.gives_way
    }
}

#[cfg(target_os = "linux")]
#[test]
fn who_gives_way_does_so_on_its_own_thread_alone() {
    let here = rustix::process::getpriority_process(None).unwrap();
    let executor = ThreadExecutor::new();
    for (gives_way, expected) in [(true, here.max(5)), (false, here)] {
        let (guardian, _told) = guardian(&[]);
        let (says, said) = channel();
        let make: MakeWorker = Box::new(move |_| {
            let says = says.clone();
            Box::new(Polite { gives_way, says })
        });
        drop(executor.start(spec("polite", guardian, make)).unwrap());
        assert_eq!(said.recv_timeout(PATIENCE).unwrap(), expected);
    }
    assert_eq!(rustix::process::getpriority_process(None).unwrap(), here);
}

#[test]
fn a_wake_before_the_worker_idles_is_not_lost() {
    let executor = ThreadExecutor::new();
    let (guardian, _told) = guardian(&[]);
    let (in_step, entered) = channel();
    let (go, gone) = channel::<()>();
    let gone = Arc::new(Mutex::new(gone));
    let make: MakeWorker = Box::new(move |_| {
        let (in_step, gone) = (in_step.clone(), Arc::clone(&gone));
        worker(move || {
            in_step.send(()).ok();
            gone.lock().recv().ok();
            Step::Idle
        })
    });
    let wake = executor.start(spec("w", guardian, make)).unwrap();
    for _ in 0..100 {
        entered.recv_timeout(PATIENCE).unwrap();
        // The worker is inside its step, and will say that it idles.
        wake.wake();
        wake.wake();
        go.send(()).unwrap();
    }
    entered.recv_timeout(PATIENCE).unwrap();
    drop(go);
    assert!(executor.stop_within(PATIENCE).is_complete());
}

#[test]
fn wakes_from_many_threads_are_all_heard() {
    let executor = ThreadExecutor::new();
    let (guardian, _told) = guardian(&[]);
    let sum = Arc::new(Mutex::new(0_u64));
    let (done, all) = channel();
    let seen = Arc::clone(&sum);
    let make: MakeWorker = Box::new(move |_| {
        let (seen, done) = (Arc::clone(&seen), done.clone());
        worker(move || {
            if *seen.lock() == 4000 {
                done.send(()).ok();
            }
            Step::Idle
        })
    });
    let wake = executor.start(spec("w", guardian, make)).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    *sum.lock() += 1;
                    wake.wake();
                }
            });
        }
    });
    // Whoever changed the shared state last woke the worker after it.
    all.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn an_idle_worker_does_no_steps() {
    let executor = ThreadExecutor::new();
    let (guardian, told) = guardian(&[]);
    let steps = Arc::new(AtomicU64::new(0));
    let (seen, done) = channel();
    let wake = executor
        .start(spec("w", guardian, counting(&steps, seen, Step::Idle)))
        .unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Told::Up(1));
    assert_eq!(done.recv_timeout(PATIENCE).unwrap(), 1);
    wake.wake();
    assert_eq!(done.recv_timeout(PATIENCE).unwrap(), 2);
    assert!(executor.stop_within(PATIENCE).is_complete());
    assert_eq!(steps.load(Ordering::SeqCst), 2);
}

#[test]
fn a_worker_that_idles_for_a_time_steps_again_after_it() {
    let executor = ThreadExecutor::new();
    let (guardian, _told) = guardian(&[]);
    let steps = Arc::new(AtomicU64::new(0));
    let (seen, done) = channel();
    let idle = Step::IdleFor(Duration::from_millis(1));
    executor
        .start(spec("w", guardian, counting(&steps, seen, idle)))
        .unwrap();
    for step in 1..=3 {
        assert_eq!(done.recv_timeout(PATIENCE).unwrap(), step);
    }
}

#[test]
fn a_panicked_worker_is_made_anew_with_a_higher_generation() {
    let executor = ThreadExecutor::new();
    let again = Verdict::RestartAfter(Duration::ZERO);
    let (guardian, told) = guardian(&[again, again, again]);
    let make: MakeWorker = Box::new(|generation| {
        assert_ne!(generation, Generation(2), "no second life");
        worker(move || panic!("in life {}", generation.0))
    });
    executor.start(spec("w", guardian, make)).unwrap();
    let panicked = |text: &str| ExitCause::Panicked(text.to_owned());
    let mut heard = Vec::new();
    for _ in 0..7 {
        heard.push(told.recv_timeout(PATIENCE).unwrap());
    }
    let second = heard.remove(2);
    let expected = [
        Told::Up(1),
        Told::Down(1, panicked("in life 1")),
        Told::Up(3),
        Told::Down(3, panicked("in life 3")),
        Told::Up(4),
        Told::Down(4, panicked("in life 4")),
    ];
    assert_eq!(heard, expected);
    let Told::Down(2, ExitCause::Panicked(text)) = second else {
        panic!("{second:?}");
    };
    assert!(text.contains("no second life"), "{text}");
    // The fourth verdict is to stay down.
    executor.roll.wait_for(PATIENCE);
    assert_eq!(executor.running(), []);
}

/// Its drop panics too.
struct Cursed;

impl Worker for Cursed {
    fn step(&mut self) -> Step {
        Step::Ended
    }
}

impl Drop for Cursed {
    fn drop(&mut self) {
        panic!("in drop");
    }
}

#[test]
fn a_panic_in_drop_is_told_like_any_other() {
    let executor = ThreadExecutor::new();
    let (guardian, told) = guardian(&[]);
    executor
        .start(spec("w", guardian, Box::new(|_| Box::new(Cursed))))
        .unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Told::Up(1));
    let cause = ExitCause::Panicked("in drop".to_owned());
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Told::Down(1, cause));
    executor.roll.wait_for(PATIENCE);
    assert_eq!(executor.running(), []);
}

#[test]
fn work_that_is_done_is_told_as_such_and_begun_again_if_the_guardian_says_so() {
    let executor = ThreadExecutor::new();
    let (guardian, told) = guardian(&[Verdict::RestartAfter(Duration::ZERO), Verdict::StayDown]);
    let make: MakeWorker = Box::new(|_| worker(|| Step::Ended));
    executor.start(spec("w", guardian, make)).unwrap();
    for life in 1..=2 {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Told::Up(life));
        let down = Told::Down(life, ExitCause::Finished);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), down);
    }
    // Nothing is left of it, though nobody stopped it.
    executor.roll.wait_for(PATIENCE);
    assert_eq!(executor.running(), []);
}

#[test]
fn waiting_for_a_restart_ends_with_a_stop_but_not_with_a_wake() {
    let executor = ThreadExecutor::new();
    let (guardian, told) = guardian(&[Verdict::RestartAfter(Duration::from_secs(3600))]);
    let make: MakeWorker = Box::new(|_| worker(|| panic!("once")));
    let wake = executor.start(spec("w", guardian, make)).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Told::Up(1));
    told.recv_timeout(PATIENCE).unwrap();
    wake.wake();
    // No second life comes of the wake.
    assert!(told.recv_timeout(Duration::from_millis(100)).is_err());
    assert!(executor.stop_within(PATIENCE).is_complete());
    assert!(told.try_recv().is_err());
}

#[test]
fn a_stop_reports_who_did_not_end_in_time() {
    let executor = ThreadExecutor::new();
    let (guardian, _told) = guardian(&[]);
    let (in_step, entered) = channel();
    let (go, gone) = channel::<()>();
    let gone = Arc::new(Mutex::new(gone));
    let stuck: MakeWorker = Box::new(move |_| {
        let (in_step, gone) = (in_step.clone(), Arc::clone(&gone));
        worker(move || {
            in_step.send(()).ok();
            gone.lock().recv().ok();
            Step::Idle
        })
    });
    let idle: MakeWorker = Box::new(|_| worker(|| Step::Idle));
    executor
        .start(spec("idle", Arc::clone(&guardian), idle))
        .unwrap();
    executor
        .start(spec("stuck", Arc::clone(&guardian), stuck))
        .unwrap();
    entered.recv_timeout(PATIENCE).unwrap();
    let report = executor.stop_within(Duration::from_millis(200));
    assert_eq!(report.still_running, [ChildName::new("stuck")]);
    drop(go);
    assert!(executor.stop_within(PATIENCE).is_complete());
    let late: MakeWorker = Box::new(|_| worker(|| Step::Idle));
    let refused = executor.start(spec("late", guardian, late)).unwrap_err();
    assert!(refused.to_string().contains("stopped"), "{refused}");
}

#[test]
fn a_worker_is_dropped_before_it_counts_as_ended() {
    let executor = ThreadExecutor::new();
    let (guardian, _told) = guardian(&[]);
    let (dropped, hears) = channel::<()>();
    let dropped = Mutex::new(Some(dropped));
    let make: MakeWorker = Box::new(move |_| {
        Box::new(Closure {
            step: || Step::Idle,
            _dropped: dropped.lock().take().unwrap(),
        })
    });
    executor.start(spec("w", guardian, make)).unwrap();
    assert!(executor.stop_within(PATIENCE).is_complete());
    assert!(
        hears
            .try_recv()
            .is_err_and(|error| { error == std::sync::mpsc::TryRecvError::Disconnected })
    );
}

#[test]
fn dropping_the_executor_stops_all_and_waits_for_nobody() {
    let executor = ThreadExecutor::new();
    let roll = Arc::clone(&executor.roll);
    let (guardian, _told) = guardian(&[]);
    let (in_step, entered) = channel();
    let (go, gone) = channel::<()>();
    let gone = Arc::new(Mutex::new(gone));
    let make: MakeWorker = Box::new(move |_| {
        let (in_step, gone) = (in_step.clone(), Arc::clone(&gone));
        worker(move || {
            in_step.send(()).ok();
            gone.lock().recv().ok();
            Step::Again
        })
    });
    executor.start(spec("w", guardian, make)).unwrap();
    entered.recv_timeout(PATIENCE).unwrap();
    drop(executor);
    assert_eq!(roll.names().len(), 1);
    drop(go);
    roll.wait_for(PATIENCE);
    assert_eq!(roll.names(), []);
}

#[test]
fn the_end_of_all_can_be_awaited() {
    let executor = ThreadExecutor::new();
    let (guardian, _told) = guardian(&[]);
    for _ in 0..4 {
        let make: MakeWorker = Box::new(|_| worker(|| Step::Idle));
        executor
            .start(spec("w", Arc::clone(&guardian), make))
            .unwrap();
    }
    let ended = executor.all_ended();
    executor.stop();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(ended);
    assert_eq!(executor.running(), []);
    runtime.block_on(executor.all_ended());
}

#[test]
fn no_thread_is_started_from_a_simulation() {
    let executor = ThreadExecutor::new();
    let (guardian, _told) = guardian(&[]);
    let forbid = blocking::Forbid::new();
    let make: MakeWorker = Box::new(|_| worker(|| Step::Idle));
    let refused = executor.start(spec("w", guardian, make)).unwrap_err();
    assert!(refused.to_string().contains("simulation"), "{refused}");
    drop(forbid);
    assert_eq!(blocking::check("anything"), Ok(()));
}
