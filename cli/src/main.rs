//! The command line: parse, dispatch, exit code. Nothing else is decided here.
//!
//! Invariant: a command ends in an [`Exit`] or in a [`CliError`], which says the fact and the remedy; whatever writes
//! exits with [`Exit::Done`] only after its data is synced.

mod failure;
mod output;
mod progress;
mod stopwatch;
mod interrupt;
mod arguments;
mod session;
mod backoff;
mod disk_watch;
mod input;
mod collection_name;
mod amounts;
mod instant;
mod create;
mod collections;
mod load;
mod get;
mod put;
mod amend;
mod remove;
mod changes;
mod history;
mod restore;
mod scan;
mod stat;
mod watch;
mod compact;
mod verify;
mod repair;
mod backup;
mod bench;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};
use crate::failure::{CliError, Exit};
use crate::output::Output;
use crate::session::Session;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::usage(&error).into(),
    };
    match dispatch(&arguments) {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::complain(&error);
            error.exit.into()
        }
    }
}

fn dispatch(arguments: &Arguments) -> Result<Exit, CliError> {
    let output = Output::new(arguments.json);
    let session = Session::new(arguments);
    match &arguments.command {
        Command::Create(create) => create::run(&session, create, output),
        Command::Load(load) => load::run(&session, load, output),
        Command::Get(get) => get::run(&session, get, output),
        Command::Put(put) => put::run(&session, put, output),
        Command::Append(extend) => amend::append(&session, extend, output),
        Command::Prepend(extend) => amend::prepend(&session, extend, output),
        Command::Incr(count) => amend::increment(&session, count, output),
        Command::Decr(count) => amend::decrement(&session, count, output),
        Command::Touch(touch) => amend::touch(&session, touch, output),
        Command::Remove(remove) => remove::run(&session, remove, output),
        Command::Scan(scan) => scan::run(&session, scan),
        Command::Changes(changes) => changes::run(&session, changes),
        Command::History(history) => history::run(&session, history),
        Command::Restore(restore) => restore::run(&session, restore, output),
        Command::Collections(collections) => collections::run(&session, collections, output),
        Command::Stat(stat) => stat::run(&session, stat, output),
        Command::Compact(compact) => compact::run(&session, compact, output),
        Command::Backup(backup) => backup::run(&session, backup, output),
        Command::Verify(verify) => verify::run(&session, verify, output),
        Command::Bench(bench) => bench::run(&session, bench, output),
    }
}
