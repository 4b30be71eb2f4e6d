//! What pages are made of besides their text: embedded, and named by their content, so that a browser keeps each for good.

use std::io::Read as _;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::read::GzDecoder;
use ring::digest::{SHA256, digest};

struct Asset {
    /// As templates call it.
    name: &'static str,
    /// By gzip (`build.rs`).
    packed: &'static [u8],
    mime: &'static str,
}

macro_rules! assets {
    ($($name:literal: $mime:literal),* $(,)?) => { &[$(Asset { name: $name, packed: include_bytes!(concat!(env!("OUT_DIR"), "/assets/", $name)), mime: $mime }),*] };
}

static ASSETS: &[Asset] = assets![
    "app.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icons.svg": "image/svg+xml",
    "icon.svg": "image/svg+xml",
    "vendor/htmx.min.js": "text/javascript; charset=utf-8",
    "vendor/sse.min.js": "text/javascript; charset=utf-8",
    "vendor/modern-normalize.css": "text/css; charset=utf-8",
];

/// "app.0123456789ab.css" and its asset.
static NAMED: LazyLock<Vec<(String, &'static Asset)>> = LazyLock::new(|| ASSETS.iter().map(|asset| (hashed(asset), asset)).collect());

/// Where a template finds an asset; `None`: there is none of that name.
pub(crate) fn url(name: &str) -> Option<String> {
    NAMED.iter().find(|(_, asset)| asset.name == name).map(|(hashed, _)| format!("/assets/{hashed}"))
}

fn named(hashed: &str) -> Option<&'static Asset> {
    NAMED.iter().find(|(name, _)| name == hashed).map(|(_, asset)| *asset)
}

/// The type and the bytes of what lies at `/assets/{hashed}`.
pub fn find(hashed: &str) -> Option<(&'static str, Vec<u8>)> {
    let asset = named(hashed)?;
    Some((asset.mime, unpacked(asset).ok()?))
}

/// Anybody may have them: the sign-in page needs them, and they say nothing of the house.
pub(crate) async fn serve(Path(name): Path<String>, asked: HeaderMap) -> Response {
    let Some(asset) = named(&name) else { return StatusCode::NOT_FOUND.into_response() };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.mime)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
    ];
    let mut takes =
        asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    if takes.any(|kind| kind.trim() == "gzip") {
        return (headers, [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))], asset.packed).into_response();
    }
    match unpacked(asset) {
        Ok(bytes) => (headers, bytes).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn unpacked(asset: &Asset) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    GzDecoder::new(asset.packed).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn hashed(asset: &Asset) -> String {
    let hash: String = digest(&SHA256, asset.packed).as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let file = asset.name.rsplit('/').next().unwrap_or(asset.name);
    let (stem, kind) = file.rsplit_once('.').unwrap_or((file, ""));
    format!("{stem}.{hash}.{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_asset_has_a_name_of_its_own_that_changes_with_its_content() {
        let names: std::collections::BTreeSet<_> = NAMED.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), ASSETS.len());
        let url = url("app.css").unwrap();
        assert!(url.starts_with("/assets/app.") && url.ends_with(".css") && url.len() == "/assets/app.0123456789ab.css".len(), "{url}");
        let one = |bytes| hashed(&Asset { name: "vendor/a.js", packed: bytes, mime: "" });
        assert_ne!(one(b"1"), one(b"2"));
        assert_eq!(super::url("../Cargo.toml"), None);
    }

    #[tokio::test]
    async fn an_asset_is_the_same_for_who_takes_it_packed_and_who_does_not() {
        let name = url("vendor/htmx.min.js").unwrap().rsplit('/').next().unwrap().to_owned();
        let asset = ASSETS.iter().find(|asset| asset.name == "vendor/htmx.min.js").unwrap();
        for (takes, encoding, expected) in [
            ("gzip, deflate, br", Some("gzip"), asset.packed),
            ("gzip;q=0", None, include_bytes!("../assets/vendor/htmx.min.js")),
            ("", None, include_bytes!("../assets/vendor/htmx.min.js")),
        ] {
            let asked = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(takes))]);
            let answer = serve(Path(name.clone()), asked).await;
            assert_eq!(answer.headers().get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap()), encoding, "{takes}");
            assert!(axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap() == expected, "{takes}");
        }
    }
}
