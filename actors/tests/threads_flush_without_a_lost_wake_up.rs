//! On threads, as in production: clients write, a flusher sleeps unless it is woken, writers and maintenance idle unless
//! they are woken, and everybody who waits for the disk is answered, also while the store is opened anew underneath
//! (rule R18, MB-36380). A wake-up that got lost would leave somebody waiting.
#![cfg(test)]

mod disk_side;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use disk_side::table::Table;
use disk_side::vbucket::key;
use disk_side::{Told, workers};
use messages::vbucket::{Set, WriteOptions};
use messages::{ChildName, Generation, OperationError};
use piggin_actors::backoff::Backoff;
use piggin_actors::environment::{Clock, Environment};
use piggin_actors::executor::threads::ThreadExecutor;
use piggin_actors::flusher::{
    FlushLimits, FlushedVbucket, Flusher, FlusherConfig, FlusherEdge, Stage,
};
use piggin_actors::guardian::{ExitCause, Guardian, Verdict};
use piggin_actors::hooks::Hooks;
use piggin_actors::store_handle::StoreHandle;
use piggin_actors::system::{SystemClock, SystemRandom};
use piggin_actors::vbucket::checkpoint::CheckpointLimits;
use piggin_actors::vbucket::{DirtyVbuckets, VbucketCore, WakeFlusher, WakeSent};
use piggin_actors::warmup::{Absent, CleanMark, Warmup, WarmupConfig};
use piggin_actors::writer;
use storage::disk::{Disk, DiskErrorKind, Fault, SimulatedDisk, Verb};
use storage::{CreateOptions, KvStore, LogStore, OpenOptions, StorageError};

const SHAPE: CreateOptions = CreateOptions::of(8, 2);
const CLIENTS: u64 = 3;
const WRITES: u64 = 1500;

#[derive(Debug)]
struct Restart;

impl Guardian for Restart {
    fn child_down(&self, _: &ChildName, _: Generation, cause: ExitCause) -> Verdict {
        assert_eq!(cause, ExitCause::Finished);
        Verdict::StayDown
    }

    fn child_up(&self, _: &ChildName, _: Generation) {}
}

fn options(entropy: u64) -> OpenOptions {
    OpenOptions {
        log_file_bytes_min: 64 << 10,
        log_file_bytes_max: 64 << 10,
        unsealed_bytes: 64 << 10,
        ..OpenOptions::new(entropy)
    }
}

fn open_store(disk: &SimulatedDisk) -> StoreHandle {
    let seen: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = match LogStore::open(Arc::clone(&seen), options(1)) {
        Err(StorageError::NoStore) => LogStore::create(Arc::clone(&seen), SHAPE, options(1)),
        opened => opened,
    };
    let entropy = AtomicU64::new(2);
    let open = move || {
        let entropy = entropy.fetch_add(1, Ordering::SeqCst);
        LogStore::open(Arc::clone(&seen), options(entropy))
    };
    StoreHandle::new(store.unwrap(), Box::new(open))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let limit = Duration::from_secs(30);
    runtime.block_on(async {
        tokio::time::timeout(limit, future)
            .await
            .expect("never answered")
    })
}

/// Sleeps unless it is woken, or a time it asked for has come.
fn flush(mut flusher: Flusher, clock: &dyn Clock, wakes: &Receiver<()>, must_stop: &AtomicBool) {
    let mut is_stopping = false;
    loop {
        if must_stop.load(Ordering::SeqCst) && !is_stopping {
            is_stopping = true;
            drop(flusher.stop(Duration::from_secs(20)));
        }
        let left = flusher.look();
        if flusher.stage() == Stage::Stopped {
            return;
        }
        if left.is_more {
            continue;
        }
        match left.at {
            // Somebody always writes or waits here: so long a sleep means a wake-up was lost.
            None => wakes.recv_timeout(Duration::from_secs(60)).unwrap(),
            Some(at) => match wakes.recv_timeout(at.saturating_sub(clock.monotonic())) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("nobody can wake it"),
            },
        }
    }
}

