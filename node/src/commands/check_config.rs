//! `dms3-node check-config`: reads a config and says what is wrong with it.

use anyhow::{Context, Result};

use super::ConfigArg;

pub(super) fn run(config: &ConfigArg) -> Result<()> {
    let config = config.load()?;
    for warning in &config.warnings {
        println!("note: {warning}");
    }
    if let Some(mail) = &config.mail {
        mail.look()?;
    }
    if let Some(sound) = config.sound() {
        sound.look().with_context(|| format!("[{}.sound]", config.role.word()))?;
    }
    println!("{} is a valid {} config.", config.path.display(), config.role.word());
    Ok(())
}
