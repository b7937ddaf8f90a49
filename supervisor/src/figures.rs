//! The figures of a bucket in use, in a small file: a bucket is open in one process, and who watches it is another.
//!
//! Invariant: a reader finds all figures of one moment; the file is never synced, and written by a thread of its own, so a disk
//! that hangs holds up nothing. It goes when the telling ends in order; one that a killed process left stands still.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use actors::environment::Clock;
use actors::system::SystemClock;
use storage::StorageError;
use storage::disk::{Disk, DiskErrorKind, OpenMode};

use crate::bucket::Bucket;
use crate::bucket_config::Location;
use crate::opening::{self, Opening};
use crate::running::Running;
use crate::statistics::BucketStatistics;

const FILE: &str = "piggin.figures";
const TEMPORARY: &str = "piggin.figures.new";
const TITLE: &str = "piggin figures 1";
const END: &str = "end";
/// More than all figures take.
const BYTES_MAX: u64 = 64 << 10;

/// Figures that were told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Which telling it is; each is one more.
    pub number: u64,
    /// When, in milliseconds of a clock that the next telling reads, too.
    pub time_ms: u64,
    /// How often they are told.
    pub every_ms: u64,
    /// By the names of `docs/statistics.md`, section "The file of figures".
    pub values: BTreeMap<String, u64>,
}

/// Tells the figures of a bucket until it is dropped, or the bucket ends.
#[derive(Debug)]
#[must_use = "the figures are told for as long as it is held"]
pub struct TellsFigures {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TellsFigures {
    /// Ends it, and waits until the file is gone.
    pub fn end(mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("whoever told the figures panicked");
        }
    }
}

