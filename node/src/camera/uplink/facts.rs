//! What a node says of itself in its Hello.

use dms3_core::protocol::frame::{self, HELLO_LIMIT, Message};
use dms3_core::protocol::message::HelloV1;

use super::UplinkContext;

/// Longest text, so that all of them fit into one small frame.
const TEXT_LIMIT: usize = 100;

pub(super) fn hello(context: &UplinkContext) -> HelloV1 {
    let kernel = nix::sys::utsname::uname().map(|uname| uname.release().to_string_lossy().into_owned()).unwrap_or_default();
    let hostname = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut hello = HelloV1 {
        mesh: context.identity.mesh(),
        boot: context.boot,
        hostname: short(hostname),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        os: short(operating_system(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())),
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        kernel: short(kernel),
        time: context.clock.now().at,
        held: context.held.borrow().clone(),
        bundle_epoch: context.identity.bundle().epoch(),
        sources: context.sources.clone(),
    };
    if frame::encode(&Message::Hello(hello.clone()), HELLO_LIMIT).is_err() {
        // Very many detectors: their report names them as well. What is held matters more.
        hello.sources.clear();
    }
    hello
}

fn short(text: String) -> String {
    text.chars().take(TEXT_LIMIT).collect()
}

/// "debian 12" of `os-release` (man 5 os-release).
fn operating_system(os_release: &str) -> String {
    let value = |key: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim().trim_matches(['"', '\'']).to_lowercase())
            .filter(|value| !value.is_empty())
    };
    match (value("ID"), value("VERSION_ID")) {
        (Some(id), Some(version)) => format!("{id} {version}"),
        (Some(id), None) => id,
        (None, _) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operating_system_is_told_in_two_words() {
        assert_eq!(operating_system("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\nVERSION_ID=\"12\"\n"), "debian 12");
        assert_eq!(operating_system("ID=arch\n"), "arch");
        assert_eq!(operating_system("VERSION_ID=12"), "unknown");
    }
}
