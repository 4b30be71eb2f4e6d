//! `dms3-node check-config`: reads a config and says what is wrong with it.

use anyhow::Result;

use super::ConfigArg;

pub(super) fn run(config: &ConfigArg) -> Result<()> {
    let config = config.load()?;
    for warning in &config.warnings {
        println!("note: {warning}");
    }
    if let Some(mail) = &config.mail {
        mail.look()?;
    }
    println!("{} is a valid {} config.", config.path.display(), config.role.word());
    Ok(())
}
