//! What is measured of the bucket, and whom it is measured beside.

use std::fmt::{Display, Formatter, Result};

use crate::results::{Measure, Measured};
use crate::stores::{Column, Durability};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BucketFigure {
    /// Random gets of documents in memory.
    Get,
    /// Inserts that are answered from memory.
    SetInMemory,
    /// Inserts that are answered from the disk.
    SetPersisted,
    /// Inserts by message, one at a time.
    SetByMessage,
    /// Bytes of the process for each document beyond key and value.
    MemoryOfProcess,
    /// The same, as the engine counts.
    MemoryAsCounted,
    /// A mixed load.
    Ycsb { mix: Mix, durability: Durability },
    /// Open until every document is in memory; of the storage, a scan of the same.
    Open,
    /// What of that the storage's own opening takes.
    OpenStorage,
    /// Everything from disk to a recipient; of the storage, a scan of the same.
    Backfill,
    /// Everything in memory to a recipient; of a channel, as many handles.
    MemoryStream,
    /// From a set until it is delivered; of an empty message, there and back.
    Delivery,
    /// Most bytes of items while streams read from disk.
    StreamsMemory,
    /// Inserts that are answered from memory, beside live streams.
    SetStreamed,
    /// Durable by a majority, one at a time; of an empty message, there and back.
    DurableMajority,
    /// Durable by the disks of a majority, one at a time.
    DurableOnDisks,
    /// Durable by a majority, many under way.
    DurableAtOnce,
    /// From a panic of a vbucket's actor until it serves again.
    ServesAgain,
    /// With four times as many documents as memory has room for.
    Beyond(Beyond),
}

/// What is measured where most documents are not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Beyond {
    /// All of them inserted, and on disk.
    Load,
    /// Gets of documents drawn so.
    Get(Draw),
    /// Gets that did not ask the disk, in percent.
    Hits(Draw),
    /// A mixed load.
    Ycsb(Mix),
    /// Overwrites of any document.
    Set,
    /// Open until it serves.
    Open,
    /// Most bytes of items in memory, as the bucket counts.
    MemoryMost,
    /// Most bytes by which a process grew that did nothing but load and get.
    ProcessMost,
    /// Writes that were refused for lack of memory, and asked for again.
    Refused,
}

/// Which documents are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Draw {
    /// Each as often.
    Uniform,
    /// Few often.
    Zipf,
}

impl Draw {
    pub(crate) const ALL: [Draw; 2] = [Draw::Uniform, Draw::Zipf];
}

impl Measure for Beyond {
    fn unit(self) -> &'static str {
        match self {
            Beyond::Load | Beyond::Set => "sets/s",
            Beyond::Get(_) => "gets/s",
            Beyond::Hits(_) => "%",
            Beyond::Ycsb(_) => "operations/s",
            Beyond::Open => "ms",
            Beyond::MemoryMost | Beyond::ProcessMost => "B",
            Beyond::Refused => "times",
        }
    }
}

impl Display for Beyond {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("4x memory: ")?;
        match self {
            Beyond::Load => f.write_str("load"),
            Beyond::Get(draw) => write!(f, "get, 4 threads, {draw:?}"),
            Beyond::Hits(draw) => write!(f, "hits, {draw:?}"),
            Beyond::Ycsb(mix) => write!(f, "YCSB {mix:?}, 4 threads, unsynced"),
            Beyond::Set => f.write_str("set, 4 threads"),
            Beyond::Open => f.write_str("open"),
            Beyond::MemoryMost => f.write_str("most bytes in memory, as counted"),
            Beyond::ProcessMost => f.write_str("most a process of its own grew by"),
            Beyond::Refused => f.write_str("refused so far"),
        }
    }
}

/// A mixed load of YCSB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mix {
    /// Half reads, half updates.
    A,
    /// One update in twenty.
    B,
    /// Reads.
    C,
    /// Half reads, half reads followed by an update of the same document.
    F,
}

impl Mix {
    pub(crate) const ALL: [Mix; 4] = [Mix::A, Mix::B, Mix::C, Mix::F];

    /// How many of a hundred operations write.
    pub(crate) const fn writes_percent(self) -> u64 {
        match self {
            Mix::A | Mix::F => 50,
            Mix::B => 5,
            Mix::C => 0,
        }
    }
}

