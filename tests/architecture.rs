//! Who may use whom: crates, outside libraries, and what the rules in core may never touch.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// (path from the root, text without comments) of every Rust file below `dir`, tests at the end of a file included.
fn sources(dir: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut to_look = vec![root().join(dir)];
    while let Some(dir) = to_look.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                // The fuzzers build beside their targets.
                if !path.ends_with("target") {
                    to_look.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                let text = fs::read_to_string(&path).unwrap();
                let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
                found.push((name, code.join("\n")));
            }
        }
    }
    assert!(!found.is_empty(), "{dir} has no sources");
    found
}

/// The part before `mod tests`.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]").next().unwrap_or(code)
}

fn is_test_file(path: &str) -> bool {
    path.contains("/tests") || path.contains("histories") || path.ends_with("frozen.rs")
}

/// Whether `code` names the crate or path `name` as a word of its own: `name::`, `use name;`, `extern crate name`.
fn mentions(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') && (after.starts_with("::") || after.starts_with(';'))
    })
}

/// Names of the section `[dependencies]` of a crate.
fn dependencies(manifest: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(manifest)).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    manifest.get("dependencies").and_then(|table| table.as_table()).map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

#[test]
fn core_knows_nothing_but_data_and_the_others_know_only_core() {
    let outside = ["serde", "postcard", "thiserror", "data-encoding", "jiff"];
    for dependency in dependencies("node/core/Cargo.toml") {
        assert!(outside.contains(&dependency.as_str()), "core uses {dependency}: rules are made of data alone");
    }
    for (crate_name, others) in [("pki", ["dms3-web", "dms3-node"]), ("web", ["dms3-pki", "dms3-node"])] {
        for dependency in dependencies(&format!("{crate_name}/Cargo.toml")) {
            assert!(!others.contains(&dependency.as_str()), "{crate_name} uses {dependency}");
        }
    }
}

#[test]
fn core_has_no_files_sockets_clocks_tasks_or_chance() {
    let forbidden = [
        "std::fs",
        "std::io",
        "std::process",
        "std::thread",
        "std::env",
        "std::time::SystemTime",
        "std::time::Instant",
        "SystemTime",
        "Instant",
        "rand",
        "tokio",
    ];
    for (path, code) in sources("node/core/src") {
        if is_test_file(&path) {
            continue;
        }
        let code = without_tests(&code);
        for word in forbidden {
            assert!(!mentions(code, word), "{path} uses {word}");
        }
        // Addresses are data; sockets are not.
        for socket in ["UdpSocket", "TcpStream", "TcpListener", "UnixStream", "SystemTime", "Instant::now"] {
            assert!(!code.contains(socket), "{path} uses {socket}");
        }
    }
}

#[test]
fn each_outside_library_has_one_owner() {
    // (crate, who may use it: beginnings of paths)
    let owners: &[(&str, &[&str])] = &[
        ("quinn", &["node/src/mesh/"]),
        ("quinn_proto", &["node/src/mesh/"]),
        ("mdns_sd", &["node/src/mesh/discovery"]),
        ("rcgen", &["pki/src/"]),
        ("postcard", &["node/core/src/protocol/"]),
        ("sqlx", &["node/src/store/"]),
        ("image", &["node/src/picture.rs"]),
        ("minijinja", &["web/src/"]),
        ("netlink_proto", &["node/src/coordinator/presence/"]),
        ("netlink_packet_core", &["node/src/coordinator/presence/"]),
        ("clap", &["node/src/commands/", "node/src/main.rs"]),
        ("axum", &["web/src/"]),
        ("axum_server", &["web/src/server.rs"]),
        ("tower_http", &["web/src/"]),
        ("argon2", &["node/src/coordinator/accounts.rs"]),
        ("lettre", &["node/src/mailer/"]),
        ("tokio_rustls", &["node/src/mailer/"]),
        ("webpki_roots", &["node/src/mailer/"]),
    ];
    for dir in ["node/src", "node/core/src", "pki/src", "web/src"] {
        for (path, code) in sources(dir) {
            for (library, allowed) in owners {
                let may = is_test_file(&path) || allowed.iter().any(|owner| path.starts_with(owner));
                assert!(may || !mentions(&code, library), "{path} uses {library}: call its owner in {allowed:?}");
            }
        }
    }
}

#[test]
fn the_two_roles_never_mention_each_other() {
    for (dir, other) in [("node/src/coordinator", "camera"), ("node/src/camera", "coordinator")] {
        for (path, code) in sources(dir) {
            let code = without_tests(&code);
            if is_test_file(&path) {
                continue;
            }
            for way in [format!("crate::{other}::"), format!("crate::{{{other}::")] {
                assert!(!code.contains(&way), "{path} mentions {way}");
            }
        }
    }
    for (path, code) in sources("node/src/mesh") {
        for role in ["crate::coordinator", "crate::camera"] {
            assert!(!without_tests(&code).contains(role) || is_test_file(&path), "{path}: mesh knows peers, not roles");
        }
    }
}

