//! `dms3-node web …`: who may open the dashboard first, and templates to start one's own from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use dms3_core::request::{Answer, Request, WebCode};
use dms3_web::templates::PAGE;

use super::ConfigArg;
use crate::control::ask;

#[derive(Debug, clap::Args)]
pub(crate) struct WebArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// A new code for the first visit, which makes the owner
    SetupCode,
    /// Remove every owner, with a code for a new one; other accounts stay
    ResetOwner,
    /// The templates of the pages
    Templates {
        #[command(subcommand)]
        command: Templates,
    },
}

#[derive(Debug, clap::Subcommand)]
enum Templates {
    /// Write ours into a new directory, as a start for [web] template_dir
    Export {
        /// Made if it is not there; must be empty
        dir: PathBuf,
    },
}

pub(super) async fn run(args: WebArgs, config: &ConfigArg) -> Result<()> {
    match args.command {
        Command::SetupCode => code(config, false).await,
        Command::ResetOwner => code(config, true).await,
        Command::Templates { command: Templates::Export { dir } } => export(&dir),
    }
}

async fn code(config: &ConfigArg, reset: bool) -> Result<()> {
    let Answer::WebCode(code) = ask(&config.load()?.control_socket(), &Request::WebCode { reset }).await? else {
        bail!("the node gave an unexpected answer");
    };
    if reset {
        println!("The dashboard has no owner any more; whoever was one is signed out.");
    }
    print!("{}", words(&code));
    Ok(())
}

/// For `init` too.
pub(super) fn words(code: &WebCode) -> String {
    let address = code.address.as_ref().map_or_else(|| "the dashboard (it is not served now: see the node's log)".to_owned(), Clone::clone);
    let mut text = format!("Open {address} and make yourself its owner with this code, within a day:\n  {}\n", code.code);
    if let Some(fingerprint) = &code.fingerprint {
        text.push_str(&format!(
            "Your browser does not know the house yet and warns you. Its certificate must have this SHA-256 fingerprint:\n  {fingerprint}\n"
        ));
    }
    text
}

fn export(dir: &Path) -> Result<()> {
    let is_empty = std::fs::read_dir(dir).map(|mut files| files.next().is_none()).unwrap_or(true);
    ensure!(is_empty, "{} is not empty: nothing was written", dir.display());
    let mut count = 0;
    for name in PAGE.names() {
        let path = dir.join(name);
        let parent = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let text = PAGE.ours(name).unwrap_or_default();
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        count += 1;
    }
    println!(
        "{count} templates are in {0}. Keep those that you change, remove the others, and write\n  [web]\n  template_dir = \"{0}\"",
        dir.display()
    );
    Ok(())
}
