//! What may be said on the command line. The comments here are the text of `--help`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::amend::{CountArguments, ExtendArguments, TouchArguments};
use crate::backup::BackupArguments;
use crate::bench::BenchArguments;
use crate::changes::ChangesArguments;
use crate::collections::CollectionsArguments;
use crate::compact::CompactArguments;
use crate::create::CreateArguments;
use crate::get::GetArguments;
use crate::history::HistoryArguments;
use crate::load::LoadArguments;
use crate::put::PutArguments;
use crate::remove::RemoveArguments;
use crate::restore::RestoreArguments;
use crate::scan::ScanArguments;
use crate::stat::StatArguments;
use crate::verify::VerifyArguments;

/// A durable document store in one directory.
///
/// Exits with 0 when done, 1 when the mistake is the caller's, 2 when something failed or is damaged. A command that
/// writes exits with 0 only after its data is on disk.
#[derive(Debug, Parser)]
#[command(name = "piggin", version)]
pub(crate) struct Arguments {
    /// The bucket's directory.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "./piggin-data"
    )]
    pub(crate) data: PathBuf,
    /// Answer with JSON on standard output.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Memory the bucket may use for its documents, in MiB [default: the engine's].
    #[arg(long, global = true, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub(crate) memory: Option<u64>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a bucket. `load` and `put` make one with the defaults where there is none.
    Create(CreateArguments),
    /// Load documents from a file, or from standard input.
    Load(LoadArguments),
    /// Write a document's value to standard output.
    Get(GetArguments),
    /// Write a document.
    Put(PutArguments),
    /// Put bytes behind a document's value.
    Append(ExtendArguments),
    /// Put bytes before a document's value.
    Prepend(ExtendArguments),
    /// Count a document's number up.
    Incr(CountArguments),
    /// Count a document's number down, to zero at most.
    Decr(CountArguments),
    /// Give a document another expiry.
    Touch(TouchArguments),
    /// Remove a document.
    Remove(RemoveArguments),
    /// Tell the documents of a range of keys, by rising key, one a line.
    Scan(ScanArguments),
    /// Tell what happened in the bucket, one event a line, up to now.
    Changes(ChangesArguments),
    /// Tell the versions of a document that are kept, newest first, one a line.
    History(HistoryArguments),
    /// Make a bucket of what this one was at an earlier time or token.
    Restore(RestoreArguments),
    /// List, make and drop collections.
    Collections(CollectionsArguments),
    /// Say how the bucket stands.
    Stat(StatArguments),
    /// Rewrite the bucket without what nobody needs any more.
    Compact(CompactArguments),
    /// Copy the whole bucket into another directory, read back and compared.
    Backup(BackupArguments),
    /// Read every byte that counts, and name each fault.
    Verify(VerifyArguments),
    /// Time a bucket of its own under the YCSB workloads.
    Bench(BenchArguments),
}
