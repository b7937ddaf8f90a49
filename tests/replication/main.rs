//! What is promised of replicas that follow another bucket, by public means only.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod collections;
mod common;
mod dishonest;
mod equals;
mod follows;
mod memory;
mod panics;
mod promotion;
mod rollback;
mod states;
