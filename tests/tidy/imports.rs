//! The order of imports: std, then third parties, then our own.

use crate::crates::stage;
use crate::source_file::{Complaint, SourceFile};

/// Imports come as std, then third parties, then our own. Looks at the order only, and only at private imports:
/// a `pub use` is a table of contents.
pub(crate) fn imports_in_three_groups(file: &SourceFile) -> Vec<Complaint> {
    if !file.is("rs") {
        return Vec::new();
    }
    let modules: Vec<&str> = file.text.lines().filter_map(declared_module).collect();
    let mut complaints = Vec::new();
    let mut highest = 0;
    let mut inside = false;
    for (number, line) in file.lines() {
        let statement = line.trim();
        if let Some(path) = statement.strip_prefix("use ") {
            let group = import_group(path, &modules);
            if group < highest {
                let what = "import out of order; first std, then third parties, then our own";
                complaints.push(Complaint::new(number, what));
            }
            highest = highest.max(group);
            inside = !statement.ends_with(';');
        } else if inside {
            inside = !statement.ends_with("};");
        } else if !(statement.is_empty()
            || statement.starts_with("//")
            || statement.starts_with("#["))
        {
            highest = 0;
        }
    }
    complaints
}

fn declared_module(line: &str) -> Option<&str> {
    let words = line
        .trim()
        .trim_start_matches("pub(crate) ")
        .trim_start_matches("pub ");
    words.strip_prefix("mod ")?.split([';', ' ']).next()
}

fn import_group(path: &str, modules: &[&str]) -> u8 {
    let first = path.split([':', ';', ' ', '{']).next().unwrap_or_default();
    let is_ours = stage(&first.replace('_', "-")).is_some()
        || modules.contains(&first)
        || first.starts_with(char::is_uppercase);
    match first {
        "std" | "core" | "alloc" => 0,
        "crate" | "super" | "self" => 2,
        _ if is_ours => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_file::lines;

    #[test]
    fn an_import_out_of_order_is_found() {
        let rule = imports_in_three_groups;
        assert_eq!(
            lines(rule, "a.rs", "use bytes::Bytes;\n\nuse std::io;\n"),
            [3]
        );
        assert_eq!(
            lines(rule, "a.rs", "use crate::cas::Cas;\nuse bytes::Bytes;\n"),
            [2]
        );
        assert_eq!(
            lines(
                rule,
                "a.rs",
                "use storage::{\n    Cas,\n};\n\nuse std::io;\n"
            ),
            [5]
        );
        let good = "use std::io;\n\nuse bytes::Bytes;\n\nuse storage::Cas;\n\nuse super::A;\n";
        assert_eq!(lines(rule, "a.rs", good), [0; 0]);
        let apart = "use crate::a;\n\nfn b() {\n    use std::io;\n}\n";
        assert_eq!(lines(rule, "a.rs", apart), [0; 0]);
        assert_eq!(
            lines(rule, "a.rs", "mod a;\n\nuse a::B;\nuse super::C;\n"),
            [0; 0]
        );
    }
}
