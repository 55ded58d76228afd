//! `hardening:`, what the process gives up before it serves anybody.

use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::yaml::Node;
use schemars::JsonSchema;
use serde_json::{Value, json};

/// What a running proxy never needs, and so gives up at its start. Each mechanism can be turned off by name; one that the
/// kernel does not have is named in the log, and is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardening {
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// `RLIMIT_CORE` 0 and `PR_SET_DUMPABLE` 0.
    pub no_core_dumps: bool,
    /// Nothing is written outside of the directories that the file names, and nothing is executed.
    pub landlock: bool,
    /// System calls that a proxy never makes.
    pub seccomp: bool,
}

impl Hardening {
    pub const NONE: Self = Self { no_new_privileges: false, no_core_dumps: false, landlock: false, seccomp: false };

    /// As the file would say it.
    pub(crate) fn effective_json(self) -> Value {
        let word = |is_on: bool| if is_on { "on" } else { "off" };
        json!({
            "no_new_privileges": word(self.no_new_privileges),
            "no_core_dumps": word(self.no_core_dumps),
            "landlock": word(self.landlock),
            "seccomp": word(self.seccomp),
        })
    }
}

impl Default for Hardening {
    fn default() -> Self {
        Self { no_new_privileges: true, no_core_dumps: true, landlock: true, seccomp: true }
    }
}

/// What the process gives up at its start, because it never needs it. What the kernel does not have is left out, and the log
/// says so. A change takes effect with the next start.
#[derive(JsonSchema)]
#[schemars(rename = "Hardening", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawHardening {
    /// No program that it could start would have more rights than it has. `off` only with `landlock: off` and `seccomp:
    /// off`, which need it.
    #[schemars(extend("default" = "on"))]
    no_new_privileges: Field<Switch>,
    /// Its memory, in which keys live, is never written to a core file, and no other process of its user may read it:
    /// neither a debugger nor `/proc/PID/mem`. `off` to debug it.
    #[schemars(extend("default" = "on"))]
    no_core_dumps: Field<Switch>,
    /// Files are written only in the directories of what this file names to be written (the access log, unix sockets,
    /// kept bundles), and none is executed. A reload cannot add a directory.
    #[schemars(extend("default" = "on"))]
    landlock: Field<Switch>,
    /// System calls that a proxy never makes are refused: to start or trace processes, to mount, to load code into the
    /// kernel, to make namespaces, sockets of rare families.
    #[schemars(extend("default" = "on"))]
    seccomp: Field<Switch>,
}

impl Section for RawHardening {
    const NAME: &'static str = "`hardening`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            no_new_privileges: keys.optional("no_new_privileges"),
            no_core_dumps: keys.optional("no_core_dumps"),
            landlock: keys.optional("landlock"),
            seccomp: keys.optional("seccomp"),
        }
    }
}

impl RawHardening {
    pub fn check(self, reader: &mut Reader) -> Hardening {
        let place = self.no_new_privileges.place().cloned();
        let is_on = |field: Field<Switch>| field.or(Switch(true)).0;
        let checked = Hardening {
            no_new_privileges: is_on(self.no_new_privileges),
            no_core_dumps: is_on(self.no_core_dumps),
            landlock: is_on(self.landlock),
            seccomp: is_on(self.seccomp),
        };
        // prctl(2): without privileges a process may only restrict itself once it can gain none by execve.
        if let Some(place) = place.filter(|_| !checked.no_new_privileges && (checked.landlock || checked.seccomp)) {
            let what = "`no_new_privileges: off` with `landlock` or `seccomp` on, which cannot do without it";
            reader.problem(&place, what, "remove it, or add `landlock: off` and `seccomp: off`");
        }
        checked
    }
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug)]
struct Switch(bool);

impl FromNode for Switch {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("on", true), ("off", false)]).map(Self)
    }
}

impl JsonSchema for Switch {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Switch".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "enum": ["on", "off"] })
    }
}

#[cfg(test)]
mod tests {
    use super::Hardening;
    use crate::Config;
    use std::path::Path;

    fn read(hardening: &str) -> Result<Hardening, String> {
        let config = Config::from_str(Path::new("postern.yaml"), hardening);
        config.map(|config| config.hardening).map_err(|problems| problems.to_string())
    }

    #[test]
    fn every_mechanism_is_on_unless_it_is_turned_off_by_name() {
        let on = Hardening::default();
        for (text, expected) in [
            ("workers: 1\n", on),
            ("hardening: {}\n", on),
            ("hardening: { seccomp: off }\n", Hardening { seccomp: false, ..on }),
            ("hardening: { landlock: off, seccomp: on }\n", Hardening { landlock: false, ..on }),
            ("hardening: { no_core_dumps: off }\n", Hardening { no_core_dumps: false, ..on }),
            (
                "hardening: { no_new_privileges: off, landlock: off, seccomp: off }\n",
                Hardening { no_core_dumps: true, ..Hardening::NONE },
            ),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_needs_no_new_privileges_cannot_be_on_without_it() {
        for text in [
            "hardening: { no_new_privileges: off }\n",
            "hardening: { no_new_privileges: off, seccomp: off }\n",
            "hardening: { no_new_privileges: off, landlock: off }\n",
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains("cannot do without it"), "{text}: {problem}");
        }
        assert!(read("hardening: { seccomp: false }\n").unwrap_err().contains("`off`"));
    }
}
