//! The promises of what can be done with documents beyond reading and writing them whole, by the public API on real threads.
//!
//! Nothing here sleeps or measures time: a test waits for what it caused.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod clusters_converge;
mod messages_scan;
mod random_documents;
mod ranges_are_scanned_whole;
mod scans_that_cannot_end_say_so;
