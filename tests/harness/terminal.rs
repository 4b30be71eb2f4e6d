//! A terminal with a program on it, and somebody who types only what he is asked for.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};
use tokio::process::{Child, Command};

use super::eventually;

#[derive(Debug)]
pub(crate) struct Terminal {
    /// The side of whoever sits at it.
    ours: File,
    child: Child,
    shown: String,
    /// How much was shown when something was typed last.
    before: usize,
}

impl Terminal {
    /// The terminal is the program's own, as it is where a shell started it.
    pub(crate) fn with(program: &Command) -> Self {
        let pair = openpty(None, None).unwrap();
        let theirs = File::from(pair.slave);
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(program.as_std().get_program()).args(program.as_std().get_args());
        command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).stderr(theirs).kill_on_drop(true);
        let child = command.spawn().expect("`setsid` of util-linux");
        fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        Self { ours: pair.master.into(), child, shown: String::new(), before: 0 }
    }

    /// Waits until `words` are shown that were not there when something was typed last.
    pub(crate) async fn asks(&mut self, words: &str) {
        eventually(&format!("the terminal shows {words:?}"), async || {
            self.look();
            self.shown[self.before..].contains(words)
        })
        .await;
    }

    /// Waits until what is typed is not shown.
    pub(crate) async fn hides(&self) {
        eventually("the terminal hides what is typed", async || !tcgetattr(&self.ours).unwrap().local_flags.contains(LocalFlags::ECHO))
            .await;
    }

    /// And return.
    pub(crate) fn types(&mut self, line: &str) {
        self.before = self.shown.len();
        self.ours.write_all(format!("{line}\r").as_bytes()).unwrap();
    }

    /// Waits for the program's end, which is to be a success. All that was shown.
    pub(crate) async fn ends(mut self) -> String {
        eventually("the program ends", async || {
            self.look();
            self.child.try_wait().unwrap().is_some_and(|status| {
                assert!(status.success(), "{status}: {}", self.shown);
                true
            })
        })
        .await;
        self.look();
        self.shown.replace("\r\n", "\n")
    }

    fn look(&mut self) {
        let mut some = [0; 4096];
        loop {
            match self.ours.read(&mut some) {
                Ok(length) if length > 0 => self.shown.push_str(&String::from_utf8_lossy(&some[..length])),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nothing more now; EIO: nobody is there any more.
                _ => return,
            }
        }
    }
}
