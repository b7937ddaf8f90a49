//! The flusher as an actor, in virtual time: it does nothing unless woken, answers its messages when it is so, and a
//! life that panics is followed by one that loses nothing and leaves nobody waiting (rules R18, R19, R22).
#![cfg(test)]
#![cfg(feature = "testing")]

mod disk_side;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use actix::Addr;
use bytes::Bytes;

use disk_side::rig::{SHAPE, create, handle};
use disk_side::table::Table;
use disk_side::vbucket::key;
use disk_side::{Told, workers};
use messages::flusher::{FlushNow, FlushReport, PauseFlushing, ResumeFlushing, StopFlushing};
use messages::vbucket::{Set, WriteOptions};
use messages::{ChildName, DownCause, Generation, OperationError};
use piggin_actors::backoff::Backoff;
use piggin_actors::environment::Environment;
use piggin_actors::executor::WakeWorker;
use piggin_actors::flusher::{
    FlushLimits, FlushTake, Flushable, FlushedVbucket, FlusherConfig, FlusherCore, FlusherEdge,
};
use piggin_actors::guardian::{ExitCause, Guardian, Verdict};
use piggin_actors::hooks::Hooks;
use piggin_actors::shell::{self, Shell, ShellConfig};
use piggin_actors::simulation::{
    Latencies, SimulatedClock, SimulatedExecutor, SimulatedRandom, Trace,
};
use piggin_actors::store_handle::StoreHandle;
use piggin_actors::vbucket::checkpoint::CheckpointLimits;
use piggin_actors::vbucket::{DirtyVbuckets, VbucketCore};
use piggin_actors::warmup::{Absent, Warmup, WarmupConfig};
use storage::Seqno;
use storage::disk::{Disk, DiskErrorKind, Fault, SimulatedDisk, Verb};

#[derive(Debug)]
struct Restart;

impl Guardian for Restart {
    fn child_down(&self, _: &ChildName, _: Generation, cause: ExitCause) -> Verdict {
        if cause == ExitCause::Finished {
            return Verdict::StayDown;
        }
        Verdict::RestartAfter(Duration::from_millis(10))
    }

    fn child_up(&self, _: &ChildName, _: Generation) {}
}

/// A vbucket whose takes panic when asked to.
#[derive(Debug)]
struct Fragile {
    core: Arc<VbucketCore>,
    fuse: Arc<AtomicI64>,
}

impl Flushable for Fragile {
    fn take_for_flush(&self, items_max: usize, bytes_max: usize) -> Option<FlushTake> {
        let taken = self.core.take_for_flush(items_max, bytes_max);
        let left = self.fuse.fetch_sub(1, Ordering::SeqCst);
        assert!(left != 0, "asked for by the test");
        taken
    }

    fn note_persisted(&self, seqno: Seqno) {
        self.core.note_persisted(seqno);
    }

    fn resync(&self, persisted: Seqno) {
        self.core.resync(persisted);
    }

    fn has_unflushed(&self) -> bool {
        self.core.has_unflushed()
    }

    fn high_seqno(&self) -> Seqno {
        self.core.high_seqno()
    }

    fn persisted_seqno(&self) -> Seqno {
        self.core.persisted_seqno()
    }

    fn settled_seqno(&self) -> Seqno {
        self.core.settled_seqno()
    }

    fn set_disk_full(&self, is_full: bool) {
        self.core.set_disk_full(is_full);
    }

    fn down(&self) -> Option<DownCause> {
        self.core.down()
    }

    fn take_down(&self, cause: DownCause) {
        self.core.take_down(cause);
    }

    fn bring_up(&self) {
        self.core.bring_up();
    }
}

struct Engine {
    cores: Vec<Arc<VbucketCore>>,
    flusher: Addr<Shell<FlusherCore>>,
    disk: SimulatedDisk,
    fuse: Arc<AtomicI64>,
    told: Arc<Told>,
    trace: Trace,
}

