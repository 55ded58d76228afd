//! `break_glass:`: who may override the rules in an emergency, and the override itself, a signed file of its own.

use crate::authz::{Effect, Moment, RawRule, Rule, Rules, check_rules, print_moment};
use crate::include;
use crate::pattern::SpiffePattern;
use crate::problem::{Place, Problems};
use crate::read::{Field, FromNode as _, Keys, Reader, Section};
use crate::values::{At, FilePath, Name, OneOrMany, Span};
use schemars::JsonSchema;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an override may last unless the file says otherwise.
pub const LONGEST_DEFAULT: Duration = Duration::from_secs(4 * 3600);
/// Of a reason and an author, each.
const TEXT_BYTES_MAX: usize = 200;

#[derive(Clone, Debug, PartialEq)]
pub struct BreakGlass {
    /// Where an override is put. Its signature is beside it, with `.sig` behind the name.
    pub file: PathBuf,
    /// Public keys, PEM. Never empty.
    pub keys: Vec<PathBuf>,
    pub longest: Duration,
}

/// What is let in although the rules refuse it, for some time.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    pub reason: String,
    pub author: String,
    /// Seconds since 1970, both.
    pub from: i64,
    pub until: i64,
    /// Our own SPIFFE ID has to fit: an override for one workload is none for another.
    pub workload: SpiffePattern,
    /// Names of ports. Empty: all.
    pub ports: Vec<String>,
    /// `allow` alone; never empty.
    pub rules: Rules,
}

/// Lets a signed file override the rules in an emergency. Who a caller is, tokens, and the deny list are not subject to it.
#[derive(JsonSchema)]
#[schemars(rename = "BreakGlass", deny_unknown_fields, extend("required" = ["file", "keys"]))]
pub(crate) struct RawBreakGlass {
    /// Where an override is put, and taken away. It need not be there. Its signature is beside it: the same name and `.sig`.
    file: Field<FilePath>,
    /// PEM files of the public keys whose signature counts.
    keys: Field<OneOrMany<FilePath>>,
    /// How long an override may last.
    #[schemars(extend("default" = "4h"))]
    longest: Field<Span>,
}

impl Section for RawBreakGlass {
    const NAME: &'static str = "`break_glass`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            file: keys.required("file", "say where an override is put: `file: /etc/postern/break-glass.yaml`"),
            keys: keys.required("keys", "name the public keys whose signature counts"),
            longest: keys.optional("longest"),
        }
    }
}

impl RawBreakGlass {
    /// `None`: its problems have been told.
    pub fn check(self, reader: &mut Reader) -> Option<BreakGlass> {
        if let (Some(place), Some(true)) = (self.keys.place(), self.keys.get().map(|keys| keys.0.is_empty())) {
            reader.problem(place, "nobody could sign an override", "name a public key, or remove `break_glass`");
        }
        let keys = self.keys.into_option()?.0.into_iter().map(|file| file.0).collect();
        let longest = self.longest.into_option().map_or(LONGEST_DEFAULT, |span| span.0);
        Some(BreakGlass { file: self.file.into_option()?.0, keys, longest })
    }
}

impl Override {
    /// Reads `text` as if it stood in the file `name`. Whether it is signed is another matter.
    ///
    /// # Errors
    /// All problems of the file.
    pub fn from_str(name: &Path, text: &str) -> Result<Self, Problems> {
        // Another file could be changed after this one was signed.
        let sources = include::read_text_alone(name, text, "write it out here: the signature is of this file alone");
        let mut reader = Reader::with(sources.problems, sources.texts);
        let raw = sources.root.and_then(|root| RawOverrideFile::from_node(&root, &mut reader));
        let read = raw.and_then(|raw| raw.section.into_option()).and_then(|raw| raw.check(&mut reader));
        match read {
            Some(read) if reader.problems.is_empty() => Ok(read),
            _ => Err(Problems::in_order(reader.problems)),
        }
    }

    /// RFC 3339.
    pub fn until_text(&self) -> String {
        print_moment(self.until)
    }

    pub fn lasts(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.until - self.from).unwrap_or(0))
    }
}

/// The file as a whole.
#[derive(JsonSchema)]
#[schemars(rename = "OverrideFile", deny_unknown_fields, extend("required" = ["break_glass"]))]
pub(crate) struct RawOverrideFile {
    /// The override.
    #[schemars(rename = "break_glass")]
    section: Field<RawOverride>,
}

impl Section for RawOverrideFile {
    const NAME: &'static str = "an override";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { section: keys.required("break_glass", "write the override below `break_glass:`") }
    }
}

