//! The harness itself: limits strike, faults strike where they should, probes and taps see everything.

use std::time::Duration;

use actix::Message;

use actors::executor::blocking;
use actors::guardian::{ExitCause, Guardian, Verdict};
use messages::failure::{CompactionStage, ScanPurpose};
use messages::{ChildName, FailureCause, Generation};
use storage::disk::{DiskErrorKind, OpenMode, Verb};

use super::*;

#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "u64")]
struct Ask(u64);

/// Does nothing but idle for a while.
struct Dozing;

impl Worker for Dozing {
    fn step(&mut self) -> Step {
        Step::IdleFor(Duration::from_secs(1))
    }
}

fn spec(
    name: &str,
    make: impl FnMut(Generation) -> Box<dyn Worker> + Send + 'static,
) -> WorkerSpec {
    WorkerSpec {
        name: ChildName::new(name),
        make: Box::new(make),
        guardian: std::sync::Arc::new(AlwaysRestart {
            after: Duration::from_millis(10),
        }),
    }
}

#[test]
fn a_run_that_waits_for_ever_is_stopped_by_virtual_time() {
    let never = World::run(3, |_| std::future::pending::<()>());
    let Err(RunError::TooLong { seed: 3, .. }) = never else {
        panic!("{never:?}");
    };
    let settings = WorldSettings {
        virtual_time_max: Duration::from_secs(60),
        ..WorldSettings::default()
    };
    let error = World::run_with(3, &settings, |world| async move {
        let executor = world.executor();
        executor
            .start(spec("dozing", |_| Box::new(Dozing)))
            .unwrap();
        std::future::pending::<()>().await;
    })
    .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("seed 3: no end after 60 s"), "{text}");
    assert!(text.contains("idle for"), "{text}");
}

/// Always has more to do.
struct Circling;

impl Worker for Circling {
    fn step(&mut self) -> Step {
        Step::Again
    }
}

#[test]
fn a_run_that_goes_in_circles_is_stopped_by_its_events() {
    let settings = WorldSettings {
        events_max: 1000,
        latencies: Latencies::all(0..=0),
        ..WorldSettings::default()
    };
    let error = World::run_with(4, &settings, |world| async move {
        let executor = world.executor();
        executor.start(spec("w", |_| Box::new(Circling))).unwrap();
        std::future::pending::<()>().await;
    })
    .unwrap_err();
    assert!(
        matches!(error, RunError::TooManyEvents { seed: 4, .. }),
        "{error}"
    );
}

#[test]
fn another_thread_makes_the_run_worthless() {
    let error = World::run(5, |_| async {
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    })
    .unwrap_err();
    assert!(
        matches!(error, RunError::NotDeterministic { seed: 5, .. }),
        "{error}"
    );
}

#[test]
fn a_panic_of_the_scenario_is_a_panic_of_the_run() {
    let panic = std::panic::catch_unwind(|| {
        World::run(6, |_| async {
            assert_eq!(1, 2, "as expected");
        })
    });
    assert!(panic.is_err());
}

#[test]
fn nothing_may_block_in_a_world() {
    let (inside, one_day) = World::run(7, |world| async move {
        world.sleep(Duration::from_secs(3600 * 23)).await;
        (blocking::check("x").is_err(), world.clock().monotonic())
    })
    .unwrap();
    assert!(inside);
    assert_eq!(one_day, Duration::from_secs(3600 * 23));
    assert_eq!(blocking::check("x"), Ok(()));
}

#[test]
fn the_wall_clock_jumps_and_the_other_does_not() {
    World::run(7, |world| async move {
        let clock = world.clock();
        let before = clock.since_epoch();
        world.sleep(Duration::from_secs(5)).await;
        assert_eq!(clock.since_epoch(), before + Duration::from_secs(5));
        clock.jump_back(Duration::from_secs(100));
        assert_eq!(clock.since_epoch() + Duration::from_secs(95), before);
        clock.jump_forward(Duration::from_secs(100));
        assert_eq!(clock.since_epoch(), before + Duration::from_secs(5));
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
    })
    .unwrap();
}

