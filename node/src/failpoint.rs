//! What a test does to a service of a node that runs: a file of the service's name in the directory that `DMS3_FAILPOINTS` names makes it
//! panic or hang. Only in builds for tests: what is shipped has nothing of it (`tests/architecture.rs`, `scripts/bench`).

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// How often a service looks whether it is to fail.
const LOOK: Duration = Duration::from_millis(50);

fn file_of(name: &str) -> Option<PathBuf> {
    std::env::var_os("DMS3_FAILPOINTS").map(|dir| PathBuf::from(dir).join(name))
}

/// Fails here if a test wants it: once, as the file is taken away.
pub(crate) fn here(name: &str) {
    let Some(file) = file_of(name) else { return };
    if std::fs::read(&file).is_ok_and(|what| what == b"panic") && std::fs::remove_file(&file).is_ok() {
        panic!("a test wanted {name} to fail");
    }
}

/// The same for all of a service, wherever it waits. Or it hangs: whatever it waits for never comes.
pub(crate) async fn under<F: Future>(name: &str, service: F) -> F::Output {
    let Some(file) = file_of(name) else { return service.await };
    tokio::pin!(service);
    loop {
        tokio::select! {
            ended = &mut service => return ended,
            () = tokio::time::sleep(LOOK) => here(name),
        }
        if std::fs::read(&file).is_ok_and(|what| what == b"hang") {
            std::future::pending::<()>().await;
        }
    }
}
