//! A real browser at the dashboard: Chromium that trusts the house's own authority, by chromedriver.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thirtyfour::common::capabilities::chromium::ChromiumLikeCapabilities as _;
use thirtyfour::prelude::*;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use super::{House, Samples, eventually};

/// What was looked at, for people: `target/screens/NAME-LOOK.png`.
fn screen(name: &str, look: Look) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/screens");
    let path = dir.join(format!("{name}-{}.png", look.name));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    path
}

pub(crate) struct Browser {
    // Its own end would wait for a driver that is gone.
    driver: ManuallyDrop<WebDriver>,
    base: String,
    _chromedriver: Child,
    // Last: processes end before their files go.
    home: tempfile::TempDir,
}

/// Whatever became of the test, no browser of it stays: its driver starts many processes, all of which name its directory.
impl Drop for Browser {
    fn drop(&mut self) {
        let home = self.home.path().to_str().unwrap().as_bytes();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            if words.windows(home.len()).any(|part| part == home) {
                // It may be gone already.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

/// How somebody holds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) name: &'static str,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) dark: bool,
}

const LOOKS: [Look; 4] = [
    Look { name: "phone-light", width: 390, height: 844, dark: false },
    Look { name: "phone-dark", width: 390, height: 844, dark: true },
    Look { name: "desk-light", width: 1280, height: 900, dark: false },
    Look { name: "desk-dark", width: 1280, height: 900, dark: true },
];

/// Makes `authority` one of those that a browser at `home` trusts.
fn trust(authority: &Path, home: &Path) {
    let nss = home.join(".pki/nssdb");
    std::fs::create_dir_all(&nss).unwrap();
    let database = format!("sql:{}", nss.display());
    for args in [&["-N", "--empty-password"][..], &["-A", "-t", "C,,", "-n", "house", "-i", authority.to_str().unwrap()]] {
        let done = Command::new("certutil").args(["-d", &database]).args(args).stdout(Stdio::null()).status().expect("certutil");
        assert!(done.success(), "certutil {args:?}");
    }
}

pub(crate) const PHONE: Look = LOOKS[0];

impl Browser {
    pub(crate) async fn at(house: &House) -> Self {
        let base = house.page_address().await;
        Self::start(base, Some(&house.coordinator.state_dir().join("web/ca.crt"))).await
    }

    /// At pages with no house behind them, on a clock of the zone that they speak of.
    pub(crate) async fn at_samples(samples: &Samples) -> Self {
        let browser = Self::start(samples.address(), None).await;
        let zone = serde_json::json!({ "timezoneId": "Europe/Berlin" });
        browser.driver.cdp().send_raw("Emulation.setTimezoneOverride", zone).await.unwrap();
        browser
    }

    async fn start(base: String, trusts: Option<&Path>) -> Self {
        // The client of the driver asks for one, though it speaks no TLS. Another test may have set it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let home = tempfile::Builder::new().prefix("dms3-browser-").tempdir().unwrap();
        if let Some(authority) = trusts {
            trust(authority, home.path());
        }
        let mut command = tokio::process::Command::new("chromedriver");
        command
            .arg("--port=0")
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut chromedriver = command.spawn().expect("chromedriver");
        let mut said = BufReader::new(chromedriver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = said.next_line().await.unwrap().expect("chromedriver says its port");
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let mut chrome = DesiredCapabilities::chrome();
        for flag in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            // A page that was left keeps its stream open in there, and no more than six lead to one address.
            "--disable-features=BackForwardCache",
        ] {
            chrome.add_arg(flag).unwrap();
        }
        chrome.add_arg(&format!("--user-data-dir={}", home.path().join("profile").display())).unwrap();
        let driver = WebDriver::new(format!("http://127.0.0.1:{port}"), chrome).await.unwrap();
        Self { driver: ManuallyDrop::new(driver), base, _chromedriver: chromedriver, home }
    }

    pub(crate) async fn opens(&self, path: &str) {
        self.driver.goto(format!("{}{path}", self.base)).await.unwrap();
    }

    pub(crate) async fn types(&self, field: &str, text: &str) {
        let field = self.driver.find(By::Id(field)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// The first button or link that is to be seen and says that. The page may be on its way there, or be changed just now.
    pub(crate) async fn presses(&self, text: &str) {
        let path = format!("//*[self::button or self::a or self::summary][contains(normalize-space(.), \"{text}\")]");
        let press = async || -> WebDriverResult<bool> {
            for found in self.driver.find_all(By::XPath(path.as_str())).await? {
                if found.is_displayed().await? {
                    self.press(&found).await?;
                    return Ok(true);
                }
            }
            Ok(false)
        };
        eventually(&format!("{text:?} can be pressed"), async || press().await.is_ok_and(|pressed| pressed)).await;
    }

    /// In the middle of the screen: at its edge bars may lie over it.
    async fn press(&self, found: &WebElement) -> WebDriverResult<()> {
        self.driver.execute("arguments[0].scrollIntoView({ block: 'center' })", vec![found.to_json()?]).await?;
        found.click().await
    }

    /// The button that says that and nothing else.
    pub(crate) async fn presses_only(&self, text: &str) {
        let path = format!("//button[normalize-space(.) = \"{text}\"]");
        eventually(&format!("{text:?} can be pressed"), async || match self.driver.find(By::XPath(path.as_str())).await {
            Ok(found) => self.press(&found).await.is_ok(),
            Err(_) => false,
        })
        .await;
    }

    pub(crate) async fn has(&self, selector: &str) -> bool {
        self.driver.find(By::Css(selector)).await.is_ok()
    }

    pub(crate) async fn text_of(&self, selector: &str) -> String {
        self.driver.find(By::Css(selector)).await.unwrap().text().await.unwrap()
    }

    /// A page of somebody else.
    pub(crate) async fn opens_foreign(&self, html: &str) {
        self.driver.goto(format!("data:text/html,{html}")).await.unwrap();
    }

    /// Waits until that picture is loaded.
    pub(crate) async fn sees_picture(&self, selector: &str) {
        let script = "const img = document.querySelector(arguments[0]); return !!img && img.complete && img.naturalWidth > 0";
        eventually(&format!("{selector} is a picture"), async || self.holds(script, selector).await).await;
    }

    /// Plays that clip and waits until it goes on.
    pub(crate) async fn plays(&self, selector: &str) {
        let script = "const clip = document.querySelector(arguments[0]); if (!clip) return false; clip.muted = true; clip.play(); \
                      return clip.currentTime > 0.5 && clip.videoWidth > 0 && !clip.error";
        eventually(&format!("{selector} plays"), async || self.holds(script, selector).await).await;
    }

    async fn holds(&self, script: &str, selector: &str) -> bool {
        let said = self.driver.execute(script, vec![serde_json::json!(selector)]).await;
        said.is_ok_and(|said| said.json().as_bool() == Some(true))
    }

    /// Text of the page as somebody reads it.
    pub(crate) async fn reads(&self) -> String {
        let text = self.driver.execute("return document.body ? document.body.innerText : ''", vec![]).await;
        let text: String = text.ok().and_then(|text| text.convert().ok()).unwrap_or_default();
        // A space that does not break is one.
        text.replace('\u{a0}', " ")
    }

    /// Waits until the page says that, without being loaded anew.
    pub(crate) async fn shows(&self, text: &str) {
        self.driver.execute("window.stays = true", vec![]).await.unwrap();
        eventually(&format!("the page shows {text:?}"), async || self.reads().await.contains(text)).await;
        let stays = self.driver.execute("return window.stays === true", vec![]).await.unwrap();
        assert_eq!(stays.json().as_bool(), Some(true), "it was loaded anew");
    }

    /// Waits until the picture of that camera is there, and then another one.
    pub(crate) async fn shows_live(&self, source: &str) {
        let script = "const img = document.querySelector(`img[data-live$='/live/${arguments[0]}']`);\
                      return img && img.complete && img.naturalWidth > 0 ? img.src : ''";
        let seen = async || -> Option<String> {
            let seen = self.driver.execute(script, vec![serde_json::json!(source)]).await.ok()?;
            seen.convert().ok().filter(|seen: &String| !seen.is_empty())
        };
        let mut first = None;
        eventually(&format!("{source} is seen live"), async || {
            first = seen().await;
            first.is_some()
        })
        .await;
        eventually("a newer picture follows", async || seen().await.is_some_and(|now| Some(&now) != first.as_ref())).await;
    }

    /// Waits until a page says that.
    pub(crate) async fn comes_to(&self, text: &str) {
        eventually(&format!("a page shows {text:?}"), async || {
            self.driver.find(By::Tag("body")).await.is_ok() && self.reads().await.contains(text)
        })
        .await;
    }

    pub(crate) async fn is_held(&self, look: Look) {
        let emulation = self.driver.cdp();
        emulation.emulation().set_device_metrics_override(look.width, look.height, 1.0, look.width < 600).await.unwrap();
        let scheme = if look.dark { "dark" } else { "light" };
        emulation
            .send_raw(
                "Emulation.setEmulatedMedia",
                // Nothing is caught on its way from one colour to another.
                serde_json::json!({ "features": [
                    { "name": "prefers-color-scheme", "value": scheme },
                    { "name": "prefers-reduced-motion", "value": "reduce" },
                ] }),
            )
            .await
            .unwrap();
    }

    /// How many there are of what `what` selects.
    pub(crate) async fn counts(&self, what: &str) -> usize {
        self.driver.find_all(By::Css(what)).await.unwrap().len()
    }

    /// How far down the page is, in pixels.
    pub(crate) async fn has_scrolled(&self) -> f64 {
        self.driver.execute("return scrollY", vec![]).await.unwrap().convert().unwrap()
    }

    /// A finger goes from the middle of the first that `what` selects so many pixels to the right and down.
    pub(crate) async fn swipes(&self, what: &str, right: f64, down: f64) {
        let cdp = self.driver.cdp();
        cdp.send_raw("Emulation.setTouchEmulationEnabled", serde_json::json!({ "enabled": true })).await.unwrap();
        // At once: the page may put another one in its place at any moment.
        let middle = "const row = document.querySelector(arguments[0]); row.scrollIntoView({ block: 'center' }); \
                      const box = row.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]";
        let middle: Vec<f64> = self.driver.execute(middle, vec![what.into()]).await.unwrap().convert().unwrap();
        let touch = async |kind: &str, points: serde_json::Value| {
            let event = serde_json::json!({ "type": kind, "touchPoints": points });
            cdp.send_raw("Input.dispatchTouchEvent", event).await.unwrap();
        };
        touch("touchStart", serde_json::json!([{ "x": middle[0], "y": middle[1] }])).await;
        for step in 1..=10 {
            let part = f64::from(step) / 10.0;
            touch("touchMove", serde_json::json!([{ "x": middle[0] + right * part, "y": middle[1] + down * part }])).await;
        }
        touch("touchEnd", serde_json::json!([])).await;
    }

    /// Takes a picture of the whole page, and sees that nothing of it lies beside the screen.
    pub(crate) async fn is_looked_at(&self, name: &str, look: Look) {
        self.is_held(look).await;
        let sizes = self
            .driver
            .execute("return [document.documentElement.scrollWidth, innerWidth, document.documentElement.scrollHeight]", vec![])
            .await;
        let sizes: Vec<u64> = sizes.unwrap().convert().unwrap();
        assert!(sizes[0] <= sizes[1], "{name} on {}: it scrolls sideways, {} of {}", look.name, sizes[0], sizes[1]);
        let height = u32::try_from(sizes[2].clamp(u64::from(look.height), 5000)).unwrap();
        self.driver.cdp().emulation().set_device_metrics_override(look.width, height, 1.0, look.width < 600).await.unwrap();
        self.has_loaded().await;
        let png = self.driver.screenshot_as_png().await.unwrap();
        std::fs::write(screen(name, look), png).unwrap();
    }

    /// Waits for each picture that is in sight.
    async fn has_loaded(&self) {
        let script = "return [...document.images].every((one) => one.complete || !one.checkVisibility() \
                      || one.getBoundingClientRect().top > innerHeight)";
        eventually("the pictures are there", async || {
            self.driver.execute(script, vec![]).await.is_ok_and(|all| all.json().as_bool() == Some(true))
        })
        .await;
    }

    /// At each look; by a phone's day and by a desk's night, which are both widths and both colour schemes, for what keeps people out too.
    pub(crate) async fn is_seen_at_each_look(&self, name: &str) {
        for look in LOOKS {
            self.is_looked_at(name, look).await;
            if look.dark == (look.width > 600) {
                self.has_no_barriers(name).await;
            }
        }
    }

    /// What axe finds that keeps somebody out: of serious and critical weight.
    pub(crate) async fn has_no_barriers(&self, name: &str) {
        if self.driver.execute("return typeof axe", vec![]).await.unwrap().json() == "undefined" {
            let axe = std::fs::read_to_string(super::skip::axe()).unwrap();
            self.driver.execute(axe, vec![]).await.unwrap();
        }
        let script = "const done = arguments[0]; axe.run(document, { resultTypes: ['violations'], preload: false }).then((found) => done(found.violations\
                      .filter((one) => ['serious', 'critical'].includes(one.impact))\
                      .map((one) => `${one.id}: ${one.nodes.map((node) => node.html).slice(0, 3).join(' | ')}`)), (why) => done([String(why)]))";
        let found: Vec<String> = self.driver.execute_async(script, vec![]).await.unwrap().convert().unwrap();
        assert!(found.is_empty(), "{name}: {found:#?}");
    }
}