#[test]
fn a_probe_records_and_answers_as_told() {
    World::run(8, |_| async {
        let probe = Probe::start(|Ask(number)| number + 1);
        assert_eq!(probe.addr().send(Ask(1)).await.unwrap(), 2);
        probe.answer_with(|_| 100);
        assert_eq!(probe.recipient().send(Ask(2)).await.unwrap(), 100);
        assert_eq!(probe.received(), [Ask(1), Ask(2)]);
        let waiting = probe.clone();
        let third = actix::spawn(async move { waiting.await_received(3).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!third.is_finished());
        probe.recipient().try_send(Ask(3)).unwrap();
        assert_eq!(third.await.unwrap(), [Ask(1), Ask(2), Ask(3)]);
    })
    .unwrap();
}

#[test]
fn faults_strike_at_the_nth_and_once() {
    let settings = WorldSettings {
        late_permille: 0,
        ..WorldSettings::default()
    };
    World::run_with(9, &settings, |world| async move {
        let hooks = world.hooks();
        world.inject(Fault::ScanAt(2));
        world.inject(Fault::ScanFor(ScanPurpose::Warmup, 1));
        world.inject(Fault::CompactionPass(CompactionStage::Prepare));
        world.inject(Fault::FlushCommit(3));
        assert_eq!(world.faults_waiting(), 4);
        let scan = |purpose| hooks.fault(FaultPoint::Scan { purpose });
        assert_eq!(scan(ScanPurpose::Client), Ok(()));
        let second = scan(ScanPurpose::Backfill);
        assert!(matches!(second, Err(FailureCause::Injected(_))));
        assert_eq!(scan(ScanPurpose::Backfill), Ok(()));
        assert!(scan(ScanPurpose::Warmup).is_err());
        let compaction = |stage| hooks.fault(FaultPoint::Compaction { stage });
        assert_eq!(compaction(CompactionStage::Collection), Ok(()));
        assert!(compaction(CompactionStage::Prepare).is_err());
        assert_eq!(compaction(CompactionStage::Prepare), Ok(()));
        let flushes = (0..4).map(|_| hooks.fault(FaultPoint::FlushCommit).is_err());
        assert_eq!(flushes.collect::<Vec<_>>(), [false, false, true, false]);
        assert_eq!(world.faults_waiting(), 0);

        let (one, other) = (ChildName::new("one"), ChildName::new("other"));
        let deliver = |child: &ChildName| hooks.message(child, Generation(1), &Ask(0));
        world.inject(Fault::panic_on::<Ask>(2));
        let time = Duration::from_secs(9);
        world.inject(Fault::Stall {
            child: other.clone(),
            time,
        });
        assert_eq!(deliver(&one), Delivery::Handle);
        assert!(matches!(deliver(&one), Delivery::Panic(_)));
        assert_eq!(deliver(&one), Delivery::Handle);
        assert_eq!(deliver(&other), Delivery::After(time));
        assert_eq!(deliver(&other), Delivery::Handle);
    })
    .unwrap();
}

#[test]
fn a_disk_fault_strikes_the_disk() {
    World::run(9, |world| async move {
        let kind = DiskErrorKind::Full;
        let fault = DiskFault::fail(Verb::Write, "log.", 2, kind.clone());
        world.inject(Fault::Disk(fault));
        let disk = world.disk();
        let log = disk.open("log.00", OpenMode::CreateNew).unwrap();
        let other = disk.open("other", OpenMode::CreateNew).unwrap();
        for _ in 0..3 {
            other.write_at(b"x", 0).unwrap();
        }
        log.write_at(b"x", 0).unwrap();
        assert_eq!(log.write_at(b"x", 1).unwrap_err().kind, kind);
        log.write_at(b"x", 1).unwrap();
    })
    .unwrap();
}

/// Counts the lives of a worker.
#[derive(Debug, Default)]
struct Lives(parking_lot::Mutex<Vec<String>>);

impl Guardian for Lives {
    fn child_down(&self, _: &ChildName, generation: Generation, cause: ExitCause) -> Verdict {
        let mut lives = self.0.lock();
        lives.push(format!("{} {cause:?}", generation.0));
        Verdict::RestartAfter(Duration::from_millis(1))
    }

    fn child_up(&self, _: &ChildName, _: Generation) {}
}

#[test]
fn a_worker_is_made_to_panic_and_to_stall() {
    World::run(10, |world| async move {
        let lives = std::sync::Arc::new(Lives::default());
        let name = ChildName::new("dozing");
        world.inject(Fault::PanicIn {
            child: name.clone(),
            nth: 3,
        });
        let mut dozing = spec("dozing", |_| Box::new(Dozing));
        dozing.guardian = lives.clone();
        world.executor().start(dozing).unwrap();
        world.sleep(Duration::from_secs(60)).await;
        let fell = lives.0.lock().clone();
        assert_eq!(fell.len(), 1);
        assert!(
            fell[0].starts_with("1 Panicked(\"injected: PanicIn "),
            "{fell:?}"
        );
        let time = Duration::from_secs(1000);
        world.inject(Fault::Stall { child: name, time });
        let before = world.trace().events();
        world.sleep(Duration::from_secs(900)).await;
        assert!(world.trace().events() < before + 10);
    })
    .unwrap();
}

#[test]
fn taps_see_every_message_in_order() {
    World::run(11, |world| async move {
        let (log, asks) = (MessageLog::default(), MessagesOf::<Ask>::default());
        world.tap(log.clone());
        world.tap(asks.clone());
        let (one, hooks) = (ChildName::new("one"), world.hooks());
        for number in 0..3 {
            drop(hooks.message(&one, Generation(1), &Ask(number)));
            drop(hooks.message(&one, Generation(2), &"text"));
            world.sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(log.all().len(), 6);
        assert_eq!(log.all()[5].at, Duration::from_secs(2));
        assert_eq!(log.all()[5].type_name, std::any::type_name::<&str>());
        let asked: Vec<Ask> = asks.all().into_iter().map(|(_, ask)| ask).collect();
        assert_eq!(asked, [Ask(0), Ask(1), Ask(2)]);
    })
    .unwrap();
}

#[test]
fn a_power_cut_ends_workers_and_loses_what_is_not_synced() {
    let names = |world: World| async move {
        let disk = world.disk();
        let file = disk.open("synced", OpenMode::CreateNew).unwrap();
        file.write_at(b"kept", 0).unwrap();
        file.sync().unwrap();
        disk.sync_directory().unwrap();
        disk.open("unsynced", OpenMode::CreateNew).unwrap();
        world
            .executor()
            .start(spec("dozing", |_| Box::new(Dozing)))
            .unwrap();
        world.sleep(Duration::from_secs(10)).await;
        world.cut_power();
        assert_eq!(
            disk.list().unwrap_err().kind,
            DiskErrorKind::PowerCut,
            "the old disk is dead"
        );
        world.executor().all_ended().await;
        world.simulated_disk().files()
    };
    let mut kept = 0;
    for seed in 0..20 {
        let files = World::run(seed, names).unwrap();
        assert_eq!(files.get("synced").map(Vec::as_slice), Some(&b"kept"[..]));
        kept += usize::from(files.contains_key("unsynced"));
    }
    assert!((1..20).contains(&kept), "{kept}");
}