impl Measure for BucketFigure {
    fn unit(self) -> &'static str {
        match self {
            BucketFigure::Get => "gets/s",
            BucketFigure::SetInMemory
            | BucketFigure::SetPersisted
            | BucketFigure::SetByMessage
            | BucketFigure::DurableMajority
            | BucketFigure::DurableOnDisks
            | BucketFigure::DurableAtOnce
            | BucketFigure::SetStreamed => "sets/s",
            BucketFigure::Backfill | BucketFigure::MemoryStream => "items/s",
            BucketFigure::Delivery => "deliveries/s",
            BucketFigure::StreamsMemory => "B",
            BucketFigure::MemoryOfProcess | BucketFigure::MemoryAsCounted => "B each",
            BucketFigure::Ycsb { .. } => "operations/s",
            BucketFigure::Open | BucketFigure::OpenStorage => "ms",
            BucketFigure::ServesAgain => "restarts/s",
            BucketFigure::Beyond(beyond) => beyond.unit(),
        }
    }
}

impl Display for BucketFigure {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            BucketFigure::Get => f.write_str("get, 2 threads"),
            BucketFigure::SetInMemory => f.write_str("set in memory, 2 writers"),
            BucketFigure::SetPersisted => f.write_str("set persisted, 64 callers"),
            BucketFigure::SetByMessage => f.write_str("set by message, one at a time"),
            BucketFigure::MemoryOfProcess => f.write_str("memory beyond key and value, process"),
            BucketFigure::MemoryAsCounted => f.write_str("memory beyond key and value, as counted"),
            BucketFigure::Ycsb { mix, durability } => {
                let durability = match durability {
                    Durability::Synced => "synced",
                    Durability::Buffered => "unsynced",
                };
                write!(f, "YCSB {mix:?}, 4 threads, {durability}")
            }
            BucketFigure::Open => f.write_str("open and warm up"),
            BucketFigure::OpenStorage => f.write_str("opening of the storage alone"),
            BucketFigure::Backfill => f.write_str("backfill to a recipient, warm"),
            BucketFigure::MemoryStream => f.write_str("in-memory stream, one consumer"),
            BucketFigure::Delivery => f.write_str("set to delivery, idle"),
            BucketFigure::StreamsMemory => f.write_str("memory of 10 streams"),
            BucketFigure::SetStreamed => f.write_str("set in memory, 4 live streams"),
            BucketFigure::DurableMajority => f.write_str("durable by majority, one at a time"),
            BucketFigure::DurableOnDisks => {
                f.write_str("durable on disks of a majority, one at a time")
            }
            BucketFigure::DurableAtOnce => f.write_str("durable by majority, 256 under way"),
            BucketFigure::ServesAgain => f.write_str("panicked, serves again"),
            BucketFigure::Beyond(beyond) => beyond.fmt(f),
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// Ours, of so many vbuckets.
    Bucket { vbuckets: u16 },
    /// A map and nothing else.
    DashMap,
    /// An empty message to an actor that does nothing.
    EmptyMessage,
    /// Our own storage without the bucket.
    Storage,
    /// A bare channel of handles.
    Channel,
    /// Ours, with one stream of each vbucket.
    OneStream,
    /// Ours, with no stream.
    NoStreams,
    /// Somebody else's store.
    Peer(Column),
}

impl Contender {
    /// Whether it is a peer of those kinds.
    pub(crate) fn is_peer_of(self, kinds: &[crate::stores::Kind]) -> bool {
        matches!(self, Contender::Peer(column) if kinds.contains(&column.kind))
    }

    /// A name for its directory.
    pub(crate) fn directory_name(self) -> String {
        self.to_string().replace([' ', ','], "-")
    }
}

impl Measured for Contender {}

impl Display for Contender {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Contender::Bucket { vbuckets } => write!(f, "bucket, {vbuckets} vbuckets"),
            Contender::DashMap => f.write_str("DashMap"),
            Contender::EmptyMessage => f.write_str("empty message"),
            Contender::Storage => f.write_str("own storage"),
            Contender::Channel => f.write_str("channel"),
            Contender::OneStream => f.write_str("one stream"),
            Contender::NoStreams => f.write_str("no streams"),
            Contender::Peer(column) => column.fmt(f),
        }
    }
}