impl Bucket {
    /// Tells the bucket's figures in a file of the directory `place`, now and then every so often, on a thread of its own;
    /// [`Figures::read`] reads them, in whatever process. The bucket's own directory will do.
    pub fn tell_figures(
        &self,
        place: impl Into<Location>,
        every: Duration,
    ) -> Result<TellsFigures, StorageError> {
        let disk = opening::disk(&place.into(), Opening::Existing)?;
        let mut telling = Telling {
            disk,
            running: Arc::downgrade(&self.held().0),
            clock: SystemClock::new(),
            every,
            number: 0,
        };
        // What is wrong with the place is told to the caller.
        telling.tell()?;
        let (stop, stopped) = channel();
        let body = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(every) {
                match telling.tell() {
                    Ok(true) => {}
                    Ok(false) => break,
                    // Perhaps there is room the next time.
                    Err(error) => tracing::debug!(%error, "the figures were not told"),
                }
            }
            telling.end();
        };
        let thread = thread::Builder::new()
            .name("piggin-figures".to_owned())
            .spawn(body)
            .map_err(|error| {
                StorageError::Setting(format!("no thread for the figures: {error}"))
            })?;
        Ok(TellsFigures {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

struct Telling {
    disk: Arc<dyn Disk>,
    /// It keeps no bucket open.
    running: Weak<Running>,
    clock: SystemClock,
    every: Duration,
    number: u64,
}

impl Telling {
    /// Tells them; `false` once the bucket ended.
    fn tell(&mut self) -> Result<bool, StorageError> {
        let running = self.running.upgrade();
        let Some(running) = running.filter(|running| !running.stop.is_over()) else {
            return Ok(false);
        };
        let now = self.clock.monotonic();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.number = self.number.saturating_add(1);
        let figures = Figures {
            number: self.number,
            time_ms: millis(now),
            every_ms: millis(self.every),
            values: values_of(&running.statistics()),
        };
        drop(running);
        figures.write(&*self.disk)?;
        Ok(true)
    }

    fn end(&self) {
        for name in [FILE, TEMPORARY] {
            if let Err(error) = remove_if_there(&*self.disk, name) {
                tracing::debug!(%error, "figures that are not told any more stay");
            }
        }
    }
}

fn values_of(from: &BucketStatistics) -> BTreeMap<String, u64> {
    let down = from.vbuckets.iter().filter(|one| one.down.is_some());
    let restarts = from.children.iter().map(|child| child.restarts);
    let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.fold(0, u64::saturating_add);
    let figures = [
        ("documents", from.documents),
        ("memory_bytes", from.memory.bytes),
        ("memory_quota_bytes", from.memory.quota_bytes),
        ("disk_bytes", from.disk_bytes),
        ("live_bytes", from.live_bytes),
        ("unpersisted", from.unpersisted_items),
        (
            "written",
            sum(&mut from.vbuckets.iter().map(|one| one.high_seqno.0)),
        ),
        (
            "persisted",
            sum(&mut from.vbuckets.iter().map(|one| one.persisted_seqno.0)),
        ),
        ("compactions", from.compaction.pending),
        ("compactions_completed", from.compaction.completed),
        ("backfills", from.backfills),
        ("replicas", from.replicas),
        ("durable_writes", from.durability.prepares),
        ("vbuckets_down", down.count() as u64),
        ("restarts", sum(&mut restarts.into_iter())),
        ("failures", sum(&mut from.failures.values().copied())),
    ];
    figures
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

impl Figures {
    /// The figures that are told in a directory; `None` where nobody tells any.
    pub fn read(place: impl Into<Location>) -> Result<Option<Figures>, StorageError> {
        let disk = opening::disk(&place.into(), Opening::Existing)?;
        let file = match disk.open(FILE, OpenMode::ReadOnly) {
            Ok(file) => file,
            Err(error) if error.kind == DiskErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let length = usize::try_from(file.length()?.min(BYTES_MAX)).unwrap_or(0);
        let mut bytes = vec![0; length];
        file.read_at(&mut bytes, 0)?;
        // One that a power cut left in part was told by nobody who is still there.
        Ok(str::from_utf8(&bytes).ok().and_then(parse))
    }

    /// A figure by its name; zero for one that is not told.
    #[must_use]
    pub fn value(&self, name: &str) -> u64 {
        self.values.get(name).copied().unwrap_or(0)
    }

    fn write(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        let mut text = format!("{TITLE}\n");
        let of_telling = [
            ("number", self.number),
            ("time_ms", self.time_ms),
            ("every_ms", self.every_ms),
        ];
        let values = self.values.iter().map(|(name, value)| (&**name, *value));
        for (name, value) in of_telling.into_iter().chain(values) {
            let line = writeln!(text, "{name} {value}");
            // Writing to a string does not fail.
            debug_assert!(line.is_ok());
        }
        text.push_str(END);
        text.push('\n');
        remove_if_there(disk, TEMPORARY)?;
        disk.open(TEMPORARY, OpenMode::CreateNew)?
            .append(text.as_bytes())?;
        Ok(disk.rename(TEMPORARY, FILE)?)
    }
}

fn remove_if_there(disk: &dyn Disk, name: &str) -> Result<(), StorageError> {
    match disk.remove(name) {
        Err(error) if error.kind != DiskErrorKind::NotFound => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn parse(text: &str) -> Option<Figures> {
    let mut lines = text.lines();
    if lines.next() != Some(TITLE) {
        return None;
    }
    let mut values = BTreeMap::new();
    loop {
        let line = lines.next()?;
        if line == END {
            break;
        }
        let (name, value) = line.split_once(' ')?;
        values.insert(name.to_owned(), value.parse().ok()?);
    }
    Some(Figures {
        number: values.remove("number")?,
        time_ms: values.remove("time_ms")?,
        every_ms: values.remove("every_ms")?,
        values,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_whole_file_is_no_figures() {
        let whole = format!("{TITLE}\nnumber 3\ntime_ms 5\nevery_ms 7\ndocuments 9\n{END}\n");
        let figures = parse(&whole).expect("figures");
        assert_eq!((figures.number, figures.value("documents")), (3, 9));
        assert_eq!(figures.value("none"), 0);
        for length in 0..whole.len() - 1 {
            let part = whole.get(..length).expect("a character's edge");
            assert_eq!(parse(part), None, "{length}");
        }
        assert_eq!(parse(&whole.replace('9', "x")), None);
    }
}
