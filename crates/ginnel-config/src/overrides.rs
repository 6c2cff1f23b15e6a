//! Settings from the environment and from flags, over those of the file.
//!
//! `GINNEL_SERVER__ADDRESS` is `server.address`: two underscores part the keys of the path, case and single underscores
//! inside a key do not count. `--set server.address=…` names the path itself. Flags beat the environment, which beats
//! the file; only single values can be set, lists are for the file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use crate::finding::{Collector, Place, folded, suggestion};
use crate::shape::{Field, Kind};
use crate::tree::{Map, Node, Value};

/// What every variable of ours begins with.
const PREFIX: &str = "GINNEL_";

/// Variables that belong to commands, not to a configuration.
const RESERVED: [&str; 6] =
    ["GINNEL_ASK", "GINNEL_ASK_SOCKET", "GINNEL_LOG", "GINNEL_LOG_FORMAT", "GINNEL_OTLP_ENDPOINT", "GINNEL_PROXY"];

/// Values that were set outside the file. What is wrong with them comes out when a file is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    variables: BTreeMap<String, Result<String, NotText>>,
    flags: Vec<String>,
}

/// A variable that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NotText;

impl Overrides {
    /// Nothing but the file.
    pub fn none() -> Self {
        Self::default()
    }

    /// The variables that begin with `GINNEL_`, for example from [`std::env::vars_os`].
    ///
    /// Left out are those that belong to commands (`GINNEL_LOG`, `GINNEL_LOG_FORMAT`, `GINNEL_PROXY`) and those that
    /// Kubernetes gives to every container beside a service called `ginnel-…`.
    pub fn from_env<N: Into<OsString>, V: Into<OsString>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = variables
            .into_iter()
            .filter_map(|(name, value)| {
                let name = name.into().into_string().ok()?;
                let ours = name.strip_prefix(PREFIX)?;
                if RESERVED.contains(&name.as_str()) || is_from_kubernetes(ours) {
                    return None;
                }
                Some((name, value.into().into_string().map_err(|_| NotText)))
            })
            .collect();
        Self { variables, flags: Vec::new() }
    }

    /// Adds flags of the form `path=value`; of two that name the same path, the last counts.
    pub fn with_flags<F: Into<String>>(mut self, flags: impl IntoIterator<Item = F>) -> Self {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    /// Puts the values into a tree that `kind` describes.
    pub(crate) fn apply(&self, root: &mut Node, kind: &Kind, findings: &mut Collector) {
        let Kind::Section(fields) = kind else { return };
        let mut ignored = Map::default();
        let map = match &mut root.value {
            Value::Map(map) => map,
            // The file is wrong as a whole, which decoding reports; the overrides are still checked.
            Value::Scalar(_) | Value::List(_) | Value::Refused => &mut ignored,
        };
        let mut first_by_path: BTreeMap<Vec<&str>, &str> = BTreeMap::new();
        for (name, value) in &self.variables {
            let place = Place::Override(Arc::from(name.as_str()));
            let keys: Vec<_> = name[PREFIX.len()..].split("__").collect();
            let found = resolve(fields, &keys, Spelling::Variable);
            let (path, value) = match (found, value) {
                (Err(Unresolved { message, hint }), _) => {
                    findings.report(&place, "", message, hint);
                    continue;
                }
                (Ok(path), Err(NotText)) => {
                    findings.report(&place, path.join("."), "is not UTF-8", None);
                    continue;
                }
                (Ok(path), Ok(value)) => (path, value),
            };
            if let Some(first) = first_by_path.insert(path.clone(), name) {
                findings.report(&place, path.join("."), format!("is already set by {first}"), None);
            }
            map.set(&path, value, &place);
        }
        for flag in &self.flags {
            let (name, value) = flag.split_once('=').unwrap_or((flag.as_str(), ""));
            let place = Place::Override(format!("--set {name}").into());
            if !flag.contains('=') {
                findings.report(&place, "", "is not of the form path=value", None);
                continue;
            }
            let keys: Vec<_> = name.split('.').collect();
            match resolve(fields, &keys, Spelling::Flag) {
                Ok(path) => map.set(&path, value, &place),
                Err(Unresolved { message, hint }) => findings.report(&place, "", message, hint),
            }
        }
    }
}

/// How the keys of a path are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Variable,
    Flag,
}

impl Spelling {
    fn means(self, key: &str, field: &Field) -> bool {
        match self {
            Self::Flag => key == field.name,
            Self::Variable => !key.contains('-') && folded(key) == folded(field.name),
        }
    }

    fn separator(self) -> &'static str {
        match self {
            Self::Flag => ".",
            Self::Variable => "__",
        }
    }

    fn write(self, path: &[&str]) -> String {
        match self {
            Self::Flag => path.join("."),
            Self::Variable => {
                format!("{PREFIX}{}", path.iter().map(|key| upper_snake(key)).collect::<Vec<_>>().join("__"))
            }
        }
    }
}

