//! `piggin compact`: rewrites the bucket without what nobody needs any more.
//!
//! Invariant: what it reports as compacted is on disk; a vbucket that failed is named with its stage and its cause, and
//! its data is as it was.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use clap::Args;
use futures_timer::Delay;
use futures_util::future::FutureExt;
use serde::Serialize;

use piggin::messages::{CompactError, CompactOptions};
use piggin::storage::VbucketId;
use piggin::{Bucket, CompactionReport};

use crate::failure::{CliError, Exit};
use crate::interrupt::Interrupt;
use crate::output::{self, Output, bytes_in_words, counted};
use crate::progress::Progress;
use crate::session::{Missing, Session};
use crate::stopwatch::Stopwatch;

#[derive(Debug, Args)]
pub(crate) struct CompactArguments {
    /// Only this vbucket.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..i64::from(VbucketId::COUNT_MAX)))]
    vbucket: Option<u16>,
    /// Forget deletions, however new: whoever follows the bucket and has not seen them yet must begin anew.
    #[arg(long)]
    drop_deletes: bool,
}

#[derive(Debug, Serialize)]
struct Compaction {
    vbuckets: usize,
    failed: usize,
    bytes_before: u64,
    bytes_after: u64,
    tombstones_purged: u64,
    seconds: f64,
}

impl fmt::Display for Compaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compaction {
            vbuckets,
            failed,
            bytes_before,
            bytes_after,
            tombstones_purged,
            seconds,
        } = self;
        let vbuckets = counted(*vbuckets as u64, "vbucket");
        let (before, after) = (bytes_in_words(*bytes_before), bytes_in_words(*bytes_after));
        let tombstones = counted(*tombstones_purged, "tombstone");
        write!(
            f,
            "{vbuckets} in {seconds:.2} s: {before} became {after}, {tombstones} purged"
        )?;
        match failed {
            0 => Ok(()),
            _ => write!(f, "; {failed} failed"),
        }
    }
}

pub(crate) fn run(
    session: &Session,
    arguments: &CompactArguments,
    output: Output,
) -> Result<Exit, CliError> {
    let only = arguments.vbucket.and_then(VbucketId::new);
    let options = CompactOptions {
        drop_deletes: arguments.drop_deletes,
        purge_before_s: None,
    };
    let (report, seconds) = session.with_bucket(Missing::IsAMistake, async |bucket| {
        let stopwatch = Stopwatch::start();
        let report = compact(bucket, only, options).await?;
        Ok((report, stopwatch.elapsed().as_secs_f64()))
    })?;
    let total = report.total();
    output.answer(&Compaction {
        vbuckets: report.vbuckets.len(),
        failed: report.failed().count(),
        bytes_before: total.bytes_before,
        bytes_after: total.bytes_after,
        tombstones_purged: total.tombstones_purged,
        seconds,
    })?;
    for (vbucket, error) in report.failed() {
        output::warn(format_args!("vbucket {vbucket}: {error}"));
    }
    match report.failed().count() {
        0 => Ok(Exit::Done),
        count => Err(CliError::failure(
            format!("{} not compacted", counted(count as u64, "vbucket")),
            "what failed is as it was; see that the disk is sound and has room, then run it again",
        )),
    }
}

async fn compact(
    bucket: &Bucket,
    only: Option<VbucketId>,
    options: CompactOptions,
) -> Result<CompactionReport, CliError> {
    let (report, was_interrupted) = match only {
        None => watched(bucket, bucket.vbucket_count(), bucket.compact_all(options)).await,
        Some(vbucket) => {
            let compacted = watched(bucket, 1, bucket.compact(vbucket, options)).await;
            let (result, was_interrupted) = compacted;
            if let Err(error) = &result
                && let Some(remedy) = mistaken(error, bucket.vbucket_count())
            {
                return Err(CliError::mistake(error.to_string(), remedy));
            }
            let vbuckets = vec![(vbucket, result)];
            (CompactionReport { vbuckets }, was_interrupted)
        }
    };
    if was_interrupted {
        return Err(CliError::failure(
            "interrupted",
            "what was compacted stays so; run it again for the rest",
        ));
    }
    Ok(report)
}

/// What to do instead, if that vbucket cannot be compacted at all.
fn mistaken(error: &CompactError, vbuckets: u16) -> Option<String> {
    if let CompactError::UnknownVbucket(_) = error {
        return Some(format!("give a number below {vbuckets}"));
    }
    let is_dead = matches!(error, CompactError::VbucketDead(_));
    is_dead.then(|| "a dead vbucket is not compacted: delete it, or make it active".to_owned())
}

/// How often the progress is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Waits for an answer, shows how many compactions are left, and gives them up when the user asks to stop; whether he
/// did.
async fn watched<T>(bucket: &Bucket, count: u16, answer: impl Future<Output = T>) -> (T, bool) {
    let progress = Progress::of_steps(u64::from(count), "compacting");
    let interrupt = Interrupt::listen();
    let mut was_interrupted = false;
    let mut tick = Delay::new(TICK);
    let mut answer = pin!(answer);
    poll_fn(|context| {
        // First: what was not asked for yet cannot be given up.
        if let Poll::Ready(answer) = answer.as_mut().poll(context) {
            return Poll::Ready((answer, was_interrupted));
        }
        if !was_interrupted && interrupt.poll_asked(context) {
            was_interrupted = true;
            let left = bucket.cancel_compactions(None);
            progress.warn(format_args!("giving up {left} compactions"));
        }
        while tick.poll_unpin(context).is_ready() {
            tick.reset(TICK);
            let left = bucket.compactions().len() as u64;
            progress.at(u64::from(count).saturating_sub(left));
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_vbucket_is_not_answered_with_a_range_of_numbers() {
        let vbucket = VbucketId::new(3).unwrap();
        let dead = mistaken(&CompactError::VbucketDead(vbucket), 8).unwrap();
        assert!(dead.contains("delete it"), "{dead}");
        let unknown = mistaken(&CompactError::UnknownVbucket(vbucket), 2);
        assert_eq!(unknown.as_deref(), Some("give a number below 2"));
        assert_eq!(mistaken(&CompactError::Closed, 8), None);
    }
}
