//! Between any two disk calls of a job another thread may do all the maintenance there is; nothing is taken from the
//! job, and nothing is lost.
//!
//! What threads only meet by chance is done here at one call after the other, on one thread: once maintenance gave a
//! container back between a seal's write of it and its publish.
#![cfg(test)]

mod support;

use std::sync::{Arc, Mutex};

use piggin_storage::disk::{Disk, DiskError, DiskFile, DiskLock, OpenMode, SimulatedDisk};
use piggin_storage::log_store::Maintained;
use piggin_storage::{
    CompactionRequest, CreateOptions, Job, KvStore, LogStore, OpenOptions, Outcome, Seqno,
};
use support::log_store::{image, open_on, small_options};
use support::{Image, Writer, mutation, vbucket};

type Meanwhile = Box<dyn FnMut() + Send>;

/// What happens before the n-th call from now.
#[derive(Clone, Default)]
struct Interruption(Arc<Mutex<Option<(u64, Meanwhile)>>>);

impl Interruption {
    fn at_call(&self, n: u64, meanwhile: Meanwhile) {
        *self.0.lock().unwrap() = Some((n, meanwhile));
    }

    fn is_waiting(&self) -> bool {
        self.0.lock().unwrap().is_some()
    }

    fn call(&self) {
        let due = {
            let mut waiting = self.0.lock().unwrap();
            match &mut *waiting {
                Some((1, _)) => waiting.take(),
                Some((n, _)) => {
                    *n -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((_, mut meanwhile)) = due {
            meanwhile();
        }
    }
}

impl std::fmt::Debug for Interruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interruption")
    }
}

#[derive(Clone, Debug)]
struct Interrupted<D>(D, Interruption);

impl Disk for Interrupted<SimulatedDisk> {
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.1.call();
        let file = self.0.open(name, mode)?;
        Ok(Arc::new(Interrupted(file, self.1.clone())))
    }
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.1.call();
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.1.call();
        self.0.remove(name)
    }
    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.1.call();
        self.0.list()
    }
    fn sync_directory(&self) -> Result<(), DiskError> {
        self.1.call();
        self.0.sync_directory()
    }
    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, DiskError> {
        self.0.lock(name)
    }
}

impl DiskFile for Interrupted<Arc<dyn DiskFile>> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.1.call();
        self.0.read_at(buffer, offset)
    }
    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.1.call();
        self.0.read_at_once(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        self.1.call();
        self.0.write_at(data, offset)
    }
    fn sync(&self) -> Result<(), DiskError> {
        self.1.call();
        self.0.sync()
    }
    fn length(&self) -> Result<u64, DiskError> {
        self.0.length()
    }
    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.0.truncate(length)
    }
    fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.0.zero(offset, length)
    }
    fn punch(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.0.punch(offset, length)
    }
}

/// Segments of four vbuckets side by side, some dead, and unsealed items on top.
fn filled(disk: &SimulatedDisk, interruption: &Interruption) -> LogStore {
    let shape = CreateOptions::of(4, 1);
    let options = OpenOptions {
        is_stepped: true,
        container_bytes_min: 1,
        segments_max: 100,
        ..small_options(1)
    };
    let hooked = Interrupted(disk.clone(), interruption.clone());
    let store = LogStore::create(Arc::new(hooked), shape, options).unwrap();
    let shared: Arc<dyn KvStore> = Arc::new(store.clone());
    let mut writers = [0, 1, 2, 3].map(|number| Writer::create(&shared, number));
    for round in 1..=3 {
        for writer in &mut writers {
            writer.write(vec![
                mutation(round * 2 - 1, "a", &"v".repeat(3000)),
                mutation(round * 2, &format!("k{round}"), "value"),
            ]);
        }
        if round < 3 {
            assert_eq!(store.seal_all(Seqno::ZERO), Outcome::Complete(()));
        }
    }
    store
}

/// All maintenance there is.
fn maintain(store: &LogStore) {
    for _ in 0..100 {
        match store.maintain() {
            Outcome::Complete(Maintained::Nothing) => return,
            Outcome::Complete(Maintained::Worked) => {}
            ended @ (Outcome::Yielded | Outcome::Aborted(_) | Outcome::Failed(_)) => {
                panic!("{ended:?}")
            }
        }
    }
    panic!("maintenance does not come to an end");
}

fn images(store: &LogStore) -> Vec<Image> {
    (0..3).map(|number| image(store, number)).collect()
}

fn interrupted_at_every_call(run: impl Fn(&LogStore) -> Outcome<()>) {
    for n in 1.. {
        let (disk, interruption) = (SimulatedDisk::new(), Interruption::default());
        let store = filled(&disk, &interruption);
        let expected = images(&store);
        let meanwhile = store.clone();
        interruption.at_call(
            n,
            Box::new(move || {
                maintain(&meanwhile);
                // Another vbucket's part goes, so that there is something to give back where the job writes.
                meanwhile.delete_vbucket(vbucket(3)).ok();
                meanwhile.sync().ok();
                maintain(&meanwhile);
            }),
        );
        let ended = run(&store);
        assert_eq!(ended, Outcome::Complete(()), "call {n}");
        let is_over = interruption.is_waiting();
        interruption.0.lock().unwrap().take();
        assert_eq!(images(&store), expected, "call {n}");
        store.sync().unwrap();
        maintain(&store);
        assert_eq!(images(&store), expected, "call {n}");
        assert_eq!(store.verify().faults, [], "call {n}");
        drop(store);
        assert_eq!(images(&open_on(&disk, 2)), expected, "call {n}");
        if is_over {
            assert!(n > 5, "the job makes calls");
            return;
        }
    }
}

#[test]
fn of_a_seal() {
    interrupted_at_every_call(|store| store.seal_all(Seqno::ZERO));
}

#[test]
fn of_a_merge() {
    interrupted_at_every_call(|store| store.merge_job(vbucket(1), Seqno::MAX).unwrap().run());
}

#[test]
fn of_a_compaction() {
    interrupted_at_every_call(|store| {
        let request = CompactionRequest {
            history_floor: Seqno::ZERO,
            ..CompactionRequest::default()
        };
        let ended = store.compact(vbucket(1), &request).map(|_| ());
        ended.map_failure(|failure| failure.cause)
    });
}
