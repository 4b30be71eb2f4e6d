//! Sends one message: every recipient gets an answer of their own, and no wait is without end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use data_encoding::BASE64;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Quit, Rcpt};
use lettre::transport::smtp::{Error, response::Response};

use super::address::Address;
use super::config::{Login, MailConfig};
use super::connect::{Why, at, connect, reason, silent};
use super::message::Message;
use super::secret::Secret;

/// What became of a message for one recipient. The texts are for people: server, what happened, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server has it and answers for it.
    Sent,
    /// Not now: try again. Everything that time or a person can mend.
    Later(String),
    /// The server takes no message of this size. Without its clip it may.
    TooLarge(String),
    /// The server will not take mail for this recipient.
    Never(String),
}

/// Steps of a conversation: connect, greeting, EHLO, STARTTLS, TLS, AUTH, MAIL, RCPT, DATA, the answer to it.
const STEPS: u32 = 10;
/// The answer to DATA comes when the server has looked at it. Giving up early means sending it twice.
const LAST_ANSWER: u32 = 3;
/// Bytes a second that every line can do; slower, and the next alert is kept from going out.
const SLOWEST: u64 = 16 * 1024;

/// The longest that [`send`] takes.
pub fn longest(config: &MailConfig, message: &Message) -> Duration {
    config.timeout * (STEPS + LAST_ANSWER) + Duration::from_secs(message.size() / SLOWEST)
}

/// Sends the message to those of its recipients who do not have it yet. One who is refused keeps it from no other. The outcomes stand in the
/// order of `to`.
pub async fn send(config: &MailConfig, message: &Message, to: &[Address]) -> Vec<Outcome> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; to.len()];
    if to.is_empty() {
        return Vec::new();
    }
    let whole = tokio::time::timeout(longest(config, message), Box::pin(converse(config, message, to, &mut outcomes)));
    let why = match whole.await {
        Ok(Ok(())) => "the conversation ended early".to_owned(),
        Ok(Err(why)) => why,
        Err(_) => format!("{}: it is too slow, and the whole took too long. Try again later.", at(config)),
    };
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Outcome::Later(why.clone()))).collect()
}

/// Fills in what became of each recipient; an error is for all who have none.
async fn converse(config: &MailConfig, message: &Message, to: &[Address], outcomes: &mut [Option<Outcome>]) -> Result<(), Why> {
    let login = match &config.login {
        Some(login) => Some((login, login.password.read().map_err(|error| format!("{error:#}."))?)),
        None => None,
    };
    let speech = Speech { config, login };
    let broken = Arc::new(AtomicBool::new(false));
    let (wire, hello) = connect(config, broken.clone()).await?;
    let greet = AsyncSmtpConnection::connect_with_transport(Box::new(wire), &hello);
    let mut smtp = speech.step("to EHLO", 2, greet).await?.map_err(|said| said.why("does not want to talk to us", "Try again later."))?;
    speech.log_in(&mut smtp).await?;

    let mail = Mail::new(Some(config.from.0.clone()), Vec::new());
    if let Err(said) = speech.step("to MAIL", 1, smtp.command(mail)).await? {
        let advice = "Is `from` in [mail] an address of this account, and is a `user` needed?";
        return Err(said.why(&format!("takes no mail from {}", config.from), advice));
    }
    let mut open = Vec::new();
    for (nth, recipient) in to.iter().enumerate() {
        match speech.step("to RCPT", 1, smtp.command(Rcpt::new(recipient.0.clone(), Vec::new()))).await? {
            Ok(_) => open.push(nth),
            Err(said) => outcomes[nth] = Some(said.of_recipient(recipient)),
        }
    }
    if open.is_empty() {
        speech.quit(&mut smtp).await;
        return Ok(());
    }
    if let Err(said) = speech.step("to DATA", 1, smtp.command(Data)).await? {
        let outcome = said.of_message(message);
        fill(outcomes, &open, &outcome);
        return Ok(());
    }
    let data = tokio::time::timeout(
        config.timeout * LAST_ANSWER + Duration::from_secs(message.size() / SLOWEST),
        smtp.message_iter(message.chunks(broken)),
    );
    match data.await {
        Ok(answer) => match speech.hear("after the message", answer)? {
            // From here on they have it, whatever happens.
            Ok(_) => fill(outcomes, &open, &Outcome::Sent),
            Err(said) => fill(outcomes, &open, &said.of_message(message)),
        },
        Err(_) => return Err(format!("{}: no answer to the message. It may have arrived; it is sent again.", at(config))),
    }
    speech.quit(&mut smtp).await;
    Ok(())
}

fn fill(outcomes: &mut [Option<Outcome>], open: &[usize], outcome: &Outcome) {
    for nth in open {
        outcomes[*nth] = Some(outcome.clone());
    }
}

/// What is needed to put the server's words into ours.
struct Speech<'a> {
    config: &'a MailConfig,
    login: Option<(&'a Login, Secret)>,
}

