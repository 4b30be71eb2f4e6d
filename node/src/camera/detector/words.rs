//! One line of a command, split into words as a shell would, without being one.

/// Splits at spaces; `'…'`, `"…"` and `\` keep what they hold together. What only a shell can do (`;`, `|`, `$`, …) is refused instead of
/// being handed over as a word.
pub(crate) fn split_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' | '"' => {
                let into = word.get_or_insert_default();
                loop {
                    match rest.next() {
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => into.push(rest.next().ok_or("ends with a backslash")?),
                        Some(other) => into.push(other),
                        None => return Err(format!("a {c} is never closed")),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(rest.next().ok_or("ends with a backslash")?),
            c if c.is_whitespace() => words.extend(word.take()),
            c if ";|&<>$`()*?".contains(c) => {
                return Err(format!("no shell reads this, so {c} means nothing: quote it, or put the line into a script and name that"));
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_keep_words_together() {
        for (line, words) in [
            ("", vec![]),
            ("  motion ", vec!["motion"]),
            ("libcamerify motion", vec!["libcamerify", "motion"]),
            ("'/opt/my motion/motion' -k ALL", vec!["/opt/my motion/motion", "-k", "ALL"]),
            (r#"a"b c"'d e'\ f """#, vec!["ab cd e f", ""]),
            (r#""a\"b" '\' "#, vec!["a\"b", "\\"]),
            ("'$(x);'", vec!["$(x);"]),
        ] {
            assert_eq!(split_words(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for line in ["a; b", "a | b", "a && b", "a > b", "$HOME/motion", "`x`", "'a", "\"a", "a\\"] {
            assert!(split_words(line).is_err(), "{line}");
        }
    }
}
