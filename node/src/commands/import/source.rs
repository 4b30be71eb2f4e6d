//! The files of DMS3 in Go, as they lie.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use toml::{Table, Value};

use super::Report;

/// More is no config.
const LONGEST: u64 = 1 << 20;

/// One file: what it is called there, and what it holds.
#[derive(Debug, Default)]
pub(super) struct Component {
    name: &'static str,
    table: Option<Table>,
}

/// All of them; each may be missing.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) server: Component,
    pub(super) client: Component,
    pub(super) dashboard: Component,
    pub(super) mail: Component,
    pub(super) libs: Component,
}

impl Source {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        ensure!(dir.is_dir(), "{} is no directory", dir.display());
        let read = |name| Component::read(dir, name);
        Ok(Self {
            server: read("dms3server")?,
            client: read("dms3client")?,
            dashboard: read("dms3dashboard")?,
            mail: read("dms3mail")?,
            libs: read("dms3libs")?,
        })
    }

    pub(super) fn has_server(&self) -> bool {
        self.server.table.is_some()
    }

    pub(super) fn has_client(&self) -> bool {
        self.client.table.is_some()
    }
}

impl Component {
    fn read(dir: &Path, name: &'static str) -> Result<Self> {
        let file = format!("{name}.toml");
        let Some(path) = [dir.join(name).join(&file), dir.join(&file)].into_iter().find(|path| path.is_file()) else {
            return Ok(Self { name, table: None });
        };
        Ok(Self { name, table: Some(parse(&path)?) })
    }

    #[cfg(test)]
    pub(super) fn of(name: &'static str, text: &str) -> Self {
        Self { name, table: Some(text.parse().unwrap()) }
    }

    pub(super) fn is_there(&self) -> bool {
        self.table.is_some()
    }

    /// "dms3server Server.Port", for the report.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{} {key}", self.name)
    }

    /// `Table.Key`; `None` if it, or its table, is missing.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        let mut steps = key.split('.');
        let first = self.table.as_ref()?.get(steps.next()?)?;
        steps.try_fold(first, |value, step| value.get(step))
    }

    /// A text; of another type, it is told. Empty means there that it was not set.
    pub(super) fn text(&self, key: &str, report: &mut Report) -> Option<String> {
        match self.get(key)? {
            Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
            other => {
                report.look(&self.key(key), format!("it is {} where a text belongs; the default is kept", other.type_str()));
                None
            }
        }
    }

    pub(super) fn number(&self, key: &str, report: &mut Report) -> Option<i64> {
        match self.get(key)? {
            Value::Integer(number) => Some(*number),
            other => {
                report.look(&self.key(key), format!("it is {} where a number belongs; the default is kept", other.type_str()));
                None
            }
        }
    }

    pub(super) fn yes(&self, key: &str, report: &mut Report) -> Option<bool> {
        match self.get(key)? {
            Value::Boolean(yes) => Some(*yes),
            other => {
                report.look(&self.key(key), format!("it is {} where true or false belongs; the default is kept", other.type_str()));
                None
            }
        }
    }

    /// A list of texts; of another type, it is told.
    pub(super) fn texts(&self, key: &str, report: &mut Report) -> Option<Vec<String>> {
        let value = self.get(key)?;
        let texts = value.as_array().and_then(|list| list.iter().map(|text| text.as_str().map(str::to_owned)).collect());
        if texts.is_none() {
            report.look(&self.key(key), "it is no list of texts; the default is kept");
        }
        texts
    }

    /// Those of our `known` that are there: what became of them is said at once.
    pub(super) fn not_needed(&self, keys: &[&str], why: &'static str, report: &mut Report) {
        for key in keys.iter().filter(|key| self.get(key).is_some()) {
            report.not_needed(&self.key(key), why);
        }
    }

    /// What DMS3 in Go does not know either: it ignored them without a word.
    pub(super) fn tell_unknown(&self, known: &[&str], report: &mut Report) {
        let mut found = Vec::new();
        if let Some(table) = &self.table {
            leaves("", table, &mut found);
        }
        for key in found.iter().filter(|key| !known.contains(&key.as_str())) {
            report.look(&self.key(key), "DMS3 in Go knows no such key and ignored it; so does this");
        }
    }
}

fn leaves(section: &str, table: &Table, found: &mut Vec<String>) {
    for (name, value) in table {
        let key = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        match value {
            Value::Table(table) => leaves(&key, table, found),
            _ => found.push(key),
        }
    }
}

fn parse(path: &PathBuf) -> Result<Table> {
    let length = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    ensure!(length <= LONGEST, "{} is too long for a config ({length} bytes)", path.display());
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // The line is not shown: it may hold a password.
    text.parse().map_err(|error: toml::de::Error| {
        let line = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default().matches('\n').count() + 1;
        anyhow::anyhow!("{} line {line}: {}", path.display(), error.message())
    })
}
