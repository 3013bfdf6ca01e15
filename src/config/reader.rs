//! Reads a TOML document setting by setting and gathers everything that is wrong with it.
//!
//! Serde's derive stops at the first error, and knows a setting's type but not its range. Here each
//! setting is taken by name with its default and its range, a problem is noted with its path and
//! reading goes on with the default, and what nobody took is an unknown setting.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::{Table, Value};

use super::values::Secret;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: a path in the file (`tenants.acme.jwt.keys[0].algorithm`), a flag, or a variable.
    pub place: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// Everything that is wrong with a configuration, at once. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file, where one was read.
    pub file: Option<PathBuf>,
    /// What is wrong, in the order of reading.
    pub problems: Vec<Problem>,
}

impl ConfigErrors {
    /// A single problem.
    pub fn one(file: Option<&Path>, place: &str, what: impl Into<String>) -> Self {
        let problem = Problem { place: place.into(), what: what.into() };
        Self { file: file.map(Into::into), problems: vec![problem] }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "the configuration {} is not valid:", file.display())?,
            None => write!(f, "the configuration is not valid:")?,
        }
        for Problem { place, what } in &self.problems {
            write!(f, "\n  {place}: {what}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Reads an environment variable; tests put a map in its place.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What every section of a document shares.
pub(super) struct Context<'a> {
    /// The environment that `*_env` settings name variables of.
    pub(super) env: Env<'a>,
    /// The folder that relative file names start from.
    pub(super) folder: PathBuf,
    /// Settings that came from a flag or a variable, which is named in place of their path.
    pub(super) origins: BTreeMap<String, &'static str>,
    /// What is wrong so far.
    pub(super) problems: RefCell<Vec<Problem>>,
}

impl Context<'_> {
    /// Notes a problem.
    pub(super) fn wrong(&self, path: &str, what: impl Into<String>) {
        let place = self.origins.get(path).map_or_else(|| path.to_owned(), |origin| (*origin).to_owned());
        self.problems.borrow_mut().push(Problem { place, what: what.into() });
    }
}

