//! Verification: walks every byte that counts and reports each fault with its file and offset.
//!
//! Invariant: it changes nothing, and on a healthy store of any age it reports nothing. What crashes left behind and
//! recovery ignores (torn tails, abandoned log files, unused extents) is no fault.

use crate::counts::VbucketCounts;
use crate::disk::DiskErrorKind;
use crate::error::StorageError;
use crate::log_store::identity::Identity;
use crate::log_store::log::payload;
use crate::log_store::log::reader::read_log;
use crate::log_store::manifest::{self, ManifestOwner};
use crate::log_store::names::{IDENTITY, Kind, Name};
use crate::log_store::rollback::sealed_counts;
use crate::log_store::shard::{Shard, Slot};
use crate::log_store::store::LogStore;
use crate::log_store::version::Version;
use crate::vbucket::VbucketId;

/// What is proven by a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The bytes are there, and are not what was written; or the file ends before them.
    Damage,
    /// The file is not there. It may lie elsewhere, whole.
    Missing,
    /// The disk did not say what the bytes are. They may be whole.
    Unreadable,
}

impl FaultKind {
    pub(crate) fn of(error: &StorageError) -> FaultKind {
        if let StorageError::Disk(disk) = error {
            return if disk.kind == DiskErrorKind::EndOfFile {
                FaultKind::Damage
            } else if disk.kind == DiskErrorKind::NotFound {
                FaultKind::Missing
            } else {
                FaultKind::Unreadable
            };
        }
        if matches!(error, StorageError::Corruption { .. }) {
            FaultKind::Damage
        } else {
            // It says nothing about bytes.
            FaultKind::Unreadable
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file's name.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
    /// What that proves.
    pub kind: FaultKind,
    /// The vbuckets that lack something by it: all that are out of service for it, or the one whose data it is.
    pub vbuckets: Vec<VbucketId>,
}

impl Fault {
    /// Whether it lies in the log, so that nobody knows what was there.
    #[must_use]
    pub fn is_of_log(&self) -> bool {
        let kind = Name::parse(&self.file).map(|name| name.kind);
        kind == Some(Kind::Log) || self.file == "log"
    }

    fn is_at(&self, other: &Fault) -> bool {
        (&self.file, self.offset, &self.what) == (&other.file, other.offset, &other.what)
    }
}

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Files looked at.
    pub files: u64,
    /// Records found sound: items in segments, and frames of the log.
    pub records: u64,
    /// Every fault, in the order found.
    pub faults: Vec<Fault>,
}

impl VerifyReport {
    fn fault(&mut self, file: &str, offset: u64, what: impl Into<String>) {
        self.fault_of(FaultKind::Damage, file, offset, what);
    }

    fn fault_of(&mut self, kind: FaultKind, file: &str, offset: u64, what: impl Into<String>) {
        self.faults.push(Fault {
            file: file.into(),
            offset,
            what: what.into(),
            kind,
            vbuckets: Vec::new(),
        });
    }

    /// Takes the cause of a vbucket that is down; one that was told already is that of one more.
    fn cause(&mut self, vbucket: VbucketId, cause: &StorageError) {
        self.error("", cause);
        let Some(fault) = self.faults.pop() else {
            return;
        };
        let known = self.faults.iter().position(|known| known.is_at(&fault));
        let place = known.unwrap_or_else(|| {
            self.faults.push(fault);
            self.faults.len().saturating_sub(1)
        });
        if let Some(fault) = self.faults.get_mut(place) {
            fault.vbuckets.push(vbucket);
        }
    }