async fn warm(
    environment: &Environment,
    store: &StoreHandle,
    disk: Arc<dyn Disk>,
    dirty: &Arc<DirtyVbuckets>,
    guardian: &Arc<dyn Guardian>,
) -> Vec<Arc<VbucketCore>> {
    let table = Table::new(environment.clone(), dirty, CheckpointLimits::default());
    let warmup = Warmup::new(WarmupConfig {
        name: ChildName::new("warmup"),
        store: store.clone(),
        disk,
        environment: environment.clone(),
        backoff: Backoff::DISK,
        table: Arc::<Table>::clone(&table),
        absent: Absent::Skip,
        step_bytes: 4 << 10,
    });
    let ended = warmup.wait();
    warmup.start(2, guardian).unwrap();
    assert!(ended.await.unwrap().unwrap().is_writable);
    table.cores()
}

async fn engine(seed: u64) -> Engine {
    let clock = SimulatedClock::start();
    let trace = Trace::new(clock.clone(), 1000, 1_000_000);
    let random = SimulatedRandom::new(seed);
    let executor = SimulatedExecutor::new(
        random.stream("executor"),
        Latencies::default(),
        trace.clone(),
        Hooks::none(),
    );
    let told: Arc<Told> = Arc::default();
    let environment = Environment {
        clock: Arc::new(clock),
        random: Arc::new(random),
        failures: Arc::<Told>::clone(&told),
        executor: Arc::new(executor),
        hooks: Hooks::none(),
    };
    let disk = SimulatedDisk::new();
    let as_dyn: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = handle(&as_dyn, create(&as_dyn));
    let guardian: Arc<dyn Guardian> = Arc::new(Restart);
    let backoff = Backoff::DISK;
    let writers = workers::start(&environment, &store, &guardian, backoff, SHAPE.log_shards);
    let dirty = Arc::new(DirtyVbuckets::new(SHAPE.vbuckets));
    let cores = warm(&environment, &store, as_dyn, &dirty, &guardian).await;
    let fuse = Arc::new(AtomicI64::new(-1));
    let vbuckets = cores.iter().map(|core| FlushedVbucket {
        id: core.id(),
        vbucket: Arc::new(Fragile {
            core: Arc::clone(core),
            fuse: Arc::clone(&fuse),
        }),
        log_shard: core.id().get() % SHAPE.log_shards,
    });
    let edge = FlusherEdge::new();
    let of_store = Arc::clone(&edge);
    store.watch(WakeWorker::new(move || of_store.nudge()));
    let config = FlusherConfig {
        name: ChildName::new("flusher-0"),
        environment,
        limits: FlushLimits {
            items_max: 10,
            batches_per_slice: 1,
            ..FlushLimits::default()
        },
        vbuckets: vbuckets.collect(),
        writers,
        edge,
        dirty: Arc::<DirtyVbuckets>::clone(&dirty),
        store,
    };
    let shell = ShellConfig::new(config.name.clone(), guardian);
    let make = move |generation| FlusherCore::new(config.clone(), generation);
    let flusher = shell::start(&actix::Arbiter::current(), shell, make);
    piggin_actors::flusher::actor::wake_with(&dirty, flusher.clone().recipient());
    Engine {
        cores,
        flusher,
        disk,
        fuse,
        told,
        trace,
    }
}

impl Engine {
    fn write(&self, number: u64) -> (usize, Seqno) {
        let index = usize::try_from(number).unwrap() % self.cores.len();
        let request = Set {
            key: key(number % 50),
            value: Bytes::copy_from_slice(&number.to_le_bytes()),
            options: WriteOptions::default(),
        };
        (index, self.cores[index].set(request).unwrap().token.seqno)
    }

    async fn write_durably(&self, number: u64) {
        let (index, seqno) = self.write(number);
        let persisted = self.cores[index].wait_persisted(seqno).unwrap();
        tokio::time::timeout(Duration::from_secs(60), persisted)
            .await
            .unwrap_or_else(|_| panic!("write {number} is forgotten"))
            .unwrap();
    }
}