impl Speech<'_> {
    /// Ok(Err): the server said no. Err: it said nothing, or nothing that can be understood.
    async fn step<T>(&self, what: &str, times: u32, doing: impl Future<Output = Result<T, Error>>) -> Result<Result<T, Said<'_>>, Why> {
        match tokio::time::timeout(self.config.timeout * times, doing).await {
            Ok(answer) => self.hear(what, answer),
            Err(_) => Err(silent(self.config, what)),
        }
    }

    fn hear<T>(&self, what: &str, answer: Result<T, Error>) -> Result<Result<T, Said<'_>>, Why> {
        let error = match answer {
            Ok(answer) => return Ok(Ok(answer)),
            Err(error) => error,
        };
        let source = std::error::Error::source(&error);
        let source = source.map(|error| error.downcast_ref().map_or_else(|| error.to_string(), reason)).unwrap_or_default();
        match error.status() {
            Some(code) => Ok(Err(Said { speech: self, code: code.into(), text: quoted(&self.without_secrets(&source)) })),
            None if error.is_timeout() => Err(silent(self.config, what)),
            None => {
                // lettre's word for an end in the middle of an answer, or before it.
                let closed = ["", "incomplete response"].contains(&source.as_str());
                let why = if closed { "the server closed it" } else { &source };
                Err(format!("{}: the connection broke {what} ({}). Try again later.", at(self.config), self.without_secrets(why)))
            }
        }
    }

    async fn log_in(&self, smtp: &mut AsyncSmtpConnection) -> Result<(), Why> {
        let Some((login, password)) = &self.login else { return Ok(()) };
        let (at, user) = (at(self.config), &login.user);
        if smtp.server_info().get_auth_mechanism(DEFAULT_MECHANISMS).is_none() {
            return Err(format!(
                "{at}: it offers no log-in with a password (PLAIN or LOGIN) here. Another port (465 or 587) may; \
                 a server that takes mail without one needs no `user` in [mail]."
            ));
        }
        let credentials = Credentials::new(user.clone(), password.reveal().to_owned());
        let advice = "Are user and password in [mail] right? Many providers want a password of its own for a program (\"app password\").";
        match self.step("to AUTH", 3, smtp.auth(DEFAULT_MECHANISMS, &credentials)).await? {
            Ok(_) => Ok(()),
            Err(said) => Err(said.why(&format!("does not let {user:?} in"), advice)),
        }
    }

    /// Good manners; nothing depends on it.
    async fn quit(&self, smtp: &mut AsyncSmtpConnection) {
        let quit: Result<Result<Response, _>, _> = tokio::time::timeout(self.config.timeout, smtp.command(Quit)).await;
        drop(quit);
    }

    /// A server may repeat what it was told.
    fn without_secrets(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if let Some((login, password)) = &self.login {
            let password = password.reveal();
            let plain = format!("\0{}\0{password}", login.user);
            for secret in [password, &BASE64.encode(password.as_bytes()), &BASE64.encode(plain.as_bytes())] {
                text = text.replace(secret, "(hidden)");
            }
        }
        shown(&text)
    }
}

/// A server's words as they can stand in a line of a log.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 300;
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}...", &words[..at]),
        None => words,
    }
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// A server's no.
struct Said<'a> {
    speech: &'a Speech<'a>,
    code: u16,
    text: String,
}

impl Said<'_> {
    /// `advice` is for a final no; another may be a yes in a while.
    fn why(&self, what: &str, advice: &str) -> Why {
        let advice = if self.is_passing() { "It may later: try again." } else { advice };
        format!("{}: it {what}: {} {}. {advice}", at(self.speech.config), self.code, self.text)
    }

    fn is_passing(&self) -> bool {
        (400..=499).contains(&self.code)
    }

    /// The second number of an enhanced status code such as 5.1.1 (RFC 3463), and the third.
    fn detail(&self) -> Option<(u32, u32)> {
        let mut numbers = self.text.trim_matches('"').split(' ').next()?.split('.');
        let class = numbers.next()?;
        let detail = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        (numbers.next().is_none() && ["4", "5"].contains(&class)).then_some(detail)
    }

    /// The answer to RCPT.
    fn of_recipient(&self, recipient: &Address) -> Outcome {
        let no = |advice| self.why(&format!("takes no mail for {recipient}"), advice);
        match (self.code, self.detail()) {
            _ if self.is_passing() => Outcome::Later(no("")),
            (_, Some((2, 2))) => Outcome::Later(no("The mailbox is full: somebody must make room in it.")),
            // RFC 4954, section 6: log in first. RFC 3463: 5.7 is what the server's rules say of us, not of the recipient; 5.3 is its own trouble.
            (530 | 535 | 538, _) | (_, Some((3 | 7, _))) => {
                Outcome::Later(no("Are user, password and from in [mail] right? The server may want one of its own users."))
            }
            _ => Outcome::Never(no("Is the address right? Look at `to` in [mail].")),
        }
    }

    /// The answer to DATA or to the message itself.
    fn of_message(&self, message: &Message) -> Outcome {
        let size = message.size().div_ceil(1_000_000);
        // RFC 1870, section 6, and RFC 3463: 5.3.4 and 5.2.3 are sizes; a bare 552 is one mostly.
        match (self.code, self.detail()) {
            (500..=599, Some((3, 4) | (2, 3))) | (552, None) => {
                let what = format!("takes no message of {size} MB");
                Outcome::TooLarge(self.why(&what, "Write a smaller max_attachment in [mail]."))
            }
            _ => Outcome::Later(
                self.why("does not take this message", "It may take it for spam: ask who runs the server, or use another account."),
            ),
        }
    }
}
