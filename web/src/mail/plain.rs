//! The plain-text twin of a mail: lines that fit every screen.

/// RFC 5322 recommends at most 78 columns; 72 leave room for a quote of a quote.
const COLUMNS: usize = 72;

/// `text` with no line longer than 72 characters, but for links, which break when they are broken. At most one empty line in a row.
pub(super) fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut empty = true;
    for line in text.lines().map(str::trim_end) {
        if line.is_empty() {
            if !empty {
                out.push('\n');
            }
            empty = true;
            continue;
        }
        wrap(line, &mut out);
        empty = false;
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// The lines after the first stand below the first word of it, so that a list stays one.
fn wrap(line: &str, out: &mut String) {
    let text = line.trim_start();
    let indent = (line.chars().count() - text.chars().count()).min(COLUMNS / 2);
    let hang = indent + if text.starts_with("- ") { 2 } else { 0 };
    out.extend(std::iter::repeat_n(' ', indent));
    let mut column = indent;
    let mut at_start = true;
    for word in text.split_whitespace().flat_map(|word| pieces(word, COLUMNS - hang)) {
        let length = word.chars().count();
        if !at_start && column + 1 + length > COLUMNS {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', hang));
            column = hang;
        } else if !at_start {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        at_start = false;
    }
    out.push('\n');
}

/// A word in pieces that fit; a link in one.
fn pieces(word: &str, width: usize) -> Vec<&str> {
    if word.contains("://") {
        return vec![word];
    }
    let mut cuts: Vec<usize> = word.char_indices().map(|(at, _)| at).step_by(width).collect();
    cuts.push(word.len());
    cuts.windows(2).map(|cut| &word[cut[0]..cut[1]]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_longer_than_72_columns_but_a_link() {
        let link = format!("https://dms3.local/{}", "a".repeat(100));
        let text = wrapped(&format!("{} \n{}\n{}\nsee {link}", "word ".repeat(40), "ü".repeat(200), "x".repeat(72)));
        for line in text.lines() {
            assert!(line.chars().count() <= 72 || line == link, "{line}");
        }
        assert!(text.lines().any(|line| line == link));
        assert_eq!(text.matches('ü').count(), 200);
        assert_eq!(text.split_whitespace().filter(|word| *word == "word").count(), 40);
    }

    #[test]
    fn a_list_stays_a_list_and_empty_lines_do_not_pile_up() {
        let text = wrapped(&format!("\n\nOne.\n\n\n\n- {}\n- b\n\n", "word ".repeat(20)));
        assert!(text.starts_with("One.\n\n- word word"), "{text}");
        assert!(text.contains("word\n  word"), "{text}");
        assert!(text.ends_with("\n- b\n"), "{text}");
    }
}
