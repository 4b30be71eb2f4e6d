//! The last lines of the log, for the owner's page.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that are kept, and bytes of each.
const LINES: usize = 200;
const LONGEST: usize = 600;

/// Clones share the lines.
#[derive(Debug, Clone, Default)]
pub struct LogTail(Arc<Mutex<VecDeque<String>>>);

impl LogTail {
    /// Oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl MakeWriter<'_> for LogTail {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// A line comes whole, in one call.
impl io::Write for LogTail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let line = text.trim_end();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= LINES {
            lines.pop_front();
        }
        lines.push_back(line[..line.floor_char_boundary(LONGEST)].to_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_last_lines_stay_and_no_line_is_endless() {
        let tail = LogTail::default();
        for nth in 0..300 {
            tail.make_writer().write_all(format!("line {nth}\n").as_bytes()).unwrap();
        }
        assert_eq!(tail.lines().last().unwrap(), "line 299");
        tail.make_writer().write_all("ü".repeat(1000).as_bytes()).unwrap();
        let lines = tail.lines();
        assert_eq!(lines.len(), LINES);
        assert!(lines.last().unwrap().len() <= LONGEST);
    }
}