    /// Takes an error as a fault of `file`, or of the file it names itself.
    fn error(&mut self, file: &str, error: &StorageError) {
        let kind = FaultKind::of(error);
        if let StorageError::Corruption { file, offset, what } = error {
            self.fault_of(kind, file, *offset, what);
        } else if let StorageError::Disk(disk) = error {
            self.fault_of(kind, &disk.file, 0, disk.to_string());
        } else {
            self.fault_of(kind, file, 0, error.to_string());
        }
    }
}

impl LogStore {
    /// Walks the whole store. Commits of a shard wait while its log is read.
    #[must_use]
    pub fn verify(&self) -> VerifyReport {
        let mut report = VerifyReport {
            files: 1,
            ..VerifyReport::default()
        };
        if let Err(error) = Identity::of_open(&**self.disk()) {
            report.error(IDENTITY, &error);
        }
        for shard in self.shards() {
            verify_log(shard, &mut report);
            verify_containers(shard, &mut report);
            for vbucket in shard.vbuckets() {
                match shard.read_slot(vbucket) {
                    Slot::Absent => {}
                    Slot::Down(down) => report.cause(vbucket, &down.cause),
                    Slot::Up(version) => verify_version(&version, &mut report),
                }
            }
        }
        report
    }
}

/// The manifest, and the log from where the manifest says it begins.
fn verify_log(shard: &Shard, report: &mut VerifyReport) {
    // Nothing is written while the log is read.
    let Some(writer) = shard.writer() else { return };
    let names = match shard.disk.list() {
        Ok(names) => names,
        Err(error) => return report.error("", &error.into()),
    };
    let names = names.iter().filter_map(|name| Name::parse(name));
    let names: Vec<Name> = names.filter(|name| name.shard == shard.number).collect();
    let newest = names
        .iter()
        .filter(|name| name.kind == Kind::Manifest)
        .max();
    let mut bounds = manifest::ShardRecord::NEW.bounds();
    if let Some(name) = newest {
        report.files = report.files.saturating_add(1);
        let text = name.to_string();
        let store_id = shard.store_id;
        let owner = ManifestOwner {
            store_id,
            shard: shard.number,
            number: name.number,
        };
        match manifest::read(&*shard.disk, &text, owner) {
            Ok(manifest) => {
                bounds = manifest.record.bounds();
                for (offset, entry) in &manifest.entries {
                    // One that says only that nothing was known is no fault by itself; its vbucket may be.
                    if !entry.is_unreadable()
                        && let Err(what) = entry.image()
                    {
                        report.fault(&text, *offset, what);
                    }
                }
            }
            Err(error) => return report.error(&text, &error),
        }
    }
    match read_log(&shard.disk, &names, shard.store_id, bounds, shard.number) {
        Ok(found) => {
            report.files = report.files.saturating_add(found.files.len() as u64);
            for damage in &found.damage {
                report.error("log", &damage.error);
            }
            for file in &found.unreadable {
                report.error("log", &file.error);
            }
            if let Some(error) = &found.lost {
                report.error("log", error);
            }
            for frame in &found.frames {
                match payload::read(&frame.payload) {
                    Ok(_) => report.records = report.records.saturating_add(1),
                    Err(what) => report.fault(&frame.file_name, frame.offset, what),
                }
            }
            let durable = writer.log.synced().sequence;
            let is_whole = found.damage.is_empty() && found.lost.is_none();
            if is_whole && found.last.sequence < durable {
                let what = format!(
                    "the log ends at frame {}, before {durable}",
                    found.last.sequence
                );
                let file = found.files.last().map_or("log", |span| &span.name);
                report.fault(file, 0, what);
            }
        }
        Err(error) => report.error("log", &error),
    }
}

fn verify_containers(shard: &Shard, report: &mut VerifyReport) {
    report.files = report
        .files
        .saturating_add(shard.containers.names().len() as u64);
    shard
        .containers
        .verify(&mut |file, error| report.error(file, &error));
}

/// Every segment down to its bytes, and the counts against what the segments hold.
fn verify_version(version: &Version, report: &mut VerifyReport) {
    let before = report.faults.len();
    verify_segments(version, report);
    for fault in report.faults.iter_mut().skip(before) {
        fault.vbuckets.push(version.place.vbucket);
    }
}

fn verify_segments(version: &Version, report: &mut VerifyReport) {
    let before = report.faults.len();
    for view in &version.segments {
        let name = view.segment.file_name().to_owned();
        let records = view
            .segment
            .verify(&mut |error| report.error(&name, &error));
        report.records = report.records.saturating_add(records);
    }
    if report.faults.len() > before {
        return;
    }
    let name = version
        .segments
        .first()
        .map_or("", |view| view.segment.file_name());
    match sealed_counts(&version.segments) {
        Ok(counts) if same_figures(&counts, &version.counts) => {}
        Ok(_) => {
            let vbucket = version.place.vbucket;
            report.fault(
                name,
                0,
                format!("the counts of vbucket {vbucket} are not what it holds"),
            );
        }
        Err(error) => report.error(name, &error),
    }
}

/// Whether both say the same; a collection with nothing in it may be missing.
fn same_figures(one: &VbucketCounts, other: &VbucketCounts) -> bool {
    let change = one.since(other);
    change.collections.values().all(|counts| {
        let nothing = crate::counts::CollectionCounts {
            high_seqno: counts.high_seqno,
            ..crate::counts::CollectionCounts::default()
        };
        *counts == nothing
    })
}
