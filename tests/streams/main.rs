//! What is promised of change streams, by public means only.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod base;
mod beside_compaction;
mod bad_input;
mod common;
mod disk_reads;
mod equals;
mod flags;
mod follower;
mod follows;
mod heard;
mod mailboxes;
mod mb_47790;
#[cfg(feature = "planted")]
mod planted;
mod pressure;
mod purged;
mod rollback;
