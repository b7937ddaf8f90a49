//! Style is a test: reads the files of this workspace and fails where a rule of the house is broken.
//!
//! Invariant: a rule is a plain function from a file to complaints, and every rule has a test beside it that makes
//! it complain; a check that cannot fail is worth nothing. Long files and functions are listed, not refused.

#[path = "tidy/source_file.rs"]
mod source_file;
#[path = "tidy/text.rs"]
mod text;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/links.rs"]
mod links;
#[path = "tidy/crates.rs"]
mod crates;
#[path = "tidy/functions.rs"]
mod functions;

use std::io::{self, Write};
use std::path::Path;

use source_file::{Complaint, SourceFile};

const FILE_LINES_LISTED: usize = 400;
const FUNCTION_LINES_LISTED: usize = 70;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file people write, in the order of their paths.
fn tree() -> io::Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    collect("", &mut files)?;
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

fn collect(directory: &str, files: &mut Vec<SourceFile>) -> io::Result<()> {
    for entry in std::fs::read_dir(root().join(directory))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = match directory {
            "" => name.clone(),
            above => format!("{above}/{name}"),
        };
        if entry.file_type()?.is_dir() {
            // Build output marks itself with this file; a directory with its own `.git` is another tree.
            let is_output = entry.path().join("CACHEDIR.TAG").exists();
            let is_other = name == ".git" || entry.path().join(".git").exists();
            if !is_output && !is_other && name != "target" && name != "bench-data" {
                collect(&path, files)?;
            }
        } else if is_written_by_people(&path) {
            let text = std::fs::read_to_string(entry.path())
                .map_err(|error| io::Error::other(format!("{path}: {error}")))?;
            files.push(SourceFile { path, text });
        }
    }
    Ok(())
}

fn is_written_by_people(path: &str) -> bool {
    let extension = Path::new(path)
        .extension()
        .and_then(|extension| extension.to_str());
    matches!(extension, Some("rs" | "md" | "toml")) || path == ".ci/run" || path == "justfile"
}

/// Fails with all complaints of `rule` over the tree, one a line.
fn assert_kept(rule: impl Fn(&SourceFile) -> Vec<Complaint>) -> io::Result<()> {
    let mut report = Vec::new();
    for file in tree()? {
        for Complaint { line, what } in rule(&file) {
            report.push(format!("{}:{line}: {what}", file.path));
        }
    }
    assert!(report.is_empty(), "\n{}", report.join("\n"));
    Ok(())
}

#[test]
fn the_tree_is_read() -> io::Result<()> {
    let files = tree()?;
    for path in [
        "Cargo.toml",
        "README.md",
        ".ci/run",
        "storage/src/lib.rs",
        "tests/tidy.rs",
    ] {
        assert!(
            files.iter().any(|file| file.path == path),
            "{path} was not read"
        );
    }
    assert!(!files.iter().any(|file| file.path.starts_with("target/")));
    Ok(())
}

#[test]
fn every_source_file_opens_with_its_purpose() -> io::Result<()> {
    assert_kept(text::opens_with_its_purpose)
}

#[test]
fn imports_stand_in_three_groups() -> io::Result<()> {
    assert_kept(imports::imports_in_three_groups)
}

#[test]
fn no_banned_word_is_said() -> io::Result<()> {
    assert_kept(text::has_no_banned_word)
}

#[test]
fn sources_are_ascii() -> io::Result<()> {
    assert_kept(text::is_ascii)
}

#[test]
fn bincode_is_named_only_in_the_codec() -> io::Result<()> {
    assert_kept(text::names_bincode_only_in_the_codec)
}

#[test]
fn storage_knows_no_actix() -> io::Result<()> {
    assert_kept(text::names_no_actix_in_storage)
}

#[test]
fn storage_reaches_files_only_through_the_disk() -> io::Result<()> {
    assert_kept(text::reaches_files_only_through_the_disk)
}

#[test]
fn every_expect_has_a_reason() -> io::Result<()> {
    assert_kept(text::gives_a_reason_for_every_expect)
}

#[test]
fn every_relative_link_leads_somewhere() -> io::Result<()> {
    assert_kept(links::links_lead_somewhere)
}

#[test]
fn crates_depend_one_way() -> io::Result<()> {
    let files = tree()?;
    let names = files
        .iter()
        .find(|file| file.path == "Cargo.toml")
        .map(crates::workspace_names);
    let names = names.unwrap_or_default();
    assert_kept(|file| crates::depends_one_way(file, &names))
}

#[test]
fn long_files_and_functions_are_listed() -> io::Result<()> {
    let mut list = Vec::new();
    for file in tree()?.iter().filter(|file| file.is("rs")) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_LISTED {
            list.push(format!("{}: {lines} lines\n", file.path));
        }
        for (line, name, length) in functions::long_functions(file, FUNCTION_LINES_LISTED) {
            list.push(format!("{}:{line}: {name}, {length} lines\n", file.path));
        }
    }
    if !list.is_empty() {
        // Past the captured output of the test: a list nobody sees is no list.
        let mut terminal = io::stderr().lock();
        write!(
            terminal,
            "\nlong, to be looked at again:\n{}",
            list.concat()
        )?;
    }
    Ok(())
}
