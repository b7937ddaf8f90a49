//! Finds functions too long for one screen, so that their author looks at them again.

use crate::source_file::SourceFile;

/// Functions of more than `most` lines: where each begins, its name, its length.
pub(crate) fn long_functions(file: &SourceFile, most: usize) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut long = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent: String = line.chars().take_while(|c| *c == ' ').collect();
        let from_here = || lines.iter().skip(index);
        let opens = from_here().find(|line| line.ends_with(['{', '}', ';']));
        let end = from_here().position(|line| **line == format!("{indent}}}"));
        let length = end.map_or(0, |end| end.saturating_add(1));
        if opens.is_some_and(|line| line.ends_with('{')) && length > most {
            long.push((index.saturating_add(1), name.to_owned(), length));
        }
    }
    long
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let qualifiers = [
        "pub",
        "pub(crate)",
        "pub(super)",
        "const",
        "async",
        "unsafe",
        "extern",
        "\"C\"",
    ];
    let is_declaration = before
        .split_whitespace()
        .all(|word| qualifiers.contains(&word));
    let name = after.split(['(', '<']).next()?;
    is_declaration
        .then_some(name)
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_function_is_found() {
        let body = "        step();\n".repeat(5);
        let text = format!(
            "trait T {{\n    fn short(&self);\n    pub(crate) fn long<A>(\n        a: A,\n    ) {{\n{body}    }}\n}}\n"
        );
        let file = SourceFile::new("a.rs", &text);
        assert_eq!(long_functions(&file, 8), [(3, "long".to_owned(), 9)]);
        assert_eq!(long_functions(&file, 9), []);
    }
}
