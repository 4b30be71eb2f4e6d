//! `dms3-node time accept`: a person says that this machine's clock is right.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result, bail, ensure};

use super::ConfigArg;
use crate::clock::{Clock, date_and_time, wall};
use crate::config::Config;
use crate::control::ask;
use crate::owner::AsOwner;
use crate::state_lock;
use crate::store::Store;
use dms3_core::request::{Answer, Request};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: TimeCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TimeCommand {
    /// On the coordinator: say that this machine's clock is right, although it is far ahead of what is proven
    Accept {
        /// Do not ask whether the time that it shows is right
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(args: Args, at: &ConfigArg) -> Result<()> {
    let TimeCommand::Accept { yes } = args.command;
    let config = at.load()?;
    config.coordinator()?;
    ensure!(yes || is_right()?, "nothing was changed: set this machine's clock, or let it reach a time server");
    let words = match ask(&config.control_socket(), &Request::TimeAccept).await {
        Ok(Answer::Done(words)) => words,
        Ok(other) => bail!("the node gave an unexpected answer: {other:?}"),
        Err(error) => accept_stopped(&config).await?.ok_or(error)?,
    };
    println!("{words}");
    Ok(())
}

/// Whether the person at the terminal says so; where there is none, the command itself says it.
pub(super) fn is_right() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    print!("This machine's clock says {}. Is that right? [y/N] ", date_and_time(wall()));
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// In the state directory of a node that does not run; `None`: it runs, or this is not our business.
async fn accept_stopped(config: &Config) -> Result<Option<String>> {
    let Ok(owner) = AsOwner::of(&config.state_dir) else { return Ok(None) };
    let Ok(_lock) = state_lock::take(&config.state_dir) else { return Ok(None) };
    let clock = Clock::open(&config.state_dir);
    let at = clock.accept()?;
    let store = Store::open(&config.state_dir).await?;
    clock.save()?;
    store.time_accepted(at, "a person, while the node was stopped").await?;
    store.close().await;
    drop(owner);
    Ok(Some(format!("{} is taken as right from the next start on.", date_and_time(at))))
}
