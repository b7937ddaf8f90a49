//! What was measured: samples by figure and column, one per round.

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::statistics::{Percentiles, ProcessorTime, Summary};
use crate::stores::Column;

/// What can be measured.
pub(crate) trait Measure: Copy + Ord + Display {
    /// What its amount is counted in.
    fn unit(self) -> &'static str;
}

/// Who can be measured.
pub(crate) trait Measured: Copy + Ord + Display {}

impl Measured for Column {}

/// What is measured of the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// W1: durable batches.
    Commit { value_length: usize, batch: usize },
    /// W1: durable batches with one mutation for every vbucket.
    CommitToEveryVbucket,
    /// W2: a load that is not synced until its end.
    Load,
    /// W3: random gets.
    Get { threads: usize },
    /// W4: by-seqno scan of everything, in memory.
    ScanWarm,
    /// W4: the same, not in memory.
    ScanCold,
    /// W5: durable random overwrites, compacting.
    Overwrite,
    /// W5: the same by a twin of ours that never merges, taking turns with it.
    OverwriteUnmerged,
    /// W5: bytes written to disk for the bytes overwritten, up to the last sync, or until the store settled.
    WriteAmplification { is_settled: bool },
    /// W5: most bytes on disk while it overwrites and compacts.
    SpacePeak,
    /// W5: bytes on disk after the major compaction.
    SpaceCompacted,
    /// W5: the major compaction itself.
    MajorCompaction,
    /// W5: longest commit, without a sync, that met the publish of a compaction; times of all during the compaction.
    MeetPublish { size: VbucketSize, whose: Whose },
    /// W5: longest publish of a compaction, nobody committing.
    Publish { size: VbucketSize },
    /// W5: durable commits, to the vbucket that is compacted and to another in turns.
    CommitWhileCompacting { size: VbucketSize },
    /// W5: single gets and scans of a vbucket, while vbuckets are compacted and while none is.
    Read { what: Read, is_compacting: bool },
    /// W6: open after a clean close, until the first get is answered; files in memory.
    OpenClean,
    /// W6: the same, files not in memory.
    OpenCleanCold,
    /// W6: open after the writer was killed, until its last write is read back; files in memory.
    OpenAfterCrash,
}

impl Measure for Figure {
    fn unit(self) -> &'static str {
        match self {
            Figure::Commit { .. }
            | Figure::CommitToEveryVbucket
            | Figure::Load
            | Figure::Overwrite
            | Figure::OverwriteUnmerged => "mutations/s",
            Figure::CommitWhileCompacting { .. } => "commits/s",
            Figure::Get { .. }
            | Figure::Read {
                what: Read::Get, ..
            } => "gets/s",
            Figure::Read {
                what: Read::Scan, ..
            } => "scans/s",
            Figure::ScanWarm | Figure::ScanCold | Figure::MajorCompaction => "MB/s",
            Figure::WriteAmplification { .. } | Figure::SpacePeak | Figure::SpaceCompacted => "x",
            Figure::MeetPublish { .. } | Figure::Publish { .. } => "us",
            Figure::OpenClean | Figure::OpenCleanCold | Figure::OpenAfterCrash => "ms",
        }
    }
}

impl Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Figure::Commit {
                value_length,
                batch,
            } => write!(f, "W1 {value_length} B, batch {batch}"),
            Figure::CommitToEveryVbucket => f.write_str("W1 one mutation per vbucket"),
            Figure::Load => f.write_str("W2 load"),
            Figure::Get { threads: 1 } => f.write_str("W3 get, 1 thread"),
            Figure::Get { threads } => write!(f, "W3 get, {threads} threads"),
            Figure::ScanWarm => f.write_str("W4 scan, warm"),
            Figure::ScanCold => f.write_str("W4 scan, cold"),
            Figure::Overwrite => f.write_str("W5 overwrite"),
            Figure::OverwriteUnmerged => f.write_str("W5 overwrite, own twin that never merges"),
            Figure::WriteAmplification { is_settled: false } => {
                f.write_str("W5 bytes written for bytes overwritten")
            }
            Figure::WriteAmplification { is_settled: true } => {
                f.write_str("W5 bytes written for bytes overwritten, settled")
            }
            Figure::SpacePeak => f.write_str("W5 most bytes on disk for live bytes"),
            Figure::SpaceCompacted => f.write_str("W5 bytes on disk for live bytes, compacted"),
            Figure::MajorCompaction => f.write_str("W5 major compaction, of live bytes"),
            Figure::MeetPublish { size, whose } => {
                write!(f, "W5 longest commit to {whose} that met a publish, {size}")
            }
            Figure::Publish { size } => write!(f, "W5 longest publish, {size}"),
            Figure::CommitWhileCompacting { size } => {
                write!(f, "W5 durable commit while compacting, {size}")
            }
            Figure::Read {
                what,
                is_compacting: true,
            } => write!(f, "W5 {what} while compacting"),
            Figure::Read {
                what,
                is_compacting: false,
            } => write!(f, "W5 {what}, nothing compacting"),
            Figure::OpenClean => f.write_str("W6 clean open, warm"),
            Figure::OpenCleanCold => f.write_str("W6 clean open, cold"),
            Figure::OpenAfterCrash => f.write_str("W6 open after a crash"),
        }
    }
}

