//! `dms3-node init`: makes this machine the coordinator of a new house.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use dms3_core::presence::Device;
use dms3_core::request::WebCode;
use dms3_core::roster::{NodeRole, NodeStatus, RosterRow, check_name};
use dms3_core::time::Timestamp;
use dms3_pki::files::{create_dir_private, sync_parent, write_new};
use dms3_pki::{AUTHORITY_DIR, Authority, Identity, KEY_FILE, NodeKey};

use super::ConfigArg;
use super::time::is_right;
use crate::clock::{Clock, build_time, date, date_and_time, wall};
use crate::config::Config;
use crate::coordinator::accounts::new_code;
use crate::coordinator::page::{self, WebConfig};
use crate::mesh::keys::MeshKeys;
use crate::owner::AsOwner;
use crate::store::accounts::Accounts;
use crate::store::{STORE_FILE, Store};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Somebody who lives here, for a first config; may be given several times. DEVICE: the phone's MAC address, host name or IPv4 address,
    /// or a Bluetooth address as in bt:24:da:9b:0d:53:8f; without one, a phone is added later
    #[arg(long = "person", value_name = "NAME[=DEVICE[,DEVICE]]", value_parser = parse_person)]
    people: Vec<(String, Vec<Device>)>,
    /// Make a house that only people arm and disarm, for a first config
    #[arg(long, conflicts_with = "people")]
    manual: bool,
    /// Say that this machine's clock is right, although this program was built long before the time that it shows
    #[arg(long)]
    accept_clock: bool,
}

pub(super) async fn run(args: Args, at: &ConfigArg) -> Result<()> {
    ensure!(
        wall() >= build_time(),
        "this machine's clock is wrong (it is before the time this program was built): set it first, certificates depend on it"
    );
    write_config(&args, &at.config)?;
    let config = at.load()?;
    let own = config.coordinator()?.clone();
    for warning in &config.warnings {
        println!("Note: {warning}");
    }
    let dir = &config.state_dir;
    if !dir.exists() {
        create_dir_private(dir)?;
    }
    let _owner = AsOwner::of(dir)?;
    let authority_dir = dir.join(AUTHORITY_DIR);
    let unfinished = dir.join(format!("{AUTHORITY_DIR}.new"));
    if unfinished.exists() && !authority_dir.exists() {
        forget_unfinished(dir, &unfinished)?;
    }
    for made in [authority_dir.as_path(), &dir.join(KEY_FILE), &dir.join(STORE_FILE)] {
        ensure!(!made.exists(), "{} exists: this machine has a house or is paired already. Nothing was changed", made.display());
    }
    let clock = Clock::open(dir);
    vouch(&clock, args.accept_clock)?;
    let now = clock.now();

    // Made beside its place and moved at the end: what a crash leaves is no house, and is known by it.
    let authority = Authority::create(&unfinished, now.at).context("cannot make the authority of the house")?;
    let key = Arc::new(NodeKey::generate()?);
    key.save_new(&dir.join(KEY_FILE))?;
    let identity = authority.own_identity(key, now.at)?;
    identity.store(dir)?;
    MeshKeys::load_or_create(dir)?;
    let store = Store::create(dir).await?;
    store
        .add_node(&RosterRow {
            node: identity.node(),
            role: NodeRole::Coordinator,
            name: own.name.clone(),
            status: NodeStatus::Active,
            enrolled_at: now.at,
            revoked_at: None,
            token: None,
        })
        .await?;
    store.close().await;
    // The person who makes the house vouches for the clock of its first coordinator.
    clock.told(wall());
    clock.save()?;
    std::fs::rename(&unfinished, &authority_dir).with_context(|| format!("cannot move {}", unfinished.display()))?;
    sync_parent(&authority_dir)?;

    println!("This machine is the coordinator of a new house, {}.", identity.mesh());
    println!(
        "Its root key lies in {}; who has a copy can make coordinators. `sudo dms3-node ca export-root FILE` takes it off this machine, \
         encrypted: nothing here needs it in daily life.",
        authority_dir.display()
    );
    if own.presence.enabled && own.presence.people().is_empty() {
        println!("Add the people who live here to {}.", config.path.display());
    }
    println!("Next: start it (`sudo systemctl enable --now dms3-node`), then pair a camera (`sudo dms3-node token new`).");
    if own.web.enabled {
        print!("Then: {}", super::web::words(&first_visit(dir, &own.web, now.at).await?));
    }
    Ok(())
}

/// What an `init` left that was cut off before its end: nobody has seen anything of that house. What names it goes last.
fn forget_unfinished(dir: &Path, unfinished: &Path) -> Result<()> {
    let paired = matches!(Identity::load(dir), Ok(Some(identity)) if identity.role() == NodeRole::Camera);
    ensure!(!paired, "{} is a camera's: it was paired after an `init` that was cut off. Nothing was changed", dir.display());
    for made in [KEY_FILE.to_owned(), STORE_FILE.to_owned(), format!("{STORE_FILE}-wal"), format!("{STORE_FILE}-shm")] {
        let file = dir.join(made);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", file.display()));
            }
            _ => {}
        }
    }
    sync_parent(unfinished)?;
    std::fs::remove_dir_all(unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    println!("An `init` was cut off here before its end: it is begun anew.");
    Ok(())
}

