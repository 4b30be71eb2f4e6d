//! Packs what pages are made of: it lies in the program, and is sent, as small as it can be.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=assets");
    pack_all(Path::new("assets"), &Path::new(&std::env::var("OUT_DIR")?).join("assets"))
}

fn pack_all(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let packed = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            pack_all(&entry.path(), &packed)?;
        } else {
            let mut packer = GzEncoder::new(File::create(packed)?, Compression::best());
            packer.write_all(&fs::read(entry.path())?)?;
            packer.finish()?;
        }
    }
    Ok(())
}