fn upper_snake(key: &str) -> String {
    let mut out = String::new();
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// Why a path names no single setting.
struct Unresolved {
    message: String,
    hint: Option<String>,
}

fn resolve(root: &[Field], keys: &[&str], spelling: Spelling) -> Result<Vec<&'static str>, Unresolved> {
    let mut fields = root;
    let mut path: Vec<&'static str> = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let Some(field) = fields.iter().find(|field| spelling.means(key, field)) else {
            let hint = hint(root, &keys.join(spelling.separator()), spelling);
            return Err(Unresolved { message: "names no setting".to_owned(), hint: Some(hint) });
        };
        path.push(field.name);
        let is_last = index + 1 == keys.len();
        match (&field.kind, is_last) {
            (Kind::Scalar(_) | Kind::SectionOr { .. }, true) => return Ok(path),
            (Kind::Scalar(_) | Kind::SectionOr { .. }, false) => {
                let message = format!("names no setting: {} is a single value", path.join("."));
                return Err(Unresolved { message, hint: Some(format!("did you mean {}?", spelling.write(&path))) });
            }
            (Kind::List { .. }, _) => {
                let message = format!("{} is a list, which only the file can set", path.join("."));
                return Err(Unresolved { message, hint: None });
            }
            (Kind::Section(inner), _) => fields = inner,
        }
    }
    let mut names = Vec::new();
    single_values(fields, &mut path.clone(), &mut |path| names.push(spelling.write(path)));
    let message = format!("{} is a section, not a single value", path.join("."));
    Err(Unresolved { message, hint: Some(format!("its settings are {}", names.join(", "))) })
}

fn hint(root: &[Field], name: &str, spelling: Spelling) -> String {
    let mut candidates = Vec::new();
    single_values(root, &mut Vec::new(), &mut |path| {
        candidates.push((path.join(spelling.separator()), spelling.write(path)))
    });
    match suggestion(name, candidates.iter().map(|(path, _)| path.as_str())) {
        Some(close) => {
            let written = candidates.iter().find(|(path, _)| path == close).map_or(close, |(_, written)| written);
            format!("did you mean {written}?")
        }
        None => {
            let names: Vec<_> = candidates.into_iter().map(|(_, written)| written).collect();
            format!("the settings are {}", names.join(", "))
        }
    }
}

/// Visits the path of every setting that an override can name.
fn single_values(fields: &[Field], path: &mut Vec<&'static str>, visit: &mut dyn FnMut(&[&'static str])) {
    for field in fields {
        path.push(field.name);
        match &field.kind {
            Kind::Scalar(_) | Kind::SectionOr { .. } => visit(path),
            Kind::List { .. } => {}
            Kind::Section(inner) => single_values(inner, path, visit),
        }
        path.pop();
    }
}

/// Whether Kubernetes injects a variable of this name (without our prefix) for a service called `ginnel` or `ginnel-…`:
/// `[X_]SERVICE_HOST`, `[X_]SERVICE_PORT[_NAME]`, `[X_]PORT` and `[X_]PORT_<n>_<protocol>[_ADDR|_PORT|_PROTO]`.
///
/// None of our settings is spelled like that, which a test keeps true.
fn is_from_kubernetes(name: &str) -> bool {
    if name.contains("__") {
        return false;
    }
    let words: Vec<_> = name.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    (0..words.len()).any(|start| match &words[start..] {
        ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] | ["PORT"] => true,
        ["PORT", number, "TCP" | "UDP" | "SCTP"] => is_number(number),
        ["PORT", number, "TCP" | "UDP" | "SCTP", "ADDR" | "PORT" | "PROTO"] => is_number(number),
        _ => false,
    })
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn ignores_what_kubernetes_injects() {
        let injected = [
            "GINNEL_SERVICE_HOST",
            "GINNEL_SERVICE_PORT",
            "GINNEL_SERVICE_PORT_GRPC",
            "GINNEL_PORT",
            "GINNEL_PORT_50050_TCP",
            "GINNEL_PORT_50050_TCP_ADDR",
            "GINNEL_SERVER_SERVICE_HOST",
            "GINNEL_SERVER_PORT",
            "GINNEL_SERVER_PORT_443_UDP_PROTO",
        ];
        assert_eq!(Overrides::from_env(injected.map(|name| (name, "x"))), Overrides::none());
        for name in
            ["GINNEL_PORTS", "GINNEL_PORT_X_TCP", "GINNEL_SERVICE", "GINNEL_SERVER__ADDRESS", "GINNEL_SERVER__PORT"]
        {
            assert_ne!(Overrides::from_env([(name, "x")]), Overrides::none(), "{name}");
        }
    }

    #[test]
    fn takes_no_setting_for_a_variable_of_kubernetes() {
        for role in crate::Daemon::ALL {
            let Kind::Section(fields) = crate::kind(role) else { panic!("{role}") };
            single_values(&fields, &mut Vec::new(), &mut |path| {
                let name = Spelling::Variable.write(path);
                assert!(!is_from_kubernetes(&name[PREFIX.len()..]), "{name}");
                assert!(!RESERVED.contains(&name.as_str()), "{name}");
            });
        }
    }
}
