//! `dms3-node mail test`: whether mail works. (`mail -pixels=N -filename=FILE` is the hook of the Go program, see `hook.rs`.)

use std::time::Duration;

use anyhow::{Result, bail};

use super::ConfigArg;
use crate::control::ask;
use dms3_core::request::{Answer, Request};

/// How long a mail server may take before we say that it takes long.
const PATIENCE: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum MailCommand {
    /// Send a mail to everybody in [mail] and say what became of it
    Test,
}

pub(super) async fn run(_: MailCommand, config: &ConfigArg) -> Result<()> {
    let config = config.load()?;
    let socket = config.control_socket();
    let Answer::Done(said) = ask(&socket, &Request::MailTest).await? else { bail!("the node gave an unexpected answer") };
    println!("{said}");
    let asked = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let mail = match ask(&socket, &Request::Status).await? {
            Answer::House(house) => house.mail,
            Answer::Camera(camera) => camera.mail,
            _ => bail!("the node gave an unexpected answer"),
        };
        let Some(mail) = mail else { bail!("this node mails nothing") };
        match (mail.waiting, mail.why) {
            (0, _) => {
                println!("The mail server took it.");
                return Ok(());
            }
            (waiting, Some(why)) => bail!("{waiting} mail(s) wait and are tried again: {why}"),
            (waiting, None) if asked.elapsed() > PATIENCE => bail!("{waiting} mail(s) wait: the mail server has not answered yet"),
            (_, None) => {}
        }
    }
}
