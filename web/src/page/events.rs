//! Events: seen, and their files.

use std::io::{Read as _, Seek as _, SeekFrom};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use dms3_core::event::{AttachmentKind, StoredAttachment};
use dms3_core::id::EventId;
use dms3_core::request::{Answer, Request};
use serde::Deserialize;

use super::Page;
use crate::gate::{Guest, Posted};

/// Bytes of a clip at once.
const CHUNK: usize = 64 * 1024;
/// A content never changes: a browser keeps it, for whoever is signed in.
const KEEP: HeaderValue = HeaderValue::from_static("private, max-age=86400, immutable");

#[derive(Deserialize)]
pub(super) struct Back {
    #[serde(default)]
    back: String,
}

pub(super) async fn all_seen(State(page): State<Page>, Extension(guest): Extension<Guest>, Posted(form): Posted<Back>) -> Response {
    let who = guest.visitor.name.clone();
    let answer = page.house.ask(Request::MarkSeen { ids: None, who: who.clone() }, &who).await;
    page.answered(&guest, &form.back, quiet(answer))
}

pub(super) async fn seen(
    State(page): State<Page>,
    Extension(guest): Extension<Guest>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Posted(form): Posted<Back>,
) -> Response {
    let Ok(id) = EventId::parse(&id) else { return no_such(&page) };
    let who = guest.visitor.name.clone();
    let answer = page.house.ask(Request::MarkSeen { ids: Some(vec![id]), who: who.clone() }, &who).await;
    if headers.contains_key("hx-request") && !matches!(answer, Answer::Refused(_)) {
        return Html("").into_response();
    }
    page.answered(&guest, &form.back, quiet(answer))
}

/// What shows itself needs no words.
fn quiet(answer: Answer) -> Answer {
    match answer {
        Answer::Done(_) => Answer::Counts(Vec::new()),
        other => other,
    }
}

fn no_such(page: &Page) -> Response {
    page.trouble(None, StatusCode::NOT_FOUND, "There is no such event: it may have been deleted, or was older than events are kept.")
}

pub(super) async fn small(state: State<Page>, path: Path<(String, String)>, headers: HeaderMap) -> Response {
    content(state, path, headers, true).await
}

pub(super) async fn file(state: State<Page>, path: Path<(String, String)>, headers: HeaderMap) -> Response {
    content(state, path, headers, false).await
}

/// A file of an event, or a part of it. Only what an event has is found: a hash that somebody knows from elsewhere opens nothing.
async fn content(State(page): State<Page>, Path((id, hash)): Path<(String, String)>, headers: HeaderMap, small: bool) -> Response {
    let (Ok(id), Some(hash)) = (EventId::parse(&id), hash_of(&hash)) else { return StatusCode::NOT_FOUND.into_response() };
    let Answer::Event(event) = page.house.ask(Request::Event { id }, "the dashboard").await else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let found = event.attachments.into_iter().find(|one| one.attachment.hash == hash && one.kept_at.is_some());
    let Some(StoredAttachment { attachment, .. }) = found else { return StatusCode::NOT_FOUND.into_response() };
    let open = page.house.media.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let file = open(&hash, small)?;
        let length = file.metadata()?.len();
        std::io::Result::Ok((file, length))
    });
    let (mut file, length) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return StatusCode::NOT_FOUND.into_response(),
        Ok(Err(error)) => {
            tracing::warn!("a file of event {id} cannot be read: {error}");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    let mime = if small { "image/jpeg" } else { mime_of(attachment.kind, &attachment.name) };
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (from, to, status) = match range(asked, length) {
        Range::Whole => (0, length, StatusCode::OK),
        Range::Part(from, to) => (from, to, StatusCode::PARTIAL_CONTENT),
        Range::Impossible => {
            let all = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, all).into_response();
        }
    };
    if file.seek(SeekFrom::Start(from)).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let body = Body::from_stream(futures_util::stream::try_unfold((file, to - from), |(mut file, left)| async move {
        if left == 0 {
            return std::io::Result::Ok(None);
        }
        let (file, chunk) = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
            file.read_exact(&mut chunk)?;
            std::io::Result::Ok((file, chunk))
        })
        .await
        .map_err(std::io::Error::other)??;
        let left = left - chunk.len() as u64;
        Ok(Some((axum::body::Bytes::from(chunk), (file, left))))
    }));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let set = response.headers_mut();
    set.insert(header::CONTENT_TYPE, HeaderValue::from_static(mime));
    set.insert(header::CONTENT_LENGTH, HeaderValue::from(to - from));
    set.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    set.insert(header::CACHE_CONTROL, KEEP);
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(said) = HeaderValue::from_str(&format!("bytes {from}-{}/{length}", to - 1))
    {
        set.insert(header::CONTENT_RANGE, said);
    }
    response
}

