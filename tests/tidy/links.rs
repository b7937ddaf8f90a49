//! Relative links in Markdown files lead to files that are there.

use std::path::Path;

use crate::source_file::{Complaint, SourceFile};

/// Relative links in a Markdown file that lead nowhere.
pub(crate) fn links_lead_somewhere(file: &SourceFile) -> Vec<Complaint> {
    if !file.is("md") {
        return Vec::new();
    }
    let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    let leads_nowhere = |target: &str| {
        target.starts_with('/')
            || !Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(folder)
                .join(target)
                .exists()
    };
    let dead = relative_links(file)
        .into_iter()
        .filter(|(_, target)| leads_nowhere(target));
    dead.map(|(line, target)| {
        Complaint::new(line, &format!("link to {target}, which is not there"))
    })
    .collect()
}

fn relative_links(file: &SourceFile) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut in_code = false;
    for (number, line) in file.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            let text: String = line.split('`').step_by(2).collect();
            let inline = text
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split([')', ' ']).next());
            let definition = text
                .strip_prefix('[')
                .and_then(|rest| rest.split_once("]: "));
            let targets = inline.chain(definition.map(|(_, target)| target.trim()));
            let paths =
                targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
            let names = paths.filter_map(|path| path.split('#').next());
            links.extend(
                names
                    .filter(|name| !name.is_empty())
                    .map(|name| (number, name.to_owned())),
            );
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_file::lines;

    #[test]
    fn a_dead_link_is_found() {
        let rule = links_lead_somewhere;
        assert_eq!(lines(rule, "docs/a.md", "[b](no-such-page.md)\n"), [1]);
        assert_eq!(lines(rule, "docs/a.md", "\n[b]: no-such-page.md\n"), [2]);
        assert_eq!(
            lines(
                rule,
                "README.md",
                "[`x`](storage) and [y](nowhere/z.md#part)\n"
            ),
            [1]
        );
        let good =
            "[a](../Cargo.toml) [b](https://example.org) [c](#here) `[d](e)`\n```\n[f](g)\n```\n";
        assert_eq!(lines(rule, "docs/a.md", good), [0; 0]);
    }
}