/// What is let in although the rules refuse it, for some time.
#[derive(JsonSchema)]
#[schemars(rename = "Override", deny_unknown_fields, extend("required" = ["reason", "author", "from", "until", "workload", "allow"]))]
pub(crate) struct RawOverride {
    /// Why; it stands in the log and in records.
    reason: Field<At<String>>,
    /// Who; it stands in the log and in records.
    author: Field<At<String>>,
    /// From this moment on.
    from: Field<Moment>,
    /// Until this moment.
    until: Field<Moment>,
    /// The workloads whose sidecars it is for.
    workload: Field<At<SpiffePattern>>,
    /// The ports that it is for.
    #[schemars(extend("x-default" = "all"))]
    ports: Field<OneOrMany<Name>>,
    /// Who may, as in `allow` of a port.
    allow: Field<Vec<RawRule>>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawOverride {
    const NAME: &'static str = "`break_glass`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            reason: keys.required("reason", "say why: `reason: \"INC-4711: the identity provider lost its entries\"`"),
            author: keys.required("author", "say who: `author: alice@shop.example`"),
            from: keys.required("from", "say from when on: `from: 2026-12-24T18:00:00Z`"),
            until: keys.required("until", "say until when: `until: 2026-12-24T20:00:00Z`"),
            workload: keys
                .required("workload", "say whose sidecars: `workload: spiffe://shop.example/ns/shop/sa/orders`"),
            ports: keys.optional("ports"),
            allow: keys.required("allow", "say who may: `allow: [{ spiffe: spiffe://… }]`"),
            place: keys.place(),
        }
    }
}

impl RawOverride {
    fn check(self, reader: &mut Reader) -> Option<Override> {
        for text in [self.reason.get(), self.author.get()].into_iter().flatten() {
            if text.value.len() > TEXT_BYTES_MAX {
                let what = format!("{} bytes are more than the {TEXT_BYTES_MAX} that records hold", text.value.len());
                reader.problem(&text.place, what, "write less");
            }
        }
        if let Some(At { place, .. }) = self.workload.get().filter(|workload| workload.value.has_capture()) {
            reader.problem(place, "`{…}` captures what nothing here asks for", "write `*` for any segment");
        }
        let allow_place = self.allow.place().cloned();
        let rules: Vec<Rule> = check_rules(self.allow.into_option().unwrap_or_default(), Effect::Allow, "", reader);
        if let (true, Some(place)) = (rules.is_empty(), &allow_place) {
            reader.problem(place, "the override allows nobody", "name who may, or remove the file");
        }
        let (from, until) = (self.from.into_option()?.0, self.until.into_option()?.0);
        if until <= from {
            reader.problem(
                &self.place,
                "the override ends before it begins",
                "write a moment for `until` behind `from`",
            );
        }
        Some(Override {
            reason: self.reason.into_option()?.value,
            author: self.author.into_option()?.value,
            from,
            until,
            workload: self.workload.into_option()?.value,
            ports: self.ports.or_default().0.into_iter().map(|name| name.0).collect(),
            rules: Rules { allow: rules, ..Rules::default() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{BreakGlass, LONGEST_DEFAULT, Override};
    use crate::Config;
    use std::path::Path;

    const GOOD: &str = "break_glass:\n  reason: INC-4711\n  author: alice\n  from: 2026-12-24T18:00:00Z\n  until: 2026-12-24T20:00:00Z\n  \
                        workload: spiffe://shop.example/ns/shop/sa/orders\n  allow: [{ spiffe: spiffe://shop.example/ns/ops/sa/* }]\n";

    fn read(text: &str) -> Result<Override, String> {
        Override::from_str(Path::new("break-glass.yaml"), text).map_err(|problems| problems.to_string())
    }

    #[test]
    fn an_override_says_why_who_when_whose_and_for_whom() {
        let read = read(GOOD).unwrap();
        assert_eq!((read.reason.as_str(), read.author.as_str()), ("INC-4711", "alice"));
        assert_eq!((read.until - read.from, read.until_text().as_str()), (7200, "2026-12-24T20:00:00Z"));
        assert_eq!((read.ports.len(), read.rules.allow.len()), (0, 1));
    }

    #[test]
    fn what_is_no_override_is_refused() {
        for (text, expected) in [
            (GOOD.replace("20:00:00", "18:00:00"), "ends before it begins"),
            (GOOD.replace("  reason: INC-4711\n", ""), "`reason` is missing"),
            (GOOD.replace("[{ spiffe: spiffe://shop.example/ns/ops/sa/* }]", "[]"), "allows nobody"),
            (GOOD.replace("allow:", "deny:"), "unknown key `deny`"),
            (format!("{GOOD}include: Cargo.toml\n"), "break-glass.yaml:8:1: this file includes no others"),
            ("include: Cargo.toml\n".to_owned(), "break-glass.yaml:1:1: this file includes no others"),
            (GOOD.replace("break_glass:", "other:"), "`break_glass` is missing"),
        ] {
            let problems = read(&text).expect_err(&text);
            assert!(problems.contains(expected), "{text}\n{problems}");
        }
    }

    #[test]
    fn somebody_has_to_be_able_to_sign() {
        let read = |text: &str| Config::from_str(Path::new("/etc/postern.yaml"), text).map(|config| config.break_glass);
        let expected =
            BreakGlass { file: "/etc/a.yaml".into(), keys: vec!["/etc/b.pub".into()], longest: LONGEST_DEFAULT };
        assert_eq!(read("break_glass: { file: a.yaml, keys: b.pub }\n"), Ok(Some(expected)));
        assert_eq!(read("workers: 1\n"), Ok(None));
        for text in ["break_glass: { file: a }\n", "break_glass: { file: a, keys: [] }\n", "break_glass: { keys: b }\n"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
