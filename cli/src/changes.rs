//! `piggin changes`: what happened in the bucket, one event a line, from a token or from the beginning up to now.
//!
//! Invariant: the last line is a token that covers exactly the lines before it; who begins with it next time misses
//! nothing. A vbucket whose stream did not come to its end makes the command fail, after everything else was told.

mod event;
mod lines;

use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;

use clap::Args;
use futures_util::stream::Stream;

use piggin::messages::stream::{StreamEndReason, StreamEvent, StreamFilter, StreamRequestError};
use piggin::storage::VbucketId;
use piggin::{Bucket, Change, Changes, ChangesError, ChangesOptions, ChangesToken, Since, Until};

use crate::collection_name::CollectionName;
use crate::failure::{CliError, Exit};
use crate::interrupt::Interrupt;
use crate::output;
use crate::session::{Missing, Session};
pub(crate) use event::{base64, in_json};
pub(crate) use lines::Lines;

#[derive(Debug, Args)]
pub(crate) struct ChangesArguments {
    /// Begin behind what this token covers, as an earlier run told it; else with the oldest.
    #[arg(long, value_name = "TOKEN")]
    from: Option<ChangesToken>,
    /// Tell only of this collection.
    #[arg(long, value_name = "SCOPE.COLLECTION")]
    collection: Option<CollectionName>,
    /// Tell every version that the bucket's history holds, and not only the newest of each document.
    #[arg(long)]
    history: bool,
    /// Tell a token every thousand lines, too.
    #[arg(long)]
    tokens: bool,
}

pub(crate) fn run(session: &Session, arguments: &ChangesArguments) -> Result<Exit, CliError> {
    let interrupt = Interrupt::listen();
    session.with_bucket(Missing::IsAMistake, async |bucket| {
        let since = arguments
            .from
            .clone()
            .map_or(Since::Beginning, Since::Token);
        let options = ChangesOptions {
            since,
            until: Until::Now,
            filter: filter(bucket, arguments.collection.as_ref())?,
            history: arguments.history,
            ..ChangesOptions::default()
        };
        let changes = open(session.directory(), bucket, options).await?;
        let mut lines = Lines::new(io::stdout().lock(), arguments.tokens);
        tell(changes, &mut lines, &interrupt)
            .await
            .map_err(|error| CliError::file(Path::new("standard output"), &error))
    })
}

/// Tells all changes, then the token.
async fn tell(
    mut changes: Changes,
    lines: &mut Lines<impl io::Write>,
    interrupt: &Interrupt,
) -> io::Result<Exit> {
    let mut exit = Exit::Done;
    loop {
        let next = poll_fn(|context| {
            if interrupt.poll_asked(context) {
                return Poll::Ready(Err(()));
            }
            Pin::new(&mut changes).poll_next(context).map(Ok)
        });
        let change = match next.await {
            Ok(Some(change)) => change,
            Ok(None) => break,
            Err(()) => {
                output::warn("interrupted; the token covers what was told");
                exit = Exit::Failure;
                break;
            }
        };
        if let Some(trouble) = trouble(&change) {
            output::warn(trouble);
            exit = Exit::Failure;
        }
        lines.change(&change)?;
        if lines.is_token_due() {
            lines.token(&changes.token())?;
        }
    }
    lines.token(&changes.token())?;
    lines.flush()?;
    Ok(exit)
}

/// What is to be said of a stream that did not come to its end.
pub(crate) fn trouble(change: &Change) -> Option<String> {
    let StreamEvent::StreamEnd(reason) = change.event else {
        return None;
    };
    let vbucket = change.vbucket;
    let remedy = match reason {
        StreamEndReason::Ok => return None,
        StreamEndReason::BackfillFail => "see what is damaged: piggin verify",
        StreamEndReason::Rollback => "what was told of it may be gone: begin without a token",
        StreamEndReason::FilterEmpty => "the collection was dropped",
        StreamEndReason::VbucketDown => "see why: piggin stat",
        StreamEndReason::Closed
        | StreamEndReason::StateChanged
        | StreamEndReason::Disconnected
        | StreamEndReason::Slow
        | StreamEndReason::LostPrivileges => "run it again with the token",
    };
    Some(ended(vbucket, reason, remedy))
}

fn ended(vbucket: VbucketId, reason: StreamEndReason, remedy: impl Display) -> String {
    let reason = reason.name();
    format!("error: the changes of vbucket {vbucket} broke off: {reason}\n  {remedy}")
}

/// Opens the changes of a bucket for a command.
pub(crate) async fn open(
    directory: &Path,
    bucket: &Bucket,
    options: ChangesOptions,
) -> Result<Changes, CliError> {
    let opened = bucket.changes(options).await;
    opened.map_err(|error| {
        if let ChangesError::Bucket(error)
        | ChangesError::Request(StreamRequestError::Vbucket(error)) = &error
        {
            return CliError::operation(directory, error);
        }
        CliError::mistake(error.to_string(), "ask for something else")
    })
}

/// What is told: the changes of one collection, or all.
fn filter(bucket: &Bucket, name: Option<&CollectionName>) -> Result<StreamFilter, CliError> {
    Ok(match name {
        Some(name) => StreamFilter::Collections(vec![name.of(bucket)?.id()]),
        None => StreamFilter::All,
    })
}
