//! What the disk itself can do, measured with plain calls in the same run just before the figure it limits.
//!
//! Invariant: a reference is only given when a 4 KiB write and sync, and the reference itself where it is small,
//! took at most [`QUIET_P50_US`] at the median; otherwise the disk is busy with something else, the round is thrown
//! away, and after a pause tried again, as often as the run has patience.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::statistics::{Percentiles, nanoseconds};
use crate::workload::fill;

/// Above this median of a small write and sync a round does not count.
const QUIET_P50_US: f64 = 1000.0;
const PAUSE: Duration = Duration::from_secs(2);
/// Longest write that a quiet disk makes durable in less.
const SMALL_LENGTH: usize = 1 << 19;
const PAGE: usize = 4096;
const MIB: usize = 1 << 20;
const FILE_LENGTH: usize = 64 * MIB;

/// How long durable writes of one size take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DurableWrite {
    /// Of the same bytes as the work that follows.
    pub(crate) p50_us: f64,
    /// Such writes one after another.
    pub(crate) per_second: f64,
}

/// A pre-zeroed file to measure with.
#[derive(Debug)]
pub(crate) struct RawDisk {
    directory: PathBuf,
    path: PathBuf,
    file: File,
    duration: Duration,
    attempts_max: u32,
    discarded: u32,
    loud: u32,
}

impl RawDisk {
    /// In `directory`; each reference takes `duration`, and a round is tried `attempts_max` times before its figure is
    /// taken as it is, and said to be.
    pub(crate) fn create(directory: &Path, duration: Duration, attempts_max: u32) -> RawDisk {
        let path = directory.join("raw.data");
        let file = zeroed_file(&path, FILE_LENGTH);
        RawDisk {
            directory: directory.to_path_buf(),
            path,
            file,
            duration,
            attempts_max,
            discarded: 0,
            loud: 0,
        }
    }

    /// Rounds thrown away because the disk was busy, and figures taken although it still was.
    pub(crate) fn discarded_and_loud(&self) -> (u32, u32) {
        (self.discarded, self.loud)
    }

    /// The reference for durable writes of `length` bytes, taken while the disk is quiet.
    pub(crate) fn durable_write(&mut self, length: usize) -> DurableWrite {
        let mut attempt = 1;
        loop {
            let is_quiet = self.is_quiet();
            let reference = self.write_and_sync(length, self.duration);
            if is_quiet && (length > SMALL_LENGTH || reference.p50_us <= QUIET_P50_US) {
                return reference;
            }
            if !self.try_again(attempt) {
                return reference;
            }
            attempt += 1;
        }
    }

    /// Waits for a quiet moment, where the figure that follows is not of durable writes. A small write and sync tells
    /// a busy processor as well: it has to wait for its turn.
    pub(crate) fn wait_until_quiet(&mut self) {
        let mut attempt = 1;
        while !self.is_quiet() && self.try_again(attempt) {
            attempt += 1;
        }
    }

    /// Whether a small write and sync is as quick as it must be.
    pub(crate) fn is_quiet(&self) -> bool {
        // Bytes another work left behind must not be written during this one.
        rustix::fs::sync();
        let page = self.write_and_sync(PAGE, self.duration / 4);
        if page.p50_us > QUIET_P50_US {
            eprintln!(
                "  the disk is busy: a raw 4 KiB sync takes {:.0} us",
                page.p50_us
            );
        }
        page.p50_us <= QUIET_P50_US
    }

    /// Throws a round away, counts and waits; or says, after the last attempt, that it must be taken as it is.
    pub(crate) fn try_again(&mut self, attempt: u32) -> bool {
        if attempt >= self.attempts_max {
            eprintln!("  the disk stays busy; taken all the same");
            self.loud += 1;
            return false;
        }
        eprintln!("  thrown away");
        self.discarded += 1;
        std::thread::sleep(PAUSE);
        true
    }