/// What makes the owner of the dashboard, before it is served for the first time.
async fn first_visit(dir: &Path, web: &WebConfig, now: Timestamp) -> Result<WebCode> {
    let accounts = Accounts::open(dir).await?.accounts;
    let code = new_code(&accounts, now).await?;
    accounts.close().await;
    let fingerprint = match (web.plain_http, &web.certificate) {
        (false, None) => Some(page::ours(dir, now)?.1.fingerprint),
        _ => None,
    };
    Ok(WebCode { code, address: Some(page::address_of(web, web.listen)), fingerprint })
}

/// A clock far ahead of the build is right on a machine that was installed late, and wrong on one whose battery died: a person knows.
fn vouch(clock: &Clock, accept: bool) -> Result<()> {
    if !clock.is_ahead() {
        return Ok(());
    }
    let asked = !accept && std::io::stdin().is_terminal();
    ensure!(
        accept || (asked && is_right()?),
        "this program was built on {} and this machine's clock says {}: set it, certificates depend on it; if it is right, say so with \
         `dms3-node init --accept-clock`. Nothing was changed",
        date(build_time()),
        date_and_time(wall())
    );
    clock.accept().map(|_| ())
}

/// A first config where there is none.
fn write_config(args: &Args, path: &Path) -> Result<()> {
    if path.try_exists().with_context(|| format!("cannot look at {}: use sudo", path.display()))? {
        ensure!(
            args.people.is_empty() && !args.manual,
            "{} exists: write the people there instead of giving them here. Nothing was changed",
            path.display()
        );
        return Ok(());
    }
    ensure!(
        args.manual || !args.people.is_empty(),
        "there is no config {}. Say who lives here: `dms3-node init --person Anna=24:da:9b:0d:53:8f` (`dms3-node presence` shows which devices are near), \
         or `--manual` for a house that only people arm and disarm",
        path.display()
    );
    let mut text = "# Written by `dms3-node init`. Every key and its default: the example coordinator.toml that comes with dms3-node.\nrole = \"coordinator\"\n".to_owned();
    if args.manual {
        text.push_str("\n[coordinator.presence]\nenabled = false\n");
    }
    for (name, devices) in &args.people {
        let devices: Vec<_> = devices.iter().map(|device| format!("\"{device}\"")).collect();
        let name = toml::Value::String(name.clone());
        text.push_str(&format!("\n[[coordinator.presence.person]]\nname = {name}\ndevices = [{}]\n", devices.join(", ")));
    }
    Config::parse(&text, path).context("the config that these options make")?;
    if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    // Whole or not at all: half a config would keep the next `init` from beginning.
    write_new(path, text.as_bytes(), 0o640)?;
    give_to_group_of(path, path.parent().unwrap_or(Path::new("/")))?;
    println!("Wrote {}.", path.display());
    Ok(())
}

/// The service reads its config by the group of the config directory.
fn give_to_group_of(path: &Path, dir: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let group = std::fs::metadata(dir).with_context(|| format!("cannot look at {}", dir.display()))?.gid();
    std::os::unix::fs::chown(path, None, Some(group))
        .with_context(|| format!("cannot give {} to the group of its directory", path.display()))
}

fn parse_person(text: &str) -> Result<(String, Vec<Device>)> {
    let (name, devices) = match text.split_once('=') {
        Some((name, devices)) => (name, devices.split(',').map(Device::parse).collect::<Result<_, _>>()),
        None => (text, Ok(Vec::new())),
    };
    Ok((check_name(name).map_err(anyhow::Error::msg)?, devices.map_err(anyhow::Error::msg)?))
}

#[cfg(test)]
mod tests {
    use dms3_core::time::Timestamp;

    use super::*;

    #[test]
    fn who_lives_here_is_given_with_any_device_or_with_none_yet() {
        let devices = |text| parse_person(text).map(|(name, devices)| (name, devices.iter().map(ToString::to_string).collect::<Vec<_>>()));
        let anna = |devices: &[&str]| ("Anna".to_owned(), devices.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let all = devices("Anna=24-DA-9B-0D-53-8F,BT:f1:da:9b:0d:53:90,Annas-iPhone,192.168.1.20").unwrap();
        assert_eq!(all, anna(&["24:da:9b:0d:53:8f", "bt:f1:da:9b:0d:53:90", "annas-iphone", "192.168.1.20"]));
        assert_eq!(devices("Anna").unwrap(), anna(&[]));
        for (wrong, words) in [("Anna=", "is no device"), ("Anna=24:da:9b", "MAC"), ("Anna=bt:24:da", "Bluetooth"), ("=phone", "name")] {
            let why = devices(wrong).unwrap_err().to_string();
            assert!(why.contains(words), "{wrong}: {why}");
        }
    }

    #[test]
    fn a_house_is_founded_by_a_clock_far_ahead_only_if_a_person_vouches_for_it() {
        let clock = Clock::alone();
        vouch(&clock, false).unwrap();
        clock.forget(Timestamp(wall().0 - 500 * 86_400_000));
        let why = vouch(&clock, false).unwrap_err().to_string();
        assert!(why.contains("--accept-clock"), "{why}");
        assert!(!clock.may_sign());
        vouch(&clock, true).unwrap();
        assert!(clock.may_sign() && clock.now().trusted);
    }
}
