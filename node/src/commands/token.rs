//! `token new`, `token list`, `token cancel`: the words that let new nodes in.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use dms3_core::time::Timestamp;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

use crate::commands::ConfigArg;
use crate::control::ask;
use dms3_core::request::{Answer, Request};
use dms3_core::request::{NewToken, TokenRequest, TokenView};

/// UDP port of enrollment where nothing else is said.
const ENROLL_PORT: u16 = 47101;

#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    pub command: TokenCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Make a token: one word that pairs a new camera with this house
    New(NewArgs),
    /// List tokens: live ones, and those that ended within a year
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// End a token before its time; nodes that it paired stay
    Cancel {
        /// The token's id as `token list` shows it, or the beginning of it
        id: String,
    },
}

#[derive(Debug, clap::Args)]
pub struct NewArgs {
    /// Name for the new node ("porch"); without it, its host name
    #[arg(long)]
    pub name: Option<String>,
    /// How long the token lives, 1m to 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub ttl: Duration,
    /// How many nodes it may pair, 1 to 100
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub uses: u32,
    /// Where this coordinator is, for networks without mDNS; may be given several times
    #[arg(long = "hint", value_name = "IP[:PORT]", value_parser = parse_hint)]
    pub hints: Vec<SocketAddr>,
    /// Do not draw the QR code on a terminal
    #[arg(long)]
    pub no_qr: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

pub async fn run(args: TokenArgs, config: &ConfigArg) -> anyhow::Result<()> {
    let config = config.load()?;
    config.coordinator()?;
    let socket = config.control_socket();
    match args.command {
        TokenCommand::New(args) => {
            let Answer::Token(new) = ask(&socket, &Request::TokenNew(args.request())).await? else {
                bail!("the node gave an unexpected answer")
            };
            if args.json {
                println!("{}", serde_json::to_string_pretty(&new)?);
            } else {
                print!("{}", show_new(&new, !args.no_qr));
            }
        }
        TokenCommand::List { json } => {
            let Answer::Tokens(tokens) = ask(&socket, &Request::TokenList).await? else { bail!("the node gave an unexpected answer") };
            if json {
                println!("{}", serde_json::to_string_pretty(&tokens)?);
            } else {
                print!("{}", show_list(&tokens, super::time_of_house(&config).await));
            }
        }
        TokenCommand::Cancel { id } => {
            let Answer::Done(words) = ask(&socket, &Request::TokenCancel { id }).await? else {
                bail!("the node gave an unexpected answer")
            };
            println!("{words}");
        }
    }
    Ok(())
}

impl NewArgs {
    pub fn request(&self) -> TokenRequest {
        TokenRequest { name: self.name.clone(), ttl_secs: Some(self.ttl.as_secs()), uses: Some(self.uses), hints: self.hints.clone() }
    }
}

/// "1h 30m", in whole seconds.
fn span_words(span: Duration) -> String {
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}

fn parse_hint(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .or_else(|_| text.trim_matches(['[', ']']).parse().map(|ip| SocketAddr::new(ip, ENROLL_PORT)))
        .map_err(|_| format!("\"{text}\" is no address: write it like 192.168.1.10, 192.168.1.10:47101 or [fd00::1]:47101"))
}

/// What `token new` prints: the word on a line of its own, a QR on a terminal, how long it lives, and what to paste where.
pub fn show_new(new: &NewToken, qr: bool) -> String {
    let mut out = format!("{}\n", new.word);
    if qr && std::io::stdout().is_terminal() {
        let _ = write!(out, "\n{}\n", draw(&new.word));
    }
    let life = span_words(new.token.expires_at.since(new.token.issued_at));
    if new.token.uses == 1 {
        let _ = write!(
            out,
            "\nPairs one new camera within {life}. On that machine, run\n\n    sudo dms3-node enroll\n\nand paste the word. It is shown only once.\n"
        );
    } else {
        let _ = write!(
            out,
            "\nPairs up to {} new cameras within {life}. On each machine, run\n\n    sudo dms3-node enroll\n\nand paste the word, or put it \
             into a file dms3-token.txt on the boot partition of each SD card.\nIt is shown only once. Do not give it as an argument: arguments \
             are visible to every program of a machine,\nand this word lets in more than one.\n",
            new.token.uses
        );
    }
    out
}

/// What `token list` prints.
pub fn show_list(tokens: &[TokenView], now: Timestamp) -> String {
    if tokens.is_empty() {
        return "There is no token. `dms3-node token new` makes one.\n".to_owned();
    }
    let mut out = format!("{:<11} {:<10} {:>7}  {:<12} {:<20} USED BY\n", "ID", "STATE", "USES", "ENDS", "NAME");
    for token in tokens {
        let ends = match token.standing.as_str() {
            "live" | "used" if token.expires_at > now => format!("in {}", span_words(token.expires_at.since(now))),
            _ => format!("{} ago", span_words(now.since(token.expires_at))),
        };
        let ends = if matches!(token.standing.as_str(), "cancelled" | "locked") { "-".to_owned() } else { ends };
        let uses = format!("{}/{}", token.used_by.len(), token.uses);
        let name = token.name.as_deref().unwrap_or("-");
        let line = format!("{:<11} {:<10} {uses:>7}  {ends:<12} {name:<20} {}", token.id, token.standing, token.used_by.join(", "));
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// In upper case the word needs only the alphanumeric mode of QR, which makes it a third smaller; it is read in either case.
fn draw(word: &str) -> String {
    let word = word.to_uppercase();
    match QrCode::with_error_correction_level(word.as_bytes(), EcLevel::L) {
        // Terminals are mostly dark: light blocks are drawn, the dark ones left out.
        Ok(code) => code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        token: TokenArgs,
    }

    const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);
    const WORD: &str = "dms31q940mpkqqypqxpq9d6g290x2u8trp72s6mf6ljd73gqqzqsrqszsvpcgpy9qkrqdpc8s4936k5";

    fn view(standing: &str, uses: u32) -> TokenView {
        TokenView {
            id: "0102030405".to_owned(),
            name: None,
            issued_at: NOW,
            expires_at: NOW + Duration::from_secs(3600),
            uses,
            used_by: vec!["porch".to_owned()],
            standing: standing.to_owned(),
        }
    }

    fn new_args(args: &[&str]) -> Result<NewArgs, clap::Error> {
        let all = ["dms3-node", "new"].iter().chain(args);
        match Cli::try_parse_from(all)?.token.command {
            TokenCommand::New(new) => Ok(new),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_token_is_for_one_camera_and_one_hour_unless_said_otherwise() {
        let request = new_args(&[]).unwrap().request();
        assert_eq!(request, TokenRequest { name: None, ttl_secs: Some(3600), uses: Some(1), hints: Vec::new() });
        let request =
            new_args(&["--uses", "20", "--ttl", "24h", "--name", "shed", "--hint", "10.0.0.1", "--hint", "[fd00::1]:9"]).unwrap().request();
        assert_eq!((request.uses, request.ttl_secs), (Some(20), Some(86_400)));
        assert_eq!(request.hints, ["10.0.0.1:47101".parse().unwrap(), "[fd00::1]:9".parse().unwrap()]);
        for wrong in [["--uses", "0"], ["--uses", "101"], ["--ttl", "5"], ["--hint", "house.local"]] {
            assert!(new_args(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_word_stands_on_a_line_of_its_own_with_the_command_to_run() {
        let shown = show_new(&NewToken { word: WORD.to_owned(), token: view("live", 1) }, true);
        assert_eq!(shown.lines().next(), Some(WORD));
        assert!(shown.contains("within 1h") && shown.contains("\n    sudo dms3-node enroll\n"), "{shown}");
        let several = show_new(&NewToken { word: WORD.to_owned(), token: view("live", 20) }, false);
        assert!(several.contains("up to 20") && several.contains("Do not give it as an argument"), "{several}");
    }

    #[test]
    fn the_qr_of_a_word_fits_a_terminal() {
        let qr = draw(WORD);
        let (rows, columns) = (qr.lines().count(), qr.lines().map(|line| line.chars().count()).max().unwrap());
        assert!(rows <= 23 && columns <= 45, "{rows} rows, {columns} columns\n{qr}");
    }

    #[test]
    fn the_list_tells_each_tokens_end_and_who_used_it() {
        let list = show_list(&[view("live", 3), view("cancelled", 1)], NOW);
        let lines: Vec<&str> = list.lines().collect();
        assert!(lines[1].contains("in 1h") && lines[1].contains("1/3") && lines[1].ends_with("porch"), "{list}");
        assert!(!lines[2].contains("ago"), "{list}");
        assert!(show_list(&[], NOW).contains("token new"));
    }
}