    fn write_and_sync(&self, length: usize, limit: Duration) -> DurableWrite {
        let mut data = vec![0; length];
        fill(&mut data, 1);
        let mut latencies = Vec::new();
        let mut offset = 0;
        let begin = Instant::now();
        while begin.elapsed() < limit {
            let write = Instant::now();
            self.file.write_all_at(&data, offset as u64).unwrap();
            self.file.sync_data().unwrap();
            latencies.push(nanoseconds(write.elapsed()));
            offset += length;
            if offset + length > FILE_LENGTH {
                offset = 0;
            }
        }
        let per_second = latencies.len() as f64 / begin.elapsed().as_secs_f64();
        DurableWrite {
            p50_us: Percentiles::of(&mut latencies).unwrap().p50,
            per_second,
        }
    }

    /// The commit of a store with a file per vbucket: in each, a write and a sync of the data, then of the header.
    pub(crate) fn two_syncs_per_vbucket_file(
        &mut self,
        vbuckets: u16,
        limit: Duration,
    ) -> Percentiles {
        self.wait_until_quiet();
        let path = |vbucket: u16| self.directory.join(format!("raw-{vbucket}.data"));
        let create = |vbucket| {
            let file = create(&path(vbucket));
            file.sync_all().unwrap();
            file
        };
        let files: Vec<File> = (0..vbuckets).map(create).collect();
        let mut data = vec![0; PAGE];
        fill(&mut data, 2);
        let mut latencies = Vec::new();
        let mut offset = 0;
        let begin = Instant::now();
        while latencies.len() < 3 || begin.elapsed() < limit {
            let commit = Instant::now();
            for file in &files {
                for part in 0..2 {
                    file.write_all_at(&data, offset + part * PAGE as u64)
                        .unwrap();
                    file.sync_data().unwrap();
                }
            }
            offset += 2 * PAGE as u64;
            latencies.push(nanoseconds(commit.elapsed()));
        }
        for vbucket in 0..vbuckets {
            std::fs::remove_file(path(vbucket)).unwrap();
        }
        Percentiles::of(&mut latencies).unwrap()
    }

    /// MB/s of reading one file of `length` bytes from end to end that is not in memory; `None` where the system
    /// does not let us drop its caches.
    pub(crate) fn cold_sequential_read(&self, length: u64) -> Option<f64> {
        let path = self.directory.join("raw-cold.data");
        let file = create(&path);
        let mut data = vec![0; MIB];
        fill(&mut data, 3);
        for offset in (0..length).step_by(MIB) {
            file.write_all_at(&data, offset).unwrap();
        }
        file.sync_all().unwrap();
        drop(file);
        let dropped = drop_caches();
        let mut file = File::open(&path).unwrap();
        let begin = Instant::now();
        let mut bytes = 0;
        loop {
            match file.read(&mut data).unwrap() {
                0 => break,
                read => bytes += read,
            }
        }
        let rate = bytes as f64 / begin.elapsed().as_secs_f64() / 1e6;
        std::fs::remove_file(&path).unwrap();
        dropped.then_some(rate)
    }
}

impl Drop for RawDisk {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            eprintln!("{}: {error}", self.path.display());
        }
    }
}

/// Makes the system forget the files it holds in memory; whether it did.
pub(crate) fn drop_caches() -> bool {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Bytes a directory takes on disk: blocks, not lengths, so that files with holes count what they hold.
pub(crate) fn bytes_on_disk(path: &Path) -> u64 {
    // A store's own threads may remove a file between listing and looking.
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return 0;
    };
    if !metadata.is_dir() {
        return metadata.blocks() * 512;
    }
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    let entries = entries.filter_map(Result::ok);
    entries.map(|entry| bytes_on_disk(&entry.path())).sum()
}

/// Bytes this process has handed to write calls so far. Not `write_bytes`, which stands beside it: where the page cache
/// holds a file in large pieces, as it does one that was written ahead, that counts a whole piece for every page changed.
/// `None` where the system is no Linux.
pub(crate) fn bytes_written() -> Option<u64> {
    let counters = std::fs::read_to_string("/proc/self/io").ok()?;
    let mut lines = counters.lines();
    let written = lines.find_map(|line| line.strip_prefix("wchar: "))?;
    written.parse().ok()
}

fn zeroed_file(path: &Path, length: usize) -> File {
    let file = create(path);
    let zeros = vec![0; MIB];
    for offset in (0..length).step_by(MIB) {
        file.write_all_at(&zeros, offset as u64).unwrap();
    }
    file.sync_all().unwrap();
    file
}

fn create(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).read(true).write(true);
    options.open(path).unwrap()
}
