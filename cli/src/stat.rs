//! `piggin stat`: how the bucket stands.

use std::collections::BTreeMap;
use std::fmt;

use clap::Args;
use serde::Serialize;

use piggin::BucketStatistics;
use piggin::messages::vbucket::VbucketDescription;
use piggin::storage::VbucketState;
use piggin::supervisor::restart::{ChildState, ChildStatus};

use crate::failure::{CliError, Exit};
use crate::output::{Output, bytes_in_words, counted};
use crate::session::{Missing, Session};
use crate::watch;

#[derive(Debug, Serialize)]
struct Statistics {
    documents: u64,
    resident_documents: u64,
    eviction: &'static str,
    memory_bytes: u64,
    memory_quota_bytes: u64,
    disk_bytes: u64,
    live_bytes: u64,
    failures: BTreeMap<&'static str, u64>,
    children: Vec<Child>,
    vbuckets: Vec<Vbucket>,
}

#[derive(Debug, Serialize)]
struct Child {
    name: String,
    state: &'static str,
    generation: u64,
    restarts: u64,
    last_failure: Option<String>,
}

#[derive(Debug, Serialize)]
struct Vbucket {
    id: u16,
    state: &'static str,
    high_seqno: u64,
    persisted_seqno: u64,
    documents: u64,
    purge_seqno: u64,
    down: Option<String>,
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "documents  {}", self.documents)?;
        let memory = bytes_in_words(self.memory_bytes);
        let quota = bytes_in_words(self.memory_quota_bytes);
        let resident = counted(self.resident_documents, "document");
        write!(f, "memory     {memory} of {quota}, {resident}")?;
        writeln!(f, "; eviction of {}", self.eviction)?;
        let disk = bytes_in_words(self.disk_bytes);
        let live = bytes_in_words(self.live_bytes);
        writeln!(f, "disk       {disk}, {live} of it live")?;
        let states = self.children.iter().map(|child| child.state);
        writeln!(f, "children   {}", by_count(states))?;
        for child in self.children.iter().filter(|child| child.is_notable()) {
            let (name, state) = (&child.name, child.state);
            let restarts = counted(child.restarts, "restart");
            write!(f, "  {name}: {state}, {restarts}")?;
            match &child.last_failure {
                Some(failure) => writeln!(f, "; last failure: {failure}")?,
                None => writeln!(f)?,
            }
        }
        for (kind, count) in self.failures.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "{kind}  {count}")?;
        }
        let states = self.vbuckets.iter().map(|vbucket| vbucket.state);
        write!(f, "vbuckets   {}", by_count(states))?;
        for vbucket in &self.vbuckets {
            if let Some(cause) = &vbucket.down {
                write!(f, "\n  vbucket {} is out of service: {cause}", vbucket.id)?;
            }
        }
        Ok(())
    }
}

/// How often each state occurs: `127 active, 1 dead`.
fn by_count(states: impl Iterator<Item = &'static str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for state in states {
        let count = counts.entry(state).or_default();
        *count = count.saturating_add(1);
    }
    let counts = counts
        .iter()
        .map(|(state, count)| format!("{count} {state}"));
    counts.collect::<Vec<String>>().join(", ")
}

impl Child {
    /// Whether a person wants to see more of it than that it is there.
    fn is_notable(&self) -> bool {
        self.restarts > 0 || self.last_failure.is_some()
    }
}

#[derive(Debug, Args)]
pub(crate) struct StatArguments {
    /// Say it again and again, every so many seconds (1 if not said), of a bucket that another process uses and tells the figures of.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
}

pub(crate) fn run(
    session: &Session,
    arguments: &StatArguments,
    output: Output,
) -> Result<Exit, CliError> {
    if let Some(seconds) = arguments.watch {
        return watch::run(session, seconds, output);
    }
    let statistics =
        session.with_bucket(Missing::IsAMistake, async |bucket| Ok(bucket.statistics()))?;
    output.answer(&Statistics::from(statistics))?;
    Ok(Exit::Done)
}

impl From<BucketStatistics> for Statistics {
    fn from(from: BucketStatistics) -> Statistics {
        Statistics {
            documents: from.documents,
            resident_documents: from.memory.resident_documents,
            eviction: from.memory.eviction.name(),
            memory_bytes: from.memory.bytes,
            memory_quota_bytes: from.memory.quota_bytes,
            disk_bytes: from.disk_bytes,
            live_bytes: from.live_bytes,
            failures: from.failures,
            children: from.children.into_iter().map(Child::from).collect(),
            vbuckets: from.vbuckets.into_iter().map(Vbucket::from).collect(),
        }
    }
}

impl From<ChildStatus> for Child {
    fn from(from: ChildStatus) -> Child {
        Child {
            name: from.name.to_string(),
            state: match from.state {
                ChildState::NotStarted => "not started",
                ChildState::Starting => "starting",
                ChildState::Up => "up",
                ChildState::BackingOff => "backing off",
                ChildState::Held => "held",
                ChildState::Restarting => "restarting",
                ChildState::Stalled => "stalled",
                ChildState::OutOfService => "out of service",
                ChildState::Lost => "lost",
                ChildState::Finished => "finished",
                ChildState::Stopping => "stopping",
                ChildState::Stopped => "stopped",
            },
            generation: from.generation.0,
            restarts: from.restarts,
            last_failure: from.last_failure.map(|failure| failure.to_string()),
        }
    }
}

impl From<VbucketDescription> for Vbucket {
    fn from(from: VbucketDescription) -> Vbucket {
        Vbucket {
            id: from.vbucket.get(),
            state: match from.state {
                VbucketState::Active => "active",
                VbucketState::Replica => "replica",
                VbucketState::Pending => "pending",
                VbucketState::Dead => "dead",
            },
            high_seqno: from.high_seqno.0,
            persisted_seqno: from.persisted_seqno.0,
            documents: from.documents,
            purge_seqno: from.purge_seqno.0,
            down: from.down.map(|cause| cause.to_string()),
        }
    }
}
