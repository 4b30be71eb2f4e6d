//! A test that this machine cannot run says so. In CI that is a failure, except for what `scripts/test` lists.

use std::io::Write as _;

/// Whether namespaces can be made here; else the test is to return.
pub(crate) fn cannot_make_networks(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    skipped(test, "root", "needs root to make a network of namespaces");
    true
}

/// The library that gives a process a wrong clock, where the Debian package `faketime` puts it.
pub(super) fn libfaketime() -> Option<std::path::PathBuf> {
    let library = |dir: std::fs::DirEntry| dir.path().join("faketime/libfaketimeMT.so.1");
    std::fs::read_dir("/usr/lib").ok()?.flatten().map(library).find(|path| path.exists())
}

/// Whether no process can be given a wrong clock here; else the test is to return.
pub(crate) fn cannot_fake_clocks(test: &str) -> bool {
    let missing = libfaketime().is_none();
    if missing {
        skipped(test, "faketime", "needs libfaketime (Debian package faketime)");
    }
    missing
}

/// What looks for barriers in a page (npm package axe-core), where scripts/needs puts it.
pub(super) fn axe() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("target/axe-core-4.14.1.js")
}

/// Whether no browser can be started here; else the test is to return.
pub(crate) fn cannot_browse(test: &str) -> bool {
    let in_path = |name: &str| std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).exists()));
    let missing = !["chromium", "chromedriver", "certutil"].into_iter().all(in_path) || !axe().exists();
    if missing {
        skipped(test, "browser", "needs Chromium with its driver, certutil and axe-core (scripts/needs test)");
    }
    missing
}

/// Notes that a test did not run. Panics where all must run.
pub(crate) fn skipped(test: &str, kind: &str, why: &str) {
    let may = std::env::var("DMS3_MAY_SKIP").unwrap_or_default();
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci || may.split(',').any(|known| known == kind), "{test} {why}, and in CI nothing is skipped");
    eprintln!("skipped: {test} {why}");
    if let Some(list) = std::env::var_os("DMS3_SKIPPED") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(list).expect("the list of skipped tests");
        writeln!(file, "{test}: {why}").expect("the list of skipped tests");
    }
}
