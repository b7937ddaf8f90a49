//! Described at `piggin_storage::fuzzing::log_recovery`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use piggin_storage::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::log_recovery(bytes));
