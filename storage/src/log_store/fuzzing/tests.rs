//! The fixed corpus, and seeded mutations of it, on the stable toolchain in the usual test command.

use super::*;
use crate::disk::{Disk, FileSystemDisk, OpenMode};
use crate::log_store::log::writer::mix;

/// How often each seed is mutated: targets that open stores take milliseconds, decoders nanoseconds.
fn mutations(target: &str) -> u64 {
    match target {
        "log_recovery" | "store_ops" => 12,
        "segment" => 60,
        _ => 400,
    }
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/");
    let disk = FileSystemDisk::new(format!("{folder}{target}")).unwrap();
    let read = |name: String| {
        let file = disk.open(&name, OpenMode::ReadOnly).unwrap();
        let mut bytes = vec![0; usize::try_from(file.length().unwrap()).unwrap()];
        file.read_at(&mut bytes, 0).unwrap();
        (name, bytes)
    };
    disk.list().unwrap().into_iter().map(read).collect()
}

fn mutate(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut random = mix(seed);
    let mut below = |limit: usize| {
        random = mix(random);
        usize::try_from(random % (limit.max(1) as u64)).unwrap()
    };
    for _ in 0..=below(4) {
        let length = bytes.len();
        let at = below(length);
        let value = u8::try_from(below(256)).unwrap();
        match below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, value),
            2 if length > 0 => bytes[at] = value,
            3 if length > 0 => bytes[at] ^= 1 << (value % 8),
            _ => {
                let end = (at + below(9)).min(length);
                bytes.splice(at..end, [0xff, 0xff, 0xff, 0xff, value & 0x0f]);
            }
        }
    }
    bytes
}

#[test]
fn the_corpus_and_its_mutations_break_nothing() {
    for (target, run) in TARGETS {
        let files = corpus(target);
        assert!(files.len() > 3, "{target}: run the example write_corpus");
        for (name, bytes) in files {
            let attempt = |seed: Option<u64>, input: &[u8]| {
                let caught = std::panic::catch_unwind(|| run(input));
                assert!(
                    caught.is_ok(),
                    "{target}/{name}, mutation {seed:?}: {input:02x?}"
                );
            };
            attempt(None, &bytes);
            for seed in 0..mutations(target) {
                attempt(Some(seed), &mutate(&bytes, seed));
            }
        }
    }
}

#[test]
fn the_committed_corpus_is_what_the_samples_give() {
    for (target, name, bytes) in seeds() {
        let committed = corpus(target).into_iter().find(|(other, _)| *other == name);
        assert_eq!(
            committed,
            Some((name, bytes)),
            "{target}: run the example write_corpus"
        );
    }
}
