//! The line of crates: who may depend on whom, read from the manifests.
//!
//! Reads no more of TOML than tables and `key = value` lines, which is all our manifests hold.

use std::collections::BTreeMap;
use std::path::Path;

use crate::source_file::{Complaint, SourceFile};

/// The crates, last stage first: each may use those before it, none may use those after it or beside it.
const LINE: [&[&str]; 6] = [
    &["storage"],
    &["messages"],
    &["actors"],
    &["supervisor"],
    &["piggin"],
    &["cli", "bench", "storage-fuzz"],
];

/// Where a crate, by its short or its published name, stands in the line.
pub(crate) fn stage(name: &str) -> Option<usize> {
    let short = name.strip_prefix("piggin-").unwrap_or(name);
    LINE.iter().position(|names| names.contains(&short))
}

/// One `key = value` of a manifest, as far as dependencies need it.
struct Entry {
    line: usize,
    key: String,
    /// The crate's published name, where the value gives one.
    package: Option<String>,
}

/// The entries of all tables whose name is `wanted`; a table of one dependency counts as one entry of its parent.
fn entries(manifest: &SourceFile, wanted: impl Fn(&str) -> bool) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    let mut table = String::new();
    let mut alone = false;
    for (line, text) in manifest.lines() {
        let text = text.trim();
        if let Some(name) = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            name.clone_into(&mut table);
            let parent = name.rsplit_once('.').filter(|(parent, _)| wanted(parent));
            alone = parent.is_some();
            found.extend(parent.map(|(_, key)| Entry {
                line,
                key: key.to_owned(),
                package: None,
            }));
        } else if let Some((key, value)) = text.split_once('=').filter(|_| !text.starts_with('#')) {
            let key = key.trim();
            let package = match key {
                "package" => quoted(value),
                _ => value
                    .split_once("package")
                    .and_then(|(_, rest)| quoted(rest)),
            };
            if alone && key == "package" {
                found
                    .last_mut()
                    .into_iter()
                    .for_each(|entry| entry.package.clone_from(&package));
            } else if wanted(&table) {
                let key = key.split('.').next().unwrap_or_default().to_owned();
                found.push(Entry { line, key, package });
            }
        }
    }
    found
}

fn quoted(text: &str) -> Option<String> {
    text.split('"').nth(1).map(str::to_owned)
}

fn package_name(manifest: &SourceFile) -> Option<String> {
    let mut in_package = manifest
        .text
        .lines()
        .skip_while(|line| line.trim() != "[package]")
        .skip(1);
    let name = in_package.find(|line| line.starts_with("name") || line.starts_with('['))?;
    quoted(name)
}

fn is_dependency_table(table: &str) -> bool {
    let kind = table.rsplit('.').next().unwrap_or_default();
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    kinds.contains(&kind) && !table.starts_with("workspace")
}

/// The names given to crates in the workspace's own table, where they differ from the published ones.
pub(crate) fn workspace_names(root: &SourceFile) -> BTreeMap<String, String> {
    let all = entries(root, |table| table == "workspace.dependencies").into_iter();
    all.filter_map(|entry| Some((entry.key, entry.package?)))
        .collect()
}

pub(crate) fn depends_one_way(
    manifest: &SourceFile,
    names: &BTreeMap<String, String>,
) -> Vec<Complaint> {
    let is_manifest = Path::new(&manifest.path).ends_with("Cargo.toml");
    let Some(package) = package_name(manifest).filter(|_| is_manifest) else {
        return Vec::new();
    };
    let Some(own) = stage(&package) else {
        let what = format!(
            "{package} has no place in the line of crates; give it one in tests/tidy/crates.rs"
        );
        return vec![Complaint::new(1, &what)];
    };
    let mut complaints = Vec::new();
    for entry in entries(manifest, is_dependency_table) {
        let published = entry
            .package
            .or_else(|| names.get(&entry.key).cloned())
            .unwrap_or(entry.key);
        if stage(&published).is_some_and(|used| used >= own) {
            let what =
                format!("{package} uses {published}, which stands after it in the line of crates");
            complaints.push(Complaint::new(entry.line, &what));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_file::lines;

    #[test]
    fn a_crate_that_depends_the_wrong_way_is_found() {
        let names = workspace_names(&SourceFile::new(
            "Cargo.toml",
            "[workspace.dependencies]\nwords = { package = \"piggin-messages\", path = \"messages\" }\n",
        ));
        let check = |package: &str, rest: &str| {
            let text = format!("[package]\nname = \"{package}\"\n{rest}\n");
            lines(|file| depends_one_way(file, &names), "a/Cargo.toml", &text)
        };
        assert_eq!(
            check(
                "piggin-storage",
                "[dependencies]\nmessages.workspace = true"
            ),
            [4]
        );
        assert_eq!(
            check("piggin-storage", "[dependencies]\nwords.workspace = true"),
            [4]
        );
        assert_eq!(
            check(
                "piggin-actors",
                "[dev-dependencies]\nx = { package = \"piggin\", path = \".\" }"
            ),
            [4]
        );
        assert_eq!(
            check(
                "piggin-messages",
                "[target.'cfg(unix)'.dependencies]\nactors = \"1\""
            ),
            [4]
        );
        assert_eq!(
            check(
                "piggin-messages",
                "[dependencies.x]\npath = \"y\"\npackage = \"piggin-cli\""
            ),
            [3]
        );
        assert_eq!(
            check(
                "piggin-cli",
                "[dependencies]\nbench = { path = \"../bench\" }"
            ),
            [4]
        );
        assert_eq!(check("piggin-unheard-of", ""), [1]);
        assert_eq!(
            check(
                "piggin-actors",
                "[dependencies]\nwords.workspace = true\nbytes = \"1\""
            ),
            [0; 0]
        );
        assert_eq!(
            check(
                "piggin",
                "[workspace.dependencies]\ncli = { path = \"cli\" }"
            ),
            [0; 0]
        );
    }
}
