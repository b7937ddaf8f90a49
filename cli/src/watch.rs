//! `piggin stat --watch`: the figures of a bucket that another process has open, again and again, as that process tells them.
//!
//! Invariant: the bucket is not opened, and nothing is written. It ends when the telling ends, when nothing is told for
//! too long, or when the user asks for it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use piggin::Figures;

use crate::failure::{CliError, Exit};
use crate::interrupt::Interrupt;
use crate::output::{Output, bytes_in_words};
use crate::session::Session;

/// Tellings that may be missed before nobody tells any more.
const MISSED_MAX: u32 = 10;

/// One telling, and what happened since the one before, by the second.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    figures: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flushed_per_second: Option<u64>,
}

impl Line {
    fn new(now: &Figures, before: Option<&Figures>) -> Line {
        let per_second = |name: &str| {
            let before = before?;
            let millis = now.time_ms.saturating_sub(before.time_ms).max(1);
            let more = now.value(name).saturating_sub(before.value(name));
            more.saturating_mul(1000).checked_div(millis)
        };
        Line {
            writes_per_second: per_second("written"),
            flushed_per_second: per_second("persisted"),
            figures: now.values.clone(),
        }
    }

    fn value(&self, name: &str) -> u64 {
        self.figures.get(name).copied().unwrap_or(0)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |rate: Option<u64>| rate.map_or("-".to_owned(), |rate| rate.to_string());
        write!(
            f,
            "{} documents  memory {}  disk {}  unpersisted {}  writes/s {}  flushed/s {}",
            self.value("documents"),
            bytes_in_words(self.value("memory_bytes")),
            bytes_in_words(self.value("disk_bytes")),
            self.value("unpersisted"),
            rate(self.writes_per_second),
            rate(self.flushed_per_second),
        )?;
        for name in [
            "compactions",
            "backfills",
            "replicas",
            "durable_writes",
            "vbuckets_down",
            "restarts",
            "failures",
        ] {
            // What is as it should be says nothing.
            if self.value(name) > 0 {
                write!(f, "  {} {}", name.replace('_', " "), self.value(name))?;
            }
        }
        Ok(())
    }
}

pub(crate) fn run(session: &Session, seconds: u64, output: Output) -> Result<Exit, CliError> {
    let directory = session.directory();
    if !directory.exists() {
        return Err(CliError::no_bucket(directory));
    }
    let interrupt = Interrupt::listen();
    let pause = Duration::from_secs(seconds);
    let mut before = read(directory)?.ok_or_else(|| untold(directory))?;
    output.answer(&Line::new(&before, None))?;
    let mut waited = Duration::ZERO;
    loop {
        interrupt.wait(pause);
        if interrupt.is_asked() {
            return Ok(Exit::Done);
        }
        // Whoever told them ended in order.
        let Some(now) = read(directory)? else {
            return Ok(Exit::Done);
        };
        if (now.number, now.time_ms) != (before.number, before.time_ms) {
            output.answer(&Line::new(&now, Some(&before)))?;
            (before, waited) = (now, Duration::ZERO);
            continue;
        }
        waited = waited.saturating_add(pause);
        if waited > Duration::from_millis(now.every_ms).saturating_mul(MISSED_MAX) {
            return Err(CliError::failure(
                format!("no figures were told for {} s", waited.as_secs()),
                "the process that had the bucket open was killed, or stands still",
            ));
        }
    }
}

fn read(directory: &Path) -> Result<Option<Figures>, CliError> {
    Figures::read(directory).map_err(|error| CliError::storage(directory, &error))
}

fn untold(directory: &Path) -> CliError {
    CliError::mistake(
        format!(
            "nobody tells the figures of the bucket in {}",
            directory.display()
        ),
        "run what uses it with --figures (piggin load), or call Bucket::tell_figures there; of a bucket that nobody uses, run `piggin stat`",
    )
}
