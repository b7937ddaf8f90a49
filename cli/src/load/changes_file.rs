//! `load --changes FILE`: the changes a load makes, told in a file as they happen.
//!
//! A thread of its own follows the bucket while the load goes on. Invariant: what was told is in the file before more is
//! waited for; when the load is over the file holds every change it made, each vbucket's in order, and a token behind
//! them; a file that cannot be written fails the load.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::Poll;
use std::thread::JoinHandle;

use futures_channel::oneshot;
use futures_executor::block_on;
use futures_util::future::FutureExt;
use futures_util::stream::Stream;

use piggin::{Bucket, Change, ChangesOptions, ChangesToken, Since, Until};

use crate::changes::{self, Lines};
use crate::failure::{CliError, Exit};
use crate::output;

/// A file that follows a load.
#[derive(Debug)]
pub(super) struct ChangesFile {
    path: PathBuf,
    over: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<(Lines<File>, ChangesToken)>>,
}

impl ChangesFile {
    /// Opens the file; what was in it goes.
    pub(super) fn create(path: &Path) -> Result<File, CliError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[expect(
            clippy::disallowed_methods,
            reason = "a file of the user, not of the store"
        )]
        let opened = options.open(path);
        opened.map_err(|error| CliError::file(path, &error))
    }

    /// Follows the bucket from now on.
    pub(super) async fn follow(
        file: File,
        path: &Path,
        directory: &Path,
        bucket: &Bucket,
    ) -> Result<ChangesFile, CliError> {
        let now = ChangesOptions {
            since: Since::Now,
            ..ChangesOptions::default()
        };
        let mut changes = changes::open(directory, bucket, now).await?;
        let mut lines = Lines::new(file, false);
        let (over, mut is_over) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            block_on(async {
                while let Some(change) = until(&mut changes, &mut is_over, &mut lines).await? {
                    lines.change(&change)?;
                }
                Ok((lines, changes.token()))
            })
        });
        Ok(ChangesFile {
            path: path.to_owned(),
            over,
            thread,
        })
    }

    /// The load is over, and what it wrote is on disk: tells what is left, and the token.
    pub(super) async fn finish(self, directory: &Path, bucket: &Bucket) -> Result<Exit, CliError> {
        let ChangesFile { path, over, thread } = self;
        // A thread that ended early says why below.
        over.send(()).ok();
        let failed = |error: &io::Error| CliError::file(&path, error);
        let followed = thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("whoever wrote it panicked")));
        let (mut lines, token) = followed.map_err(|error| failed(&error))?;
        let rest = ChangesOptions {
            since: Since::Token(token),
            until: Until::Now,
            ..ChangesOptions::default()
        };
        let mut changes = changes::open(directory, bucket, rest).await?;
        let mut exit = Exit::Done;
        while let Some(change) = changes.next().await {
            if let Some(trouble) = changes::trouble(&change) {
                output::warn(trouble);
                exit = Exit::Failure;
            }
            lines.change(&change).map_err(|error| failed(&error))?;
        }
        let told = lines.token(&changes.token()).and_then(|()| lines.flush());
        told.map_err(|error| failed(&error))?;
        Ok(exit)
    }
}

/// The next change, unless it is over before. Before it waits it has what was told written.
async fn until(
    changes: &mut piggin::Changes,
    is_over: &mut oneshot::Receiver<()>,
    lines: &mut Lines<File>,
) -> io::Result<Option<Change>> {
    std::future::poll_fn(|context| {
        if is_over.poll_unpin(context).is_ready() {
            return Poll::Ready(Ok(None));
        }
        let next = pin!(&mut *changes).poll_next(context);
        if next.is_pending() {
            lines.flush()?;
        }
        next.map(Ok)
    })
    .await
}