/// Runs a scenario on actix in paused time.
fn simulate<F: Future<Output = ()> + 'static>(
    seeds: std::ops::Range<u64>,
    scenario: impl Fn(Engine) -> F,
) {
    for seed in seeds {
        let system = actix::System::with_tokio_rt(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap()
        });
        system.block_on(async {
            let engine = engine(seed).await;
            let trace = engine.trace.clone();
            scenario(engine).await;
            drop(trace);
        });
    }
}

#[test]
fn what_is_written_is_flushed_without_being_asked() {
    simulate(0..10, |engine| async move {
        for number in 0..40 {
            engine.write(number);
            engine.write_durably(number + 100).await;
        }
        assert_eq!(engine.told.count(), 0);
    });
}

#[test]
fn messages_are_answered_when_it_is_so() {
    simulate(0..10, |engine| async move {
        let flusher = &engine.flusher;
        engine.write_durably(1).await;
        assert_eq!(flusher.send(PauseFlushing).await.unwrap(), Ok(()));
        let (index, seqno) = engine.write(2);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(
            engine.cores[index].persisted_seqno() < seqno,
            "it is paused"
        );
        assert_eq!(flusher.send(ResumeFlushing).await.unwrap(), Ok(()));
        let all = flusher.send(FlushNow { vbucket: None }).await.unwrap();
        assert_eq!(all, Ok(()));
        for core in &engine.cores {
            assert_eq!(core.persisted_seqno(), core.high_seqno());
        }
        for number in 0..100 {
            engine.write(number);
        }
        let within = Duration::from_secs(10);
        let stopped = flusher.send(StopFlushing { within }).await.unwrap();
        assert_eq!(stopped, Ok(FlushReport::default()));
        let late = flusher.send(FlushNow { vbucket: None }).await.unwrap();
        assert_eq!(late, Err(OperationError::Closed));
    });
}

#[test]
fn a_stop_on_a_broken_disk_says_in_time_what_is_missing() {
    simulate(0..10, |engine| async move {
        let broken = Fault::failed_call(DiskErrorKind::Other("broken".into()));
        engine.disk.inject(broken.clone().on(Verb::Write).lasting());
        engine.disk.inject(broken.on(Verb::Open).lasting());
        let (index, high) = engine.write(1);
        let before = tokio::time::Instant::now();
        let within = Duration::from_secs(7);
        let stopped = engine.flusher.send(StopFlushing { within }).await.unwrap();
        assert!(before.elapsed() < Duration::from_secs(8));
        let report = stopped.unwrap();
        assert_eq!(report.unpersisted.len(), 1);
        assert_eq!(report.unpersisted[0].vbucket, engine.cores[index].id());
        assert_eq!(report.unpersisted[0].high, high);
    });
}

#[test]
fn a_life_that_panics_is_followed_by_one_that_loses_nothing() {
    std::panic::set_hook(Box::new(|info| {
        let text = info
            .payload()
            .downcast_ref::<&str>()
            .copied()
            .unwrap_or_default();
        if text != "asked for by the test" {
            println!("{info}");
        }
    }));
    simulate(0..25, |engine| async move {
        for number in 0..60u64 {
            if number % 12 == 5 {
                engine
                    .fuse
                    .store(i64::try_from(number % 7).unwrap(), Ordering::SeqCst);
            }
            engine.write(number);
            engine.write_durably(number + 1000).await;
        }
        assert!(engine.fuse.load(Ordering::SeqCst) < 0, "it has panicked");
        // Whoever waits while a life ends is told, and may ask the next.
        engine.fuse.store(0, Ordering::SeqCst);
        engine.write(1);
        let flushed = engine
            .flusher
            .send(FlushNow { vbucket: None })
            .await
            .unwrap();
        drop(flushed);
        let again = engine
            .flusher
            .send(FlushNow { vbucket: None })
            .await
            .unwrap();
        assert_eq!(again, Ok(()));
        for core in &engine.cores {
            assert_eq!(core.persisted_seqno(), core.high_seqno());
        }
    });
}