/// One table of the document. Dropping it reports the settings that nobody took.
pub(super) struct Section<'a> {
    context: &'a Context<'a>,
    path: String,
    table: Table,
    known: Vec<String>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub(super) fn root(context: &'a Context<'a>, table: Table) -> Self {
        Self { context, path: String::new(), table, known: Vec::new() }
    }

    /// The path of a setting here.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a problem with a setting here.
    pub(super) fn wrong(&self, key: &str, what: impl Into<String>) {
        self.context.wrong(&self.path_of(key), what);
    }

    /// Notes a problem with the section as a whole.
    pub(super) fn wrong_here(&self, what: impl Into<String>) {
        self.context.wrong(&self.path, what);
    }

    /// Whether the document has the setting. Does not take it.
    pub(super) fn has(&mut self, key: &str) -> bool {
        self.know(key);
        self.table.contains_key(key)
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.know(key);
        self.table.remove(key)
    }

    fn know(&mut self, key: &str) {
        if !self.known.iter().any(|known| known == key) {
            self.known.push(key.to_owned());
        }
    }

    fn wrong_type(&self, key: &str, expected: &str, found: &Value) {
        self.wrong(key, format!("must be {expected}, is {} {}", article(found), found.type_str()));
    }

    /// A text.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                self.wrong_type(key, "a text in quotes", &other);
                None
            }
        }
    }

    /// A text that is more than white space.
    pub(super) fn name(&mut self, key: &str) -> Option<String> {
        let text = self.text(key)?;
        if text.trim().is_empty() {
            self.wrong(key, "must not be empty");
            return None;
        }
        Some(text)
    }

    /// A text that `T` parses; its error is the problem.
    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Option<T> {
        let text = self.text(key)?;
        text.parse().inspect_err(|error| self.wrong(key, format!("{error}"))).ok()
    }

    /// A file or folder; a relative name starts from the configuration's own folder.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.name(key).map(|name| self.context.folder.join(name))
    }

    /// A text that `T` parses, described by `expected` where it does not.
    pub(super) fn parsed_as<T: FromStr>(&mut self, key: &str, default: T, expected: &str) -> T {
        let Some(text) = self.text(key) else { return default };
        text.parse().unwrap_or_else(|_| {
            self.wrong(key, format!("must be {expected}, is {text:?}"));
            default
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(value)) => value,
            Some(other) => {
                self.wrong_type(key, "true or false", &other);
                default
            }
        }
    }

    /// A whole number in a range.
    pub(super) fn number<N>(&mut self, key: &str, default: N, range: RangeInclusive<N>) -> N
    where
        N: Copy + PartialOrd + TryFrom<i64> + fmt::Display,
    {
        self.optional_number(key, range).unwrap_or(default)
    }

    /// A whole number in a range, where it is set.
    pub(super) fn optional_number<N>(&mut self, key: &str, range: RangeInclusive<N>) -> Option<N>
    where
        N: Copy + PartialOrd + TryFrom<i64> + fmt::Display,
    {
        let value = self.take(key)?;
        let Value::Integer(given) = value else {
            self.wrong_type(key, "a whole number", &value);
            return None;
        };
        let number = N::try_from(given).ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(key, format!("must be from {} to {}, is {given}", range.start(), range.end()));
        }
        number
    }

    /// A number from 0 to 1.
    pub(super) fn ratio(&mut self, key: &str, default: f64) -> f64 {
        let given = match self.take(key) {
            None => return default,
            Some(Value::Float(number)) => number,
            Some(Value::Integer(number @ 0..=1)) => number as f64,
            Some(other) => {
                self.wrong_type(key, "a number from 0.0 to 1.0", &other);
                return default;
            }
        };
        if (0.0..=1.0).contains(&given) {
            return given;
        }
        self.wrong(key, format!("must be from 0.0 to 1.0, is {given}"));
        default
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let given = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == given).map(|(_, value)| *value);
        if found.is_none() {
            let allowed: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.wrong(key, format!("must be {}, is {given:?}", allowed.join(" or ")));
        }
        found
    }

    /// A list of texts that `T` parses; each wrong one is a problem of its own.
    pub(super) fn list<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Vec<T> {
        let items = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong_type(key, "a list of texts", &other);
                return Vec::new();
            }
        };
        let mut parsed = Vec::with_capacity(items.len());
        for (at, item) in items.into_iter().enumerate() {
            let place = format!("{key}[{at}]");
            match item {
                Value::String(text) => match text.parse() {
                    Ok(value) => parsed.push(value),
                    Err(error) => self.wrong(&place, format!("{error}")),
                },
                other => self.wrong_type(&place, "a text in quotes", &other),
            }
        }
        parsed
    }

    /// A secret, in the file under `key` or in the variable that `<key>_env` names. Its value never
    /// stands in a problem.
    pub(super) fn secret(&mut self, key: &str) -> Option<Secret> {
        let env_key = format!("{key}_env");
        let (inline, variable) = (self.text(key), self.name(&env_key));
        let secret = match (inline, variable) {
            (Some(_), Some(_)) => {
                self.wrong(key, format!("is set together with {env_key}; keep one of them"));
                None
            }
            (Some(secret), None) => Some(secret),
            (None, Some(variable)) => {
                let value = (self.context.env)(&variable);
                if value.is_none() {
                    self.wrong(&env_key, format!("the environment variable {variable} is not set"));
                }
                value
            }
            (None, None) => None,
        }?;
        if secret.is_empty() {
            self.wrong(key, "must not be empty");
            return None;
        }
        Some(Secret::new(secret))
    }

    /// A secret of at least so many bytes.
    pub(super) fn long_secret(&mut self, key: &str, least: usize) -> Option<Secret> {
        let secret = self.secret(key)?;
        let length = secret.expose().len();
        if length < least {
            self.wrong(key, format!("must have at least {least} bytes, has {length}"));
            return None;
        }
        Some(secret)
    }

    /// A table below this one; an absent one is empty.
    pub(super) fn section(&mut self, key: &str) -> Section<'a> {
        let table = match self.take(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                self.wrong_type(key, "a table", &other);
                Table::new()
            }
        };
        Section { context: self.context, path: self.path_of(key), table, known: Vec::new() }
    }

    /// The tables below a table, by name.
    pub(super) fn named_sections(&mut self, key: &str) -> Vec<(String, Section<'a>)> {
        let mut parent = self.section(key);
        let names: Vec<String> = parent.table.keys().cloned().collect();
        names
            .into_iter()
            .map(|name| {
                let section = parent.section(&name);
                (name, section)
            })
            .collect()
    }

    /// The tables of a list of tables.
    pub(super) fn listed_sections(&mut self, key: &str) -> Vec<Section<'a>> {
        let items = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong_type(key, "a list of tables", &other);
                return Vec::new();
            }
        };
        let mut sections = Vec::with_capacity(items.len());
        for (at, item) in items.into_iter().enumerate() {
            let place = format!("{key}[{at}]");
            match item {
                Value::Table(table) => sections.push(Section {
                    context: self.context,
                    path: self.path_of(&place),
                    table,
                    known: Vec::new(),
                }),
                other => self.wrong_type(&place, "a table", &other),
            }
        }
        sections
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let unknown: Vec<String> = self.table.keys().cloned().collect();
        for key in unknown {
            let known = self.known.join(", ");
            self.wrong(&key, format!("there is no such setting; here there are: {known}"));
        }
    }
}

fn article(value: &Value) -> &'static str {
    if matches!(value, Value::Integer(_) | Value::Array(_)) { "an" } else { "a" }
}
