//! The write-ahead log of one shard: the only way anything becomes durable.
//!
//! ```text
//! file = [ header, 4 KiB ][ frame ][ frame ] ... [ zeros, or old frames of another nonce ]
//! frame = [ header, 64 bytes ][ payload: records ][ padding to 64 ]
//! record = batch of one vbucket | edit of what exists
//! ```
//!
//! Frames never cross files. Each carries its sequence and how far the log was durable when it was written, so
//! that recovery can tell a torn tail (cut) from damage to durable bytes (an error).

pub(crate) mod frame;
pub(crate) mod file;
pub(crate) mod payload;
pub(crate) mod writer;
pub(crate) mod unreadable;
mod chain;
pub(crate) mod reader;
