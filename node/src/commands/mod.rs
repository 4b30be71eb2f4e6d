//! One file per command.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use dms3_core::request::{Answer, Request};
use dms3_core::time::Timestamp;

use crate::config::{Config, DEFAULT_PATH};

mod ca;
mod check_config;
pub mod discover;
pub mod enroll;
mod events;
pub mod hook;
mod house;
mod import;
mod init;
mod log;
mod mail;
mod nodes;
pub mod presence;
mod run;
mod status;
mod text;
mod time;
pub mod token;
mod web;

/// Cameras that watch when nobody is home, and do not when somebody is.
#[derive(Debug, Parser)]
#[command(name = "dms3-node", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    config: ConfigArg,
}

/// Which config a command reads.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArg {
    /// The node's config
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
}

impl ConfigArg {
    pub fn load(&self) -> Result<Config> {
        Config::load(&self.config)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this machine the coordinator of a new house
    Init(init::Args),
    /// Run the node (systemd does)
    Run,
    /// Tokens that pair new nodes
    Token(token::TokenArgs),
    /// Pair this machine with a token
    Enroll(enroll::EnrollArgs),
    /// List the coordinators that are heard on this network
    Discover(discover::Args),
    /// Show live which devices are near (needs no node and no config); teach the house a phone
    Presence(presence::Args),
    /// List the nodes of the house
    Nodes(nodes::Args),
    /// What holds now, and why
    Status(status::Args),
    /// Why the house is as it is: what is known of each person, and what each rule says
    Why,
    /// What was decided and why, and who was let in and put out
    Log(log::Args),
    /// What the cameras saw
    Events(events::Args),
    /// Take a person's name and devices out of all that is remembered
    Forget(log::ForgetArgs),
    /// Arm the house
    Arm(house::ArmArgs),
    /// Disarm the house
    Disarm(house::DisarmArgs),
    /// Let presence decide again
    Auto,
    /// Give a node another name
    Rename(house::RenameArgs),
    /// Put a node out of the house, at once and for good
    Revoke(house::RevokeArgs),
    /// Say that you looked at what a node did: it is forgiven, and its identity no longer taken to be used twice
    Clear(house::ClearArgs),
    /// On a camera: stop its detectors by hand for a while
    Pause(house::PauseArgs),
    /// On a camera: end a pause
    Resume,
    /// The root key of the house: take it off this machine, bring it back
    Ca(ca::Args),
    /// The dashboard: its first visit, its owner, its templates
    Web(web::WebArgs),
    /// Say that this machine's clock is right
    Time(time::Args),
    /// Read a config and say what is wrong with it
    CheckConfig,
    // Both are run before the command line is read (`hook::early`); here for the list of commands.
    Hook(Box<hook::Args>),
    /// Take the config of DMS3 in Go over
    Import(import::Args),
    /// Try whether mail works; and the hook of the Go program: mail -pixels=%D -filename=%f
    #[command(subcommand)]
    Mail(mail::MailCommand),
}

/// What time it is in this house, as its coordinator says: the clock of this machine may be wrong. Where nobody answers, by that.
async fn time_of_house(config: &Config) -> Timestamp {
    match crate::control::ask(&config.control_socket(), &Request::Status).await {
        Ok(Answer::House(house)) => house.now().unwrap_or_else(crate::clock::wall),
        _ => crate::clock::wall(),
    }
}

impl Cli {
    pub fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(8)
            .thread_name("dms3")
            .enable_all()
            .build()
            .context("cannot start")?;
        let code = runtime
            .block_on(Box::pin(async {
                let config = &self.config;
                match self.command {
                    Command::Init(args) => init::run(args, config).await,
                    Command::Run => run::run(config).await,
                    Command::Token(args) => token::run(args, config).await,
                    Command::Enroll(args) => enroll::command(args, config).await,
                    Command::Discover(args) => discover::run(args, config).await,
                    Command::Presence(args) => presence::run(args, config).await,
                    Command::Nodes(args) => nodes::run(args, config).await,
                    Command::Status(args) => status::run(args, config).await,
                    Command::Why => status::why(config).await,
                    Command::Log(args) => log::run(args, config).await,
                    Command::Events(args) => events::run(args, config).await,
                    Command::Forget(args) => log::forget(args, config).await,
                    Command::Arm(args) => house::arm(args, config).await,
                    Command::Disarm(args) => house::disarm(args, config).await,
                    Command::Auto => house::auto(config).await,
                    Command::Rename(args) => house::rename(args, config).await,
                    Command::Revoke(args) => house::revoke(args, config).await,
                    Command::Clear(args) => house::clear(args, config).await,
                    Command::Pause(args) => house::pause(args, config).await,
                    Command::Resume => house::resume(config).await,
                    Command::Ca(args) => ca::run(args, config),
                    Command::Web(args) => web::run(args, config).await,
                    Command::Time(args) => time::run(args, config).await,
                    Command::CheckConfig => check_config::run(config),
                    Command::Import(args) => import::run(args, config).await,
                    Command::Mail(command) => mail::run(command, config).await,
                    Command::Hook(_) => anyhow::bail!("give `hook` as the first word"),
                }
            }))
            .map(|()| ExitCode::SUCCESS);
        // A blocking read of standard input must not hold the exit.
        runtime.shutdown_background();
        code
    }
}
