//! The promises of a bucket with more documents than memory.
//!
//! Nothing here sleeps or measures time: a test waits for what it caused, or moves a simulated clock.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod any_document;
mod at_once;
mod common;
mod collections;
mod bucket_actor;
mod counts;
mod equals_a_model;
mod expired;
mod four_times;
mod in_order;
mod known_without_the_disk;
mod large_documents;
mod made_of_values;
mod metadata_fills_memory;
mod no_store;
mod model;
mod nothing_leaves_too_early;
mod old_values;
mod operations;
mod past;
#[cfg(feature = "planted")]
mod planted;
mod policies;
mod swept;
mod untaken;
mod unread;
mod waiting_changes;