fn write(client: u64, cores: &[Arc<VbucketCore>]) {
    for number in 0..WRITES {
        let core = &cores[usize::try_from((number * 7 + client) % cores.len() as u64).unwrap()];
        let request = Set {
            key: key(client * 1000 + number % 200),
            value: Bytes::copy_from_slice(&number.to_le_bytes().repeat(8)),
            options: WriteOptions::default(),
        };
        let seqno = loop {
            match core.set(request.clone()) {
                Ok(mutated) => break mutated.token.seqno,
                Err(OperationError::TemporaryFailure(_)) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        if number % 10 == 0 {
            block_on(core.wait_persisted(seqno).unwrap()).unwrap();
        }
    }
}

fn wake_up(wakes: &Sender<()>) {
    // Full: one is under way already.
    wakes.try_send(()).unwrap_or_default();
}

struct Bucket {
    cores: Vec<Arc<VbucketCore>>,
    store: StoreHandle,
    executor: Arc<ThreadExecutor>,
    environment: Environment,
    told: Arc<Told>,
    dirty: Arc<DirtyVbuckets>,
    writers: Vec<writer::WriterLink>,
}

fn open(disk: &SimulatedDisk) -> Bucket {
    let executor = Arc::new(ThreadExecutor::new());
    let told: Arc<Told> = Arc::default();
    let environment = Environment {
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(SystemRandom::new().unwrap()),
        failures: Arc::<Told>::clone(&told),
        executor: Arc::<ThreadExecutor>::clone(&executor),
        hooks: Hooks::none(),
    };
    let store = open_store(disk);
    let guardian: Arc<dyn Guardian> = Arc::new(Restart);
    let backoff = Backoff {
        first: Duration::from_millis(2),
        longest: Duration::from_millis(20),
    };
    let writers = workers::start(&environment, &store, &guardian, backoff, SHAPE.log_shards);
    let dirty = Arc::new(DirtyVbuckets::new(SHAPE.vbuckets));
    let table = Table::new(environment.clone(), &dirty, CheckpointLimits::default());
    let warmup = Warmup::new(WarmupConfig {
        name: ChildName::new("warmup"),
        store: store.clone(),
        disk: Arc::new(disk.clone()),
        environment: environment.clone(),
        backoff,
        table: Arc::<Table>::clone(&table),
        absent: Absent::Create,
        step_bytes: 4 << 10,
    });
    let ended = warmup.wait();
    warmup.start(3, &guardian).unwrap();
    let end = block_on(ended).unwrap().unwrap();
    assert!(end.is_writable && end.down.is_empty());
    let cores = table.cores();
    Bucket {
        cores,
        store,
        executor,
        environment,
        told,
        dirty,
        writers,
    }
}

/// Clients write while `meanwhile` is done; then everything is stopped in order.
fn run(disk: &SimulatedDisk, meanwhile: impl FnOnce(&Bucket)) -> Bucket {
    let bucket = open(disk);
    let edge = FlusherEdge::new();
    let (wake, wakes) = bounded(1);
    let vbuckets = bucket.cores.iter().map(|core| FlushedVbucket {
        id: core.id(),
        vbucket: Arc::<VbucketCore>::clone(core),
        log_shard: core.id().get() % SHAPE.log_shards,
    });
    let config = FlusherConfig {
        name: ChildName::new("flusher-0"),
        environment: bucket.environment.clone(),
        limits: FlushLimits {
            items_max: 20,
            ..FlushLimits::default()
        },
        vbuckets: vbuckets.collect(),
        writers: bucket.writers.clone(),
        edge: Arc::clone(&edge),
        dirty: Arc::<DirtyVbuckets>::clone(&bucket.dirty),
        store: bucket.store.clone(),
    };
    let (of_edge, of_dirty, of_stop, of_store) =
        (wake.clone(), wake.clone(), wake.clone(), Arc::clone(&edge));
    edge.connect(move || {
        wake_up(&of_edge);
        true
    });
    bucket.dirty.set_waker(WakeFlusher::new(move || {
        wake_up(&of_dirty);
        WakeSent::Delivered
    }));
    bucket
        .store
        .watch(piggin_actors::executor::WakeWorker::new(move || {
            of_store.nudge();
        }));
    let must_stop = AtomicBool::new(false);
    let flusher = Flusher::new(config, Generation(1));
    let clock = Arc::clone(&bucket.environment.clock);
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| flush(flusher, &*clock, &wakes, &must_stop));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let cores = &bucket.cores;
                scope.spawn(move || write(client, cores))
            })
            .collect();
        meanwhile(&bucket);
        for client in clients {
            client.join().unwrap();
        }
        must_stop.store(true, Ordering::SeqCst);
        wake_up(&of_stop);
        flushing.join().unwrap();
    });
    drop(wake);
    for core in &bucket.cores {
        assert_eq!(core.persisted_seqno(), core.high_seqno());
    }
    assert!(
        bucket
            .executor
            .stop_within(Duration::from_secs(10))
            .is_complete()
    );
    bucket
}

#[test]
fn everybody_who_waits_is_answered() {
    let disk = SimulatedDisk::new();
    let bucket = run(&disk, |_| {});
    assert_eq!(bucket.told.count(), 0);
    let of = disk.clone();
    let closed = bucket
        .store
        .close(|vbuckets| CleanMark::write(&of, vbuckets));
    assert_eq!(closed, Some(Ok(())));
    // The next life finds it all, and no new branch: the end was clean.
    let next = open(&disk.crash_losing_everything_unsynced());
    for (before, after) in bucket.cores.iter().zip(&next.cores) {
        assert_eq!(before.high_seqno(), after.high_seqno());
        assert_eq!(before.figures().documents, after.figures().documents);
    }
    assert!(
        next.executor
            .stop_within(Duration::from_secs(10))
            .is_complete()
    );
}

#[test]
fn a_store_opened_anew_underneath_loses_nobody() {
    let disk = SimulatedDisk::new();
    let bucket = run(&disk, |bucket| {
        for _ in 0..5 {
            let before = bucket.store.generation();
            bucket.store.recall(before, StorageError::Closed);
            while bucket.store.generation() == before {
                std::thread::yield_now();
            }
        }
    });
    assert!(bucket.store.generation().0 >= 6);
    let lease = bucket.store.lease().unwrap();
    for core in &bucket.cores {
        let stored = lease.store().state(core.id()).unwrap();
        assert_eq!(stored.watermarks.high_seqno, core.high_seqno());
    }
}

#[test]
fn a_disk_that_fails_now_and_then_loses_nobody() {
    let disk = SimulatedDisk::new();
    let of = disk.clone();
    let bucket = run(&disk, move |_| {
        for n in 1..40 {
            let kind = match n % 3 {
                0 => DiskErrorKind::Full,
                1 => DiskErrorKind::Other("broken".into()),
                _ => DiskErrorKind::NotFound,
            };
            of.inject(Fault::failed_call(kind).on(Verb::Write).nth(n));
            of.inject(
                Fault::failed_call(DiskErrorKind::Full)
                    .on(Verb::Open)
                    .nth(1 + n % 4),
            );
            std::thread::yield_now();
        }
    });
    let lease = bucket.store.lease().unwrap();
    for core in &bucket.cores {
        let stored = lease.store().state(core.id()).unwrap();
        assert_eq!(stored.watermarks.high_seqno, core.high_seqno());
    }
}
