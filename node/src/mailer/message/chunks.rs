//! A message piece by piece, so that a clip of 15 MB costs some kilobytes of memory.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use data_encoding::BASE64;

use super::{Message, Source, Tail};

/// 57 bytes make a line of 76 characters, the longest that RFC 2045, section 6.8, allows.
pub(super) const LINE: usize = 57;
/// Bytes of a line on the way, with its end.
pub(super) const ENCODED_LINE: usize = 78;
const LINES: usize = 512;

/// The pieces of a [`Message`], in order.
pub(crate) struct Chunks<'a> {
    message: &'a Message,
    next: Next,
    /// Set if the clip cannot be read to its end: what was sent is not the message, and its end must never be sent.
    broken: Arc<AtomicBool>,
}

#[derive(Clone, Copy)]
enum Next {
    Head,
    /// From this byte of the clip.
    Clip(u64),
    Nothing,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(message: &'a Message, broken: Arc<AtomicBool>) -> Self {
        Self { message, next: Next::Head, broken }
    }

    fn of_clip(&mut self, clip: &Tail, from: u64) -> Option<Vec<u8>> {
        let left = clip.len - from;
        if left == 0 {
            self.next = Next::Nothing;
            return Some(clip.end.clone());
        }
        let take = left.min((LINE * LINES) as u64);
        let Some(bytes) = clip.content.read(from, take as usize) else {
            self.broken.store(true, Ordering::Relaxed);
            self.next = Next::Nothing;
            return None;
        };
        self.next = Next::Clip(from + take);
        let mut encoded = String::with_capacity(LINES * ENCODED_LINE);
        for line in bytes.chunks(LINE) {
            BASE64.encode_append(line, &mut encoded);
            encoded.push_str("\r\n");
        }
        Some(encoded.into_bytes())
    }
}

impl Iterator for Chunks<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let message = self.message;
        match (self.next, &message.clip) {
            (Next::Head, clip) => {
                self.next = if clip.is_some() { Next::Clip(0) } else { Next::Nothing };
                Some(message.head.clone())
            }
            (Next::Clip(from), Some(clip)) => self.of_clip(clip, from),
            (Next::Clip(_), None) | (Next::Nothing, _) => None,
        }
    }
}

impl Source {
    /// None: it cannot be read, or became shorter.
    fn read(&self, from: u64, len: usize) -> Option<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => {
                let from = usize::try_from(from).ok()?;
                bytes.get(from..from.checked_add(len)?).map(<[u8]>::to_vec)
            }
            // Some kilobytes of a local file: sooner done than handed to another thread.
            Self::File(file) => {
                let mut bytes = vec![0; len];
                match file.read_exact_at(&mut bytes, from) {
                    Ok(()) => Some(bytes),
                    Err(error) => {
                        tracing::error!("a clip cannot be read while it is mailed: {error}");
                        None
                    }
                }
            }
        }
    }
}
