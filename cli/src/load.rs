//! `piggin load`: documents from a file or from standard input.
//!
//! A thread reads and this one writes, in batches, a bounded number of them at once. Invariant: two writes of one key
//! are never under way together, so that the last line of a key wins whatever has to be tried again; and a key is
//! acknowledged only by the answer that says its document is on disk.

mod acks;
mod changes_file;
mod writes;

use std::fmt;
use std::future::poll_fn;
use std::path::PathBuf;
use std::task::Poll;
use std::time::Duration;

use clap::Args;
use futures_channel::mpsc::{Receiver, channel};
use futures_util::stream::StreamExt;
use serde::Serialize;

use piggin::Bucket;
use piggin::messages::FailureCause;
use piggin::storage::CollectionId;

use crate::backoff::{Backoff, is_temporary};
use crate::collection_name::CollectionArgument;
use crate::disk_watch::{DiskWatch, durably, given_up};
use crate::failure::{CliError, Exit, exit_of};
use crate::input::{self, Format, Input, NewDocument, Rejection, Source};
use crate::interrupt::Interrupt;
use crate::output::{Output, bytes_in_words, counted};
use crate::progress::Progress;
use crate::session::Session;
use crate::stopwatch::{Stopwatch, per_second};
use acks::Acks;
use changes_file::ChangesFile;
use writes::{Writes, Written};

#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// The file to read; `-` is standard input. A name in .csv is read as CSV, anything else as NDJSON.
    file: PathBuf,
    /// The field (CSV: the column) that holds each document's key: a string, or a number as it is written.
    #[arg(long, value_name = "FIELD")]
    key: String,
    /// Have every document on disk before it counts as written.
    #[arg(long)]
    durable: bool,
    /// Append each key to this file, one a line, once its document is on disk.
    #[arg(long, value_name = "FILE", requires = "durable")]
    acks: Option<PathBuf>,
    /// Tell every change the load makes in this file, one a line as `piggin changes` does; what was in it goes.
    #[arg(long, value_name = "FILE")]
    changes: Option<PathBuf>,
    /// Tell the bucket's figures every second in its directory, for `piggin stat --watch`.
    #[arg(long)]
    figures: bool,
    /// Stop at the first bad line.
    #[arg(long)]
    strict: bool,
    /// Read the input as this, whatever its name says.
    #[arg(long, value_enum)]
    format: Option<Format>,
    #[command(flatten)]
    collection: CollectionArgument,
}

#[derive(Debug, Serialize)]
struct Loaded {
    documents: u64,
    rejected: u64,
    bytes: u64,
    seconds: f64,
    documents_per_second: f64,
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loaded {
            documents,
            rejected,
            bytes,
            seconds,
            documents_per_second,
        } = self;
        let bytes = bytes_in_words(*bytes);
        let documents = counted(*documents, "document");
        write!(
            f,
            "{documents} ({bytes}) on disk after {seconds:.2} s, {documents_per_second:.0} documents/s"
        )?;
        match rejected {
            0 => Ok(()),
            _ => write!(f, "; {} rejected", counted(*rejected, "line")),
        }
    }
}

/// As often as a person looks.
const TELLS_EVERY: Duration = Duration::from_secs(1);
/// Inputs waiting between the two threads, beside the one each holds.
const INPUTS_WAITING_MAX: usize = 4;

pub(crate) fn run(
    session: &Session,
    arguments: &LoadArguments,
    output: Output,
) -> Result<Exit, CliError> {
    // All that may be the caller's mistake comes before a bucket is made.
    let source = input::open(&arguments.file, arguments.format, &arguments.key)?;
    let acks = arguments.acks.as_deref().map(Acks::open).transpose()?;
    let file = arguments.changes.as_deref().map(ChangesFile::create);
    let file = file.transpose()?;
    let missing = arguments.collection.missing();
    let (loaded, exit) = session.with_bucket(missing, async |bucket| {
        let collection = arguments.collection.of(bucket)?.id();
        let directory = session.directory();
        let tells = arguments
            .figures
            .then(|| bucket.tell_figures(directory, TELLS_EVERY));
        let tells = tells.transpose();
        let tells = tells.map_err(|error| CliError::storage(directory, &error))?;
        let told = match (file, &arguments.changes) {
            (Some(file), Some(path)) => {
                Some(ChangesFile::follow(file, path, directory, bucket).await?)
            }
            (_, _) => None,
        };
        let mut load = Load::new(session, arguments, bucket, source, acks);
        load.collection = collection;
        let loaded = load.run().await;
        // What was accepted is told, also when the load came to a bad end; not when the disk takes no more.
        let is_stuck = loaded.as_ref().is_err_and(|error| error.is_disk_stuck);
        let told = match told {
            Some(told) if !is_stuck => told.finish(directory, bucket).await,
            Some(_) | None => Ok(Exit::Done),
        };
        if let Some(tells) = tells.filter(|_| !is_stuck) {
            tells.end();
        }
        let (loaded, exit) = loaded?;
        let is_told = told? == Exit::Done;
        Ok((loaded, if is_told { exit } else { Exit::Failure }))
    })?;
    output.answer(&loaded)?;
    Ok(exit)
}