/// Of the vbucket whose publish is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum VbucketSize {
    Small,
    Large,
}

impl Display for VbucketSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            VbucketSize::Small => "small vbucket",
            VbucketSize::Large => "large vbucket",
        })
    }
}

/// Where commits go while a vbucket is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    Same,
    Other,
}

impl Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Whose::Same => "the same vbucket",
            Whose::Other => "another vbucket",
        })
    }
}

/// How a document is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Read {
    Get,
    /// Of one vbucket.
    Scan,
}

impl Display for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Read::Get => "get",
            Read::Scan => "scan of a vbucket",
        })
    }
}

/// One measurement of one figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// In the figure's unit.
    pub(crate) amount: f64,
    /// Mutations, gets or documents it is of.
    pub(crate) operations: u64,
    /// Of a batch or a get.
    pub(crate) latency: Option<Percentiles>,
    pub(crate) bytes_on_disk: Option<u64>,
    /// The thread is the one that writes, reads or opens.
    pub(crate) processor: ProcessorTime,
    pub(crate) raw: Option<Raw>,
}

impl Sample {
    /// Processor microseconds of the measuring thread for each operation.
    pub(crate) fn thread_us_each(&self) -> f64 {
        self.processor.thread * 1e6 / self.operations.max(1) as f64
    }
}

/// What the disk itself does, measured just before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    /// The same bytes written and synced.
    pub(crate) p50_us: Option<f64>,
    /// The limit in the figure's unit.
    pub(crate) amount: Option<f64>,
    /// Two writes and syncs in a file per vbucket.
    pub(crate) files_p50_us: Option<f64>,
}

/// Everything measured.
#[derive(Debug)]
pub(crate) struct Results<F = Figure, C = Column> {
    samples: BTreeMap<(F, C), Vec<Sample>>,
}

impl<F, C> Default for Results<F, C> {
    fn default() -> Results<F, C> {
        let samples = BTreeMap::new();
        Results { samples }
    }
}

impl<F: Measure, C: Measured> Results<F, C> {
    /// Takes a sample in.
    pub(crate) fn add(&mut self, figure: F, column: C, sample: Sample) {
        eprintln!(
            "  {figure}: {column}: {:.1} {}{}",
            sample.amount,
            figure.unit(),
            match sample.latency {
                Some(latency) => format!(", p50 {:.1} us", latency.p50),
                None => String::new(),
            }
        );
        self.samples
            .entry((figure, column))
            .or_default()
            .push(sample);
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (F, C, &[Sample])> {
        let samples = self.samples.iter();
        samples.map(|(&(figure, column), samples)| (figure, column, samples.as_slice()))
    }

    /// Of one figure and column, by round; empty when it was not measured.
    pub(crate) fn samples(&self, figure: F, column: C) -> &[Sample] {
        let samples = self.samples.get(&(figure, column));
        samples.map_or(&[], Vec::as_slice)
    }

    /// Median and range of something of a figure.
    pub(crate) fn summary(
        &self,
        figure: F,
        column: C,
        pick: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<Summary> {
        Summary::of(self.samples(figure, column).iter().filter_map(pick))
    }

    /// Median and range of the raw limit of a figure, over every column's measurement of it.
    pub(crate) fn raw(&self, figure: F, pick: impl Fn(&Raw) -> Option<f64>) -> Option<Summary> {
        let of_figure = self.iter().filter(|&(of, _, _)| of == figure);
        let raws = of_figure.flat_map(|(_, _, samples)| samples.iter().filter_map(|s| s.raw));
        Summary::of(raws.filter_map(|raw| pick(&raw)))
    }

    /// The columns a figure was measured for.
    pub(crate) fn columns(&self, figure: F) -> impl Iterator<Item = C> {
        let keys = self.samples.keys();
        keys.filter_map(move |&(of, column)| (of == figure).then_some(column))
    }
}
