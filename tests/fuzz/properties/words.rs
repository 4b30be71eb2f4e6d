//! What hooks and browsers say.

use dms3_core::id::{BootId, EventId, MeshId, NodeId, TokenId};
use dms3_node::camera::intake::{clean_name, time_of_argument};
use dms3_node::hook::{Call, LIMIT, encode};
use dms3_web::fuzzing::{encoded, hash_of, is_from_our_page, place_of, range, session_of, way_back};

use super::script::Script;

/// What a hook says, over the socket or in the spool: what is read is said again the same, and nothing that it names is more than a name.
pub(crate) fn call(bytes: &[u8]) {
    let Ok(call) = serde_json::from_slice::<Call>(bytes) else { return };
    // It may get longer, as each control character does; then it is not said, and nothing worse.
    if let Ok(said) = encode(&call) {
        let (length, text) = said.split_first_chunk::<4>().expect("it has a length");
        assert!(u32::from_be_bytes(*length) as usize == text.len() && text.len() <= LIMIT);
        assert_eq!(serde_json::from_slice::<Call>(text).expect("our own words"), call);
    }
    let shown = clean_name(call.file.as_deref().unwrap_or_default());
    assert!(shown.len() <= 255 && !shown.contains(char::is_control), "{shown:?}");
    if let Some(time) = call.at.as_deref().and_then(time_of_argument) {
        assert!(time.as_secs() < 100_000_000_000);
    }
}

/// Addresses and headers of whoever seems to be a browser; the first byte tells which.
pub(crate) fn visitor(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let Some(what) = script.byte() else { return };
    match what % 4 {
        0 => {
            let Some(length) = script.array().map(u64::from_be_bytes) else { return };
            let Ok(asked) = std::str::from_utf8(script.rest()) else { return };
            match range(asked, length) {
                Some((from, to)) => assert!((from < to && to <= length) || (from, to, length) == (0, 0, 0), "{from}-{to}/{length}"),
                None => assert!(asked.starts_with("bytes=")),
            }
        }
        1 => {
            let (Some(host), Some(site), Some(origin)) = (script.some(), script.some(), script.some()) else { return };
            let site = Some(site).filter(|site| !site.is_empty());
            let origin = Some(origin).filter(|origin| !origin.is_empty());
            if is_from_our_page(host, site, origin) == Some(true) {
                assert!(site.is_none_or(|site| site == b"same-origin"));
                let ours = |origin: &[u8]| ["https://", "http://"].iter().any(|scheme| origin == [scheme.as_bytes(), host].concat());
                assert!(origin.is_none_or(ours));
            }
        }
        2 => {
            let cookie = script.rest();
            for is_plain in [false, true] {
                let Some(word) = session_of(cookie, is_plain) else { continue };
                let name = if is_plain { "dms3=" } else { "__Host-dms3=" };
                assert!(!word.contains(';') && String::from_utf8_lossy(cookie).contains(&format!("{name}{word}")));
            }
        }
        _ => {
            let Ok(text) = std::str::from_utf8(script.rest()) else { return };
            words(text);
        }
    }
}

fn words(text: &str) {
    let back = way_back(text);
    assert!(back.starts_with('/') && !back[1..].starts_with(['/', '\\']) && !back.contains(char::is_control), "{back:?} is another site");
    let escaped = encoded(text);
    assert!(escaped.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte)));
    let hex = escaped.split('%').skip(1).all(|rest| rest.get(..2).is_some_and(|two| u8::from_str_radix(two, 16).is_ok()));
    assert!(hex && escaped.len() >= text.len());
    if let Some(hash) = hash_of(text) {
        assert_eq!(data_encoding::HEXLOWER.encode(&hash), text);
    }
    if let Some((at, id)) = place_of(text) {
        assert_eq!(place_of(&format!("{}.{id}", at.0)), Some((at, id)));
    }
    // Each id has one name, in either case.
    let names = [
        EventId::parse(text).ok().map(|id| id.to_string()),
        NodeId::parse(text).ok().map(|id| id.to_string()),
        MeshId::parse(text).ok().map(|id| id.to_string()),
        BootId::parse(text).ok().map(|id| id.to_string()),
        TokenId::parse(text).ok().map(|id| id.to_string()),
    ];
    for name in names.into_iter().flatten() {
        assert!(name.eq_ignore_ascii_case(text), "{text:?} is {name:?}");
    }
}
