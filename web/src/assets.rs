//! What pages are made of besides their text: embedded, and named by their content, so that a browser keeps each for good.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ring::digest::{SHA256, digest};

struct Asset {
    /// As templates call it.
    name: &'static str,
    bytes: &'static [u8],
    mime: &'static str,
}

macro_rules! assets {
    ($($name:literal: $mime:literal),* $(,)?) => { &[$(Asset { name: $name, bytes: include_bytes!(concat!("../assets/", $name)), mime: $mime }),*] };
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

/// The type and the bytes of what lies at `/assets/{hashed}`.
pub fn find(hashed: &str) -> Option<(&'static str, &'static [u8])> {
    NAMED.iter().find(|(name, _)| name == hashed).map(|(_, asset)| (asset.mime, asset.bytes))
}

/// Anybody may have them: the sign-in page needs them, and they say nothing of the house.
pub(crate) async fn serve(Path(name): Path<String>) -> Response {
    let Some((mime, bytes)) = find(&name) else { return StatusCode::NOT_FOUND.into_response() };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(mime)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    (headers, bytes).into_response()
}

fn hashed(asset: &Asset) -> String {
    let hash: String = digest(&SHA256, asset.bytes).as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
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
        let one = |bytes| hashed(&Asset { name: "vendor/a.js", bytes, mime: "" });
        assert_ne!(one(b"1"), one(b"2"));
        assert_eq!(super::url("../Cargo.toml"), None);
    }
}
