//! Rules about the text of one file: its purpose first, nothing unfinished, and no name where it must not be known.

use crate::source_file::{Complaint, SourceFile};

/// Words that say something is unfinished or switched off. In two halves, so that this file passes its own check.
const BANNED_WORDS: [&str; 5] = [
    concat!("tod", "o!"),
    concat!("unimple", "mented!"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("#[ign", "ore"),
];

pub(crate) fn opens_with_its_purpose(file: &SourceFile) -> Vec<Complaint> {
    let is_source = file.path.starts_with("src/") || file.path.contains("/src/");
    if file.is("rs") && is_source && !file.text.starts_with("//!") {
        return vec![Complaint::new(
            1,
            "must open with `//!`: what it is, its invariant",
        )];
    }
    Vec::new()
}

pub(crate) fn has_no_banned_word(file: &SourceFile) -> Vec<Complaint> {
    let banned =
        |word: &&str| file.complain(&format!("says `{word}`"), |line| line.contains(*word));
    BANNED_WORDS.iter().flat_map(banned).collect()
}

pub(crate) fn is_ascii(file: &SourceFile) -> Vec<Complaint> {
    if !file.is("rs") {
        return Vec::new();
    }
    file.complain("holds a character beyond ASCII", |line| !line.is_ascii())
}

pub(crate) fn names_bincode_only_in_the_codec(file: &SourceFile) -> Vec<Complaint> {
    if !file.is_rust_under_storage_src() || file.path == "storage/src/log_store/codec.rs" {
        return Vec::new();
    }
    let what = "names bincode; only log_store/codec.rs may";
    file.complain(what, |line| line.contains("bincode"))
}

pub(crate) fn names_no_actix_in_storage(file: &SourceFile) -> Vec<Complaint> {
    if !file.path.starts_with("storage/") {
        return Vec::new();
    }
    file.complain("names actix; storage knows no actor", |line| {
        line.contains("actix")
    })
}

pub(crate) fn reaches_files_only_through_the_disk(file: &SourceFile) -> Vec<Complaint> {
    if !file.is_rust_under_storage_src() || file.path.starts_with("storage/src/disk/") {
        return Vec::new();
    }
    let is_fs = |word: &str| word == "fs";
    file.complain("reaches files past the `Disk` trait", |line| {
        let code = line.split("//").next().unwrap_or_default();
        let from_std = code.trim_start().strip_prefix("use std::{");
        let in_list =
            from_std.is_some_and(|list| list.split(|c: char| !c.is_alphanumeric()).any(is_fs));
        code.contains("std::fs") || code.contains("rustix::fs") || in_list
    })
}

pub(crate) fn gives_a_reason_for_every_expect(file: &SourceFile) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut lines = file.lines();
    while let Some((number, line)) = lines.next() {
        let start = line.trim_start();
        if !file.is("rs") || !(start.starts_with("#[expect(") || start.starts_with("#![expect(")) {
            continue;
        }
        let mut attribute = line.to_owned();
        while !attribute.trim_end().ends_with(")]") {
            match lines.next() {
                Some((_, more)) => attribute.push_str(more),
                None => break,
            }
        }
        if !attribute.contains("reason = \"") {
            complaints.push(Complaint::new(number, "an `expect` without its reason"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_file::lines;

    #[test]
    fn a_file_without_purpose_is_found() {
        let rule = opens_with_its_purpose;
        assert_eq!(
            lines(rule, "storage/src/a.rs", "use std::io;\n//! Late.\n"),
            [1]
        );
        assert_eq!(lines(rule, "src/lib.rs", ""), [1]);
        assert_eq!(lines(rule, "src/lib.rs", "//! What it is.\n"), [0; 0]);
        assert_eq!(lines(rule, "examples/a.rs", "fn main() {}\n"), [0; 0]);
    }

    #[test]
    fn a_banned_word_is_found() {
        for word in BANNED_WORDS {
            let text = format!("fine\nbefore {word} after\n");
            assert_eq!(lines(has_no_banned_word, "docs/a.md", &text), [2], "{word}");
        }
        assert_eq!(
            lines(has_no_banned_word, "a.rs", "what to do!\n#[test]\n"),
            [0; 0]
        );
    }

    #[test]
    fn a_character_beyond_ascii_is_found() {
        assert_eq!(lines(is_ascii, "a.rs", "fine\n// \u{2192}\n"), [2]);
        assert_eq!(lines(is_ascii, "a.rs", "fine\n"), [0; 0]);
    }

    #[test]
    fn a_stray_codec_is_found() {
        let rule = names_bincode_only_in_the_codec;
        assert_eq!(
            lines(
                rule,
                "storage/src/log_store/log.rs",
                "\nuse bincode::encode;\n"
            ),
            [2]
        );
        assert_eq!(
            lines(
                rule,
                "storage/src/log_store/codec.rs",
                "use bincode::encode;\n"
            ),
            [0; 0]
        );
        assert_eq!(
            lines(rule, "storage/Cargo.toml", "bincode.workspace = true\n"),
            [0; 0]
        );
    }

    #[test]
    fn an_actor_in_storage_is_found() {
        let rule = names_no_actix_in_storage;
        assert_eq!(
            lines(
                rule,
                "storage/Cargo.toml",
                "[dependencies]\nactix = \"0.13\"\n"
            ),
            [2]
        );
        assert_eq!(lines(rule, "storage/tests/a.rs", "use actix::Addr;\n"), [1]);
        assert_eq!(
            lines(rule, "messages/src/lib.rs", "use actix::Message;\n"),
            [0; 0]
        );
    }

    #[test]
    fn a_way_past_the_disk_is_found() {
        let rule = reaches_files_only_through_the_disk;
        for code in [
            "use std::fs::File;",
            "use std::{fs, io};",
            "    rustix::fs::fsync(file)?;",
        ] {
            assert_eq!(
                lines(rule, "storage/src/log_store/log.rs", code),
                [1],
                "{code}"
            );
            assert_eq!(
                lines(rule, "storage/src/disk/file_system.rs", code),
                [0; 0],
                "{code}"
            );
        }
        assert_eq!(
            lines(
                rule,
                "storage/src/lib.rs",
                "// Never std::fs here.\nuse std::{fmt, io};\n"
            ),
            [0; 0]
        );
    }

    #[test]
    fn an_expect_without_reason_is_found() {
        let rule = gives_a_reason_for_every_expect;
        assert_eq!(lines(rule, "a.rs", "//! A.\n#![expect(dead_code)]\n"), [2]);
        assert_eq!(
            lines(
                rule,
                "a.rs",
                "    #[expect(\n        dead_code,\n    )]\nfn a() {}\n"
            ),
            [1]
        );
        assert_eq!(
            lines(
                rule,
                "a.rs",
                "#[expect(dead_code, reason = \"used later\")]\n"
            ),
            [0; 0]
        );
        assert_eq!(
            lines(
                rule,
                "a.rs",
                "#[expect(\n    dead_code,\n    reason = \"later\"\n)]\n"
            ),
            [0; 0]
        );
    }
}
