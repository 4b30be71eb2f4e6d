//! `dms3-node ca`: takes the root key of the house off this machine, and brings it back.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use dms3_pki::files::write_new_anywhere;
use dms3_pki::{AUTHORITY_DIR, Authority, PASSPHRASE_MIN, WEB_DIR};
use zeroize::Zeroizing;

use super::ConfigArg;
use crate::owner::AsOwner;

/// As the dashboard's page "System" says it, which can also be opened on the phone itself to download the certificate.
const HOW_TO_TRUST: &str = "\
iPhone, iPad: open the file and allow it. Settings, General, VPN & Device Management: install the profile.
              Then Settings, General, About, Certificate Trust Settings: switch it on.
Android:      Settings, Security, More security settings, Encryption & credentials, Install a certificate, CA certificate:
              Install anyway, then choose the file.
Firefox:      Settings, Privacy & Security, Certificates, View Certificates, Authorities, Import: choose the file and tick
              \"Trust this CA to identify websites\".
Windows:      open the file (named .crt), Install Certificate, Current User, Trusted Root Certification Authorities.
macOS:        open the file with Keychain Access, then its entry, Trust, Always Trust.
Each can then tell the dashboard of this house from a forgery. It vouches for this house's names and addresses only.";

/// No passphrase is longer.
const PASSPHRASE_MAX: u64 = 4096;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CaCommand {
    /// Encrypt the root key with a passphrase into a new file, and remove it from this machine.
    /// It is asked for on a terminal, else read from standard input
    ExportRoot {
        /// Where to: a USB stick, say; print it too
        file: PathBuf,
    },
    /// Write the certificate that phones and browsers are to trust, for the dashboard (PEM): to FILE, or to standard output
    Export {
        /// Of the dashboard's own authority; the root of the house never goes onto a phone
        #[arg(long, required = true)]
        web: bool,
        file: Option<PathBuf>,
    },
    /// Bring the root key back from such a file
    ImportRoot { file: PathBuf },
}

pub(super) fn run(args: Args, at: &ConfigArg) -> Result<()> {
    let config = at.load()?;
    config.coordinator()?;
    if let CaCommand::Export { file, .. } = args.command {
        return export_web(&config.state_dir, file);
    }
    let dir = config.state_dir.join(AUTHORITY_DIR);
    // Whoever may not read the keys is told so by the first of them; root reads and writes FILE as root, on whatever stick it lies.
    let authority = Authority::open(&dir).context("cannot open the authority of this house (if it is not yours, run this with sudo)")?;
    match args.command {
        CaCommand::ExportRoot { file } => {
            ensure!(authority.root_on_box(), "the root key is not on this machine: it was exported before");
            ensure!(!file.exists(), "{} exists already: it is not overwritten. Nothing was changed", file.display());
            println!("Choose a passphrase of at least {PASSPHRASE_MIN} characters. Without it the file is worth nothing, to you too.");
            let passphrase = passphrase(true)?;
            authority.export_root(&file, &passphrase)?;
            println!(
                "The root key is in {} and no longer on this machine. Keep that file and the passphrase apart and safe: the house goes on without \
                 them, but needs them once in four years, and for a second coordinator (`dms3-node ca import-root FILE`). Old backups of this \
                 machine still hold the key.",
                file.display()
            );
        }
        CaCommand::ImportRoot { file } => {
            ensure!(!authority.root_on_box(), "the root key is on this machine already. Nothing was changed");
            let key = authority.read_export(&file, &passphrase(false)?)?;
            let _owner = AsOwner::of(&dir)?;
            authority.take_root(&key)?;
            println!(
                "The root key is on this machine again. What needs it is done within a minute while the node runs; then `dms3-node ca export-root FILE` \
                 takes it off again."
            );
        }
        // Done above.
        CaCommand::Export { .. } => {}
    }
    Ok(())
}

fn export_web(state_dir: &Path, file: Option<PathBuf>) -> Result<()> {
    let path = state_dir.join(WEB_DIR).join("ca.crt");
    let pem = std::fs::read(&path).with_context(|| {
        format!(
            "cannot read {} (use sudo; it is made by `init`, or when the dashboard is served for the first time with a certificate of our own)",
            path.display()
        )
    })?;
    match file {
        Some(file) => {
            write_new_anywhere(&file, &pem, 0o644)?;
            println!("{} is for phones and browsers that open the dashboard. Send it to them, then:\n\n{HOW_TO_TRUST}", file.display());
        }
        None => {
            std::io::stdout().write_all(&pem).context("cannot write to standard output")?;
            // Beside the certificate, which may go into a file.
            eprintln!("{HOW_TO_TRUST}");
        }
    }
    Ok(())
}

/// From the terminal, without an echo (twice for a new one), else the first line of standard input.
fn passphrase(new: bool) -> Result<Zeroizing<String>> {
    if !std::io::stdin().is_terminal() {
        let mut text = Zeroizing::new(String::new());
        std::io::stdin().take(PASSPHRASE_MAX).read_to_string(&mut text).context("cannot read the passphrase from standard input")?;
        return Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()));
    }
    let ask = |prompt: &str| rpassword::prompt_password(prompt).map(Zeroizing::new).context("cannot read the passphrase from the terminal");
    let passphrase = ask("Passphrase (it is not shown): ")?;
    ensure!(!new || passphrase == ask("Again: ")?, "these are two different passphrases. Nothing was changed");
    Ok(passphrase)
}