pub(crate) fn hash_of(text: &str) -> Option<[u8; 32]> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// By what we know, never by what its camera says: nothing that a browser would run.
pub(super) fn mime_of(kind: AttachmentKind, name: &str) -> &'static str {
    let ending = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    match (kind, ending.as_str()) {
        (AttachmentKind::Picture, "png") => "image/png",
        (AttachmentKind::Picture, "webp") => "image/webp",
        (AttachmentKind::Picture, _) => "image/jpeg",
        (AttachmentKind::Clip, "mkv") => "video/x-matroska",
        (AttachmentKind::Clip, "webm") => "video/webm",
        (AttachmentKind::Clip, "avi") => "video/x-msvideo",
        (AttachmentKind::Clip, _) => "video/mp4",
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Range {
    Whole,
    /// From the first to before the second.
    Part(u64, u64),
    Impossible,
}

/// One range of bytes (RFC 9110, 14.1.2). Several, or what is no range, is answered by the whole.
pub(crate) fn range(asked: Option<&str>, length: u64) -> Range {
    let Some((from, to)) = asked.and_then(|asked| asked.strip_prefix("bytes=")?.split_once('-')) else { return Range::Whole };
    let (from, to) = (from.trim(), to.trim());
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    match (number(from), number(to)) {
        (Some(from), None) if to.is_empty() => part(from, length, length),
        (Some(from), Some(to)) if from <= to => part(from, to.saturating_add(1).min(length), length),
        (None, Some(last)) if from.is_empty() => part(length.saturating_sub(last), length, length),
        _ => Range::Whole,
    }
}

fn part(from: u64, to: u64, length: u64) -> Range {
    if from < to && from < length { Range::Part(from, to) } else { Range::Impossible }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clip_is_read_in_parts_as_a_browser_asks_for_them() {
        let of = |asked| range(Some(asked), 100);
        assert_eq!(range(None, 100), Range::Whole);
        assert_eq!((of("bytes=0-"), of("bytes=0-0"), of("bytes=90-200")), (Range::Part(0, 100), Range::Part(0, 1), Range::Part(90, 100)));
        assert_eq!((of("bytes=-10"), of("bytes=-200")), (Range::Part(90, 100), Range::Part(0, 100)));
        assert_eq!(
            (of("bytes=100-"), of("bytes=-0"), range(Some("bytes=0-"), 0)),
            (Range::Impossible, Range::Impossible, Range::Impossible)
        );
        for whole in ["bytes=5-1", "bytes=a-b", "bytes=0-1,5-6", "lines=0-1", "bytes=", "bytes=+1-2", "bytes=-"] {
            assert_eq!(of(whole), Range::Whole, "{whole}");
        }
    }

    #[test]
    fn no_file_of_a_camera_is_a_page_or_a_program() {
        for name in ["a.html", "a.svg", "a.js", "a", "../a.jpg"] {
            assert_eq!(mime_of(AttachmentKind::Picture, name), "image/jpeg");
        }
        assert_eq!(mime_of(AttachmentKind::Clip, "a.MKV"), "video/x-matroska");
        assert_eq!((hash_of("../etc/passwd"), hash_of(&"A".repeat(64))), (None, None));
    }
}
