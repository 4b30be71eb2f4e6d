//! The command line of `dms3-node`.

mod pow;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Motion waits for its hooks: nothing is started for them that they do not need.
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Some(code) = dms3_node::commands::hook::early(&arguments) {
        return code;
    }
    // Whatever this program starts gets nothing of the right to listen to the network that systemd gave us. Ours stays. An error: no rights of
    // this kind before Linux 4.3.
    _ = rustix::thread::clear_ambient_capability_set();
    // One provider for all of rustls, before anything can ask for it.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("dms3-node: another crypto provider was installed first");
        return ExitCode::FAILURE;
    }
    match dms3_node::commands::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dms3-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}