struct Load<'a> {
    session: &'a Session,
    arguments: &'a LoadArguments,
    bucket: &'a Bucket,
    collection: CollectionId,
    input: Receiver<Input>,
    writes: Writes<'a>,
    acks: Option<Acks>,
    interrupt: Interrupt,
    progress: Progress,
    stopwatch: Stopwatch,
    backoff: Backoff,
    watch: DiskWatch<'a>,
    /// No more input is taken; what is under way is brought to its end.
    is_ending: bool,
    was_interrupted: bool,
    exit: Exit,
    documents: u64,
    rejected: u64,
    bytes: u64,
}

/// What happens next.
enum Event {
    Input(Option<Input>),
    Interrupted,
    Written(Written),
    /// The disk takes no more of what is under way.
    Stuck(FailureCause),
}

impl<'a> Load<'a> {
    fn new(
        session: &'a Session,
        arguments: &'a LoadArguments,
        bucket: &'a Bucket,
        source: Source,
        acks: Option<Acks>,
    ) -> Load<'a> {
        let (to, input) = channel(INPUTS_WAITING_MAX);
        let interrupt = Interrupt::listen();
        let progress = Progress::of_bytes(source.length, "loading");
        let reader = source.reader;
        // Never joined: it may wait for a line that never comes.
        std::thread::spawn(move || input::read_all(reader, to));
        Load {
            session,
            arguments,
            bucket,
            collection: CollectionId::DEFAULT,
            input,
            writes: Writes::new(bucket, arguments.durable),
            acks,
            interrupt,
            progress,
            stopwatch: Stopwatch::start(),
            backoff: Backoff::new(),
            watch: DiskWatch::new(bucket),
            is_ending: false,
            was_interrupted: false,
            exit: Exit::Done,
            documents: 0,
            rejected: 0,
            bytes: 0,
        }
    }

    async fn run(mut self) -> Result<(Loaded, Exit), CliError> {
        let mut trouble = None;
        while let Some(event) = self.next().await {
            let done = match event {
                Event::Input(input) => self.take(input),
                Event::Interrupted => {
                    self.was_interrupted = true;
                    self.end();
                    Ok(())
                }
                Event::Written(written) => self.settle(written),
                Event::Stuck(cause) => {
                    let stuck = CliError::stuck(self.session.directory(), &cause);
                    trouble = trouble.or(Some(stuck));
                    break;
                }
            };
            if let Err(error) = done {
                // What is under way is waited for, so that nothing acknowledged goes uncounted.
                self.end();
                trouble = trouble.or(Some(error));
            }
        }
        if self.was_interrupted {
            trouble = trouble.or_else(|| Some(interrupted()));
        }
        let flushed = match &trouble {
            Some(error) if error.is_disk_stuck => Ok(false),
            _ => self.flush().await.map(|()| true),
        };
        let is_on_disk = self.arguments.durable || matches!(flushed, Ok(true));
        let error = match (trouble, flushed.err()) {
            (None, None) => return Ok((self.loaded(), self.exit)),
            (Some(first), Some(second)) => {
                self.progress.warn(format_args!("error: {first}"));
                second
            }
            (Some(error), None) | (None, Some(error)) => error,
        };
        let fate = if is_on_disk {
            "on disk"
        } else {
            "accepted, but perhaps not on disk"
        };
        let documents = counted(self.documents, "document");
        let bytes = bytes_in_words(self.bytes);
        self.progress
            .warn(format_args!("stopped early: {documents} ({bytes}) {fate}"));
        Err(error)
    }

    /// Has everything accepted on disk.
    async fn flush(&self) -> Result<(), CliError> {
        let directory = self.session.directory();
        let request = async || self.bucket.flush().await;
        durably(directory, self.bucket, &self.interrupt, request).await
    }

    /// Waits for what happens next; `None` when there is nothing left to wait for.
    async fn next(&mut self) -> Option<Event> {
        self.writes.start();
        let wants_input = !self.is_ending && self.writes.has_room();
        let (writes, input) = (&mut self.writes, &mut self.input);
        let (is_ending, interrupt) = (self.is_ending, &self.interrupt);
        let watch = &mut self.watch;
        poll_fn(|context| {
            if !is_ending && interrupt.poll_asked(context) {
                return Poll::Ready(Some(Event::Interrupted));
            }
            if let Poll::Ready(Some(written)) = writes.poll_written(context) {
                return Poll::Ready(Some(Event::Written(written)));
            }
            if writes.is_idle() {
                watch.succeeded();
            } else if let Poll::Ready(cause) = watch.poll_stuck(context) {
                return Poll::Ready(Some(Event::Stuck(cause)));
            }
            if wants_input {
                return input
                    .poll_next_unpin(context)
                    .map(|input| Some(Event::Input(input)));
            }
            if writes.is_idle() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    fn take(&mut self, input: Option<Input>) -> Result<(), CliError> {
        match input {
            None => self.is_ending = true,
            Some(Input::Documents {
                documents,
                position,
            }) => {
                self.progress.at(position);
                self.add(documents);
            }
            Some(Input::Rejected(rejection)) => self.reject(&rejection, Exit::Mistake),
            Some(Input::Failed(error)) => {
                return Err(CliError::file(&input::shown(&self.arguments.file), &error));
            }
        }
        Ok(())
    }

    fn add(&mut self, documents: Vec<NewDocument>) {
        for document in documents {
            let unfit = self.acks.as_ref().and_then(|_| acks::unfit(&document));
            let document = match unfit {
                Some(rejection) => Err(rejection),
                None => document.within(self.collection),
            };
            match document {
                Ok(document) => self.writes.add(document),
                Err(rejection) => self.reject(&rejection, Exit::Mistake),
            }
            if self.is_ending {
                return;
            }
        }
    }

    /// Counts what was written, and tries again what failed for the time being.
    fn settle(&mut self, written: Written) -> Result<(), CliError> {
        let mut accepted = Vec::new();
        let mut again = Vec::new();
        let mut last = None;
        for (document, answer) in written.into_answers() {
            match answer {
                Ok(_) => accepted.push(document),
                Err(error) if is_temporary(&error) => {
                    again.push(document);
                    last = Some(error);
                }
                Err(error) => {
                    self.writes.settled(&document);
                    let rejection = Rejection {
                        line: document.line,
                        reason: error.to_string(),
                    };
                    self.reject(&rejection, exit_of(&error));
                }
            }
        }
        if self.is_ending && self.arguments.strict {
            self.writes.forget_unstarted();
        }
        self.accept(&accepted)?;
        let Some(error) = last else { return Ok(()) };
        let pause = self.backoff.pause();
        let Some(pause) = pause.filter(|_| !self.interrupt.is_asked()) else {
            for document in &again {
                self.writes.settled(document);
            }
            return Err(given_up(self.session.directory(), self.bucket, &error));
        };
        // The whole bucket is busy, so everything waits.
        self.interrupt.wait(pause);
        self.writes.again(again);
        Ok(())
    }

    fn accept(&mut self, documents: &[NewDocument]) -> Result<(), CliError> {
        if documents.is_empty() {
            return Ok(());
        }
        self.backoff.succeeded();
        self.watch.succeeded();
        for document in documents {
            self.writes.settled(document);
            self.documents = self.documents.saturating_add(1);
            self.bytes = self.bytes.saturating_add(document.value.len() as u64);
        }
        match &mut self.acks {
            Some(acks) => acks.append(documents),
            None => Ok(()),
        }
    }

    fn reject(&mut self, rejection: &Rejection, exit: Exit) {
        // With `--strict` the line that stopped it is the last one told.
        let is_stopped = self.arguments.strict && self.exit != Exit::Done;
        if is_stopped {
            return;
        }
        self.progress.warn(rejection);
        self.rejected = self.rejected.saturating_add(1);
        if self.exit != Exit::Failure {
            self.exit = exit;
        }
        self.is_ending |= self.arguments.strict;
    }

    /// Takes no more input, and starts nothing that was not started yet.
    fn end(&mut self) {
        self.is_ending = true;
        self.writes.forget_unstarted();
    }

    fn loaded(&self) -> Loaded {
        let seconds = self.stopwatch.elapsed().as_secs_f64();
        Loaded {
            documents: self.documents,
            rejected: self.rejected,
            bytes: self.bytes,
            seconds,
            documents_per_second: per_second(self.documents, seconds),
        }
    }
}

fn interrupted() -> CliError {
    CliError::failure(
        "interrupted",
        "what was accepted is on disk; run it again to load the rest",
    )
}
