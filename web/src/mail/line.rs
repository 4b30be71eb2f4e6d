//! Text from outside, made fit for a header and for one line of a mail.

use std::fmt;

use serde::Serialize;

/// A name as it stands in a mail.
pub type Name = Line<60>;
/// One sentence of a mail.
pub type Sentence = Line<500>;

/// One line of at most `N` characters. Whatever it is made from, there is no line break, no control character and nothing that turns the
/// direction of the text around it; what is too long ends with "…", what is empty is a dash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Line<const N: usize>(String);

impl<const N: usize> Line<N> {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> From<&str> for Line<N> {
    fn from(text: &str) -> Self {
        let line = one_line(text, N);
        Self(if line.is_empty() { "–".into() } else { line })
    }
}

impl<const N: usize> From<String> for Line<N> {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl<const N: usize> fmt::Display for Line<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An address that may stand behind a button: http or https, and nothing that a browser would run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Link(String);

impl Link {
    /// `None`: not such an address, not plain ASCII, or longer than 1 000 characters.
    pub fn new(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
        let fits = !rest.is_empty() && url.len() <= 1_000 && rest.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"'`\\".contains(&b));
        fits.then(|| Self(url.to_owned()))
    }
}

/// The Content-ID of a picture in the same mail, without the angle brackets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Cid(String);

impl Cid {
    /// `None`: empty, longer than 200 characters, or with others than letters, digits and `.-_@+` (RFC 2392 would have those escaped).
    pub fn new(id: &str) -> Option<Self> {
        let fits = (1..=200).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_@+".contains(&b));
        fits.then(|| Self(id.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `text` on one line: white space and control characters become one space, invisible ones go, the rest is cut after `max` characters.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let mut line = String::new();
    let mut space = false;
    let mut count = 0;
    for c in text.chars().filter(|&c| !is_invisible(c)) {
        if c.is_whitespace() || c.is_control() {
            space = count > 0;
            continue;
        }
        let wanted = 1 + usize::from(space);
        if count + wanted > max {
            return shortened(&line, max);
        }
        if space {
            line.push(' ');
        }
        line.push(c);
        count += wanted;
        space = false;
    }
    line
}

/// Room for the "…", and no half of a glyph that was joined to the next.
fn shortened(line: &str, max: usize) -> String {
    let kept: String = line.chars().take(max.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end_matches(|c: char| c.is_whitespace() || c == '\u{200d}'))
}

/// Characters that show nothing and change how others show: marks of direction (a name with one could turn "5 %" around), zero-width
/// space, soft hyphen, byte order mark, annotations, tags. Joiners stay: emoji and Persian need them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_line_breaks_and_marks_of_direction_is_one_plain_line() {
        let name = Name::from(" por\u{202e}ch\r\nBcc: thief@example.net\0\u{85}\u{2028}x\u{200b}\t");
        assert_eq!(name.as_str(), "porch Bcc: thief@example.net x");
        assert_eq!(Name::from("\r\n\u{2066}").as_str(), "–");
        for kept in ["Hintertür", "שער", "👨‍👩‍👧 room", "a\"b'<c>&d"] {
            assert_eq!(Name::from(kept).as_str(), kept);
        }
    }

    #[test]
    fn a_name_of_ten_thousand_characters_is_cut() {
        let name = Name::from("ü".repeat(10_000));
        assert_eq!((name.as_str().chars().count(), name.as_str().ends_with("ü…")), (60, true));
        assert_eq!(Name::from("a".repeat(60)).as_str(), "a".repeat(60));
        assert_eq!(one_line("abc def", 5), "abc…");
        assert_eq!(one_line("ab\u{200d}cd", 4), "ab…");
    }

    #[test]
    fn a_link_leads_to_a_page_and_nowhere_else() {
        for good in ["https://dms3.local:8443/", "http://[fe80::1]/e/42?a=b&c#d"] {
            assert!(Link::new(good).is_some(), "{good}");
        }
        let long = format!("https://{}", "a".repeat(1_000));
        for bad in ["javascript:alert(1)", "https://", "https://a b", "https://a\"onclick=", "https://a\n", "//a", "https://ä.de", &long] {
            assert!(Link::new(bad).is_none(), "{bad}");
        }
        assert!(Cid::new("porch-1@dms3").is_some());
        for bad in ["", "a b", "a>", "a/b", "ä", &"a".repeat(201)] {
            assert!(Cid::new(bad).is_none(), "{bad}");
        }
    }
}
