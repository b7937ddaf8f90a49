//! The vbucket: one vbucket's truth in memory.

pub mod checkpoint;
