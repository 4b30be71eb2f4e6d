//! Writes each sample mail as a page to look at: `cargo run -p dms3-web --example mails -- DIRECTORY`.

use std::path::PathBuf;
use std::{env, fs, io};

use dms3_web::mail::*;
use dms3_web::templates::MAIL;

#[path = "../src/mail/samples.rs"]
#[allow(clippy::expect_used, reason = "made for tests")]
mod samples;

/// Stands in for every picture: a porch in the evening.
const PORCH: &str = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 1280 720'><rect width='1280' height='720' fill='#2d3a4a'/>\
<rect y='430' width='1280' height='290' fill='#39443a'/><rect x='120' y='90' width='620' height='470' fill='#6b5a4c'/>\
<rect x='330' y='230' width='190' height='330' fill='#2f2621'/><circle cx='600' cy='200' r='26' fill='#ffe9a8'/>\
<circle cx='600' cy='200' r='120' fill='#ffe9a8' opacity='.18'/><path d='M300 560h250l90 160H200z' fill='#8a8478'/>\
<circle cx='880' cy='330' r='38' fill='#c99f7f'/><path d='M825 380q55-30 110 0l25 190h-50l-10 120h-40l-8-110-12 110h-40l5-310z' fill='#46536b'/>\
<rect x='790' y='270' width='190' height='440' fill='none' stroke='#e5484d' stroke-width='4'/>\
<text x='24' y='696' font-family='monospace' font-size='28' fill='#fff'>porch 2026-11-23 08:01:30</text></svg>";

fn main() -> io::Result<()> {
    let dir = PathBuf::from(env::args().nth(1).unwrap_or_else(|| "mails".into()));
    fs::create_dir_all(&dir)?;
    let picture: String = PORCH.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for (name, mail) in samples::all() {
        let mut mail = mail.render(&MAIL.templates(None));
        for n in (0..20).rev() {
            mail.html = mail.html.replace(&format!("cid:p{n}@dms3"), &format!("data:image/svg+xml,{picture}"));
        }
        fs::write(dir.join(format!("{name}.html")), mail.html)?;
        fs::write(dir.join(format!("{name}.txt")), format!("Subject: {}\n\n{}", mail.subject, mail.text))?;
    }
    Ok(())
}