#[test]
fn only_the_clock_reads_time() {
    for dir in ["node/src", "node/core/src", "pki/src", "web/src"] {
        for (path, code) in sources(dir) {
            assert!(path == "node/src/clock.rs" || !without_tests(&code).contains("SystemTime::now"), "{path} reads the wall clock");
        }
    }
}

/// How often the compiler is asked to believe us; a part of a longer word is none.
fn unsafe_uses(code: &str) -> usize {
    let word = concat!("un", "safe");
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).filter(|(at, _)| !code[..*at].ends_with(is_part) && !code[at + word.len()..].starts_with(is_part)).count()
}

#[test]
fn whatever_is_unsafe_is_listed_with_its_reason_and_nothing_else_is() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = page.lines().skip_while(|line| *line != "## Unsafe").skip(1).take_while(|line| !line.starts_with("## "));
    let mut listed = BTreeMap::new();
    for row in section.filter(|line| line.starts_with("| `")) {
        let [file, uses, what, why, _] = row.split(" |").collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("four columns: {row}"));
        assert!(!what.trim().is_empty() && !why.trim().is_empty(), "{row}");
        listed.insert(file.trim_matches(['|', ' ', '`']).to_owned(), uses.trim().parse::<usize>().unwrap());
    }
    let mut found = BTreeMap::new();
    for (path, code) in ["node", "pki", "web", "tests", "scripts"].into_iter().flat_map(sources) {
        let uses = unsafe_uses(&code);
        if uses > 0 {
            found.insert(path, uses);
        }
    }
    assert_eq!(found, listed, "left: what is there; right: what ARCHITECTURE.md lists");
    for library in ["node/core/src/lib.rs", "pki/src/lib.rs", "web/src/lib.rs"] {
        let text = fs::read_to_string(root().join(library)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{library}: the rules, papers and pages have no need of it");
    }
}

#[test]
fn no_key_and_no_certificate_lies_in_the_repository() {
    let out = std::process::Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    if !out.status.success() {
        // Not a clone: a source archive.
        return;
    }
    for name in String::from_utf8_lossy(&out.stdout).split('\0').filter(|name| !name.is_empty()) {
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        assert!(!["pem", "key", "crt", "der", "p12", "pfx"].contains(&extension), "{name} looks like a key or a certificate");
        let text = fs::read(root().join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for (at, marker) in text.match_indices("PRIVATE KEY-----\n") {
            let body = text[at + marker.len()..].lines().next().unwrap_or_default();
            assert!(body.len() < 40 || body.contains(' '), "{name} holds a private key");
        }
    }
}

#[test]
fn every_test_that_guards_a_promise_or_a_check_is_there() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let code: Vec<(String, String)> = ["node", "pki", "web", "tests"].into_iter().flat_map(sources).collect();
    let rows: Vec<&str> = page.lines().skip_while(|line| !line.starts_with("## Promise")).filter(|line| line.starts_with("| ")).collect();
    let mut named = 0;
    for row in rows.iter().filter(|row| !row.contains("| Test")) {
        let tests: Vec<&str> = row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2).filter(|word| word.contains("::")).collect();
        assert!(!tests.is_empty(), "no test stands in: {row}");
        for test in tests {
            let (module, name) = test.rsplit_once("::").unwrap();
            let module = module.rsplit("::").find(|part| !part.ends_with("tests")).unwrap_or(module);
            let is_there = code.iter().any(|(path, text)| path.contains(module) && text.contains(&format!("fn {name}(")));
            assert!(is_there, "ARCHITECTURE.md names a test that is not there: {test}");
            named += 1;
        }
    }
    assert!(named > 100, "{named}");
}

#[test]
fn what_only_tests_need_is_not_in_what_is_shipped() {
    let only_in_tests = ["failpoint", "/debug/"];
    for (path, code) in ["node/src", "web/src"].into_iter().flat_map(sources) {
        if path == "node/src/failpoint.rs" {
            continue;
        }
        let lines: Vec<_> = without_tests(&code).lines().collect();
        for (nth, line) in lines.iter().enumerate() {
            let is_one = only_in_tests.iter().any(|word| line.contains(word));
            let is_left_out = nth > 0 && lines[nth - 1].trim() == "#[cfg(debug_assertions)]";
            assert!(!is_one || is_left_out, "{path} has this also in a release: {line}");
        }
    }
    // What they are left out by.
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    for profile in ["release", "dist"] {
        assert!(manifest["profile"][profile].get("debug-assertions").is_none(), "profile {profile}");
    }
}
