//! STUB
#[derive(Debug, clap::Args)]
pub struct Args;
pub async fn run(_a: Args, _c: &super::ConfigArg) -> anyhow::Result<()> {
    Ok(())
}
