//! What an operator sees: failures at four places at once, figures by the field's names, and a span around every
//! background job. A program of its own, because recorder and subscriber are the whole program's.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod capture;
mod failure_table;
mod metric_names;
mod spans;
