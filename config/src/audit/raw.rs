//! `audit:` as it is written, and its checks.

use super::{Audit, AuditTarget, Decisions, OnFull, PostAs, PostUrl, Rotate, Seal, SecondPlace};
use crate::bounds::Count;
use crate::problem::Place;
use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::upstream::Percent;
use crate::values::{FilePath, Size, Span};
use crate::yaml::{Node, Value};
use schemars::JsonSchema;

/// A record of each decision, and of what became of our credentials, in a chain that shows when one of them was changed,
/// removed or moved. Without this section there is none. A change takes effect with the next start.
#[derive(JsonSchema)]
#[schemars(rename = "Audit", deny_unknown_fields, extend("required" = ["to"]))]
pub(crate) struct RawAudit {
    /// Where records go: `stdout`, or a file (`{ file: PATH }`), which nobody else may write.
    to: Field<RawTarget>,
    /// Which decisions are recorded: `all`, or `{ denials: …, allows: … }`. What is not recorded because of this leaves no
    /// gap.
    #[schemars(extend("default" = "all"))]
    decisions: Field<RawChoice>,
    /// When records cannot be written as fast as they arise: `gap` goes on, counts what is lost, alarms, and records the
    /// count as soon as it can; `block` has requests and connections wait, however long it takes.
    #[schemars(extend("default" = "gap"))]
    on_full: Field<OnFull>,
    /// How often the chain is sealed: signed with our SVID's key.
    seal: Field<RawSeal>,
    /// Where each seal goes as well, so that whoever changes the log here cannot change what it is compared with.
    second_place: Field<RawSecondPlace>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawAudit {
    const NAME: &'static str = "`audit`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            to: keys.required("to", "write where records go: `to: { file: PATH }`, or `to: stdout`"),
            decisions: keys.optional("decisions"),
            on_full: keys.optional("on_full"),
            seal: keys.optional("seal"),
            second_place: keys.optional("second_place"),
            place: keys.place(),
        }
    }
}

impl RawAudit {
    /// `None`: its problems have been told.
    pub fn check(self, reader: &mut Reader) -> Option<Audit> {
        let decisions = self.decisions.into_option().unwrap_or(RawChoice(Decisions::default())).0;
        let seal = self.seal.into_option().map_or_else(Seal::default, RawSeal::check);
        let to = self.to.into_option()?.0;
        let second_place = self.second_place.into_option();
        if let Some(section) = &second_place
            && let (Some(FilePath(second)), Some(place)) = (section.file.get(), section.file.place())
            && to.file() == Some(second)
        {
            reader.problem(place, "`second_place` is the log itself", "name a file on another disk or machine");
        }
        Some(Audit {
            to,
            decisions,
            on_full: self.on_full.or_default(),
            seal,
            second_place: second_place.and_then(|section| section.check(reader)),
            place: self.place,
        })
    }
}

struct RawTarget(AuditTarget);

impl FromNode for RawTarget {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Mapping(_) => RawAuditFile::from_node(node, reader)?.check(reader).map(Self),
            _ => reader.word(node, &[("stdout", ())]).map(|()| Self(AuditTarget::Stdout)),
        }
    }
}

impl JsonSchema for RawTarget {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AuditTarget".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let file = generator.subschema_for::<RawAuditFile>();
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": ["stdout"] }, file] })
    }
}

/// An audit log in a file.
#[derive(JsonSchema)]
#[schemars(rename = "AuditFile", deny_unknown_fields, extend("required" = ["file"]))]
pub(crate) struct RawAuditFile {
    /// The file that records are appended to. A process that finds one goes on with its chain.
    file: Field<FilePath>,
    /// When the file is full. Full ones are `FILE.1`, the newest, `FILE.2` and so on; the chain runs through all of them.
    #[schemars(extend("x-default" = "never"))]
    rotate: Field<RawRotate>,
}

impl Section for RawAuditFile {
    const NAME: &'static str = "`to`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { file: keys.required("file", "write `{ file: PATH }`, or `stdout`"), rotate: keys.optional("rotate") }
    }
}

impl RawAuditFile {
    fn check(self, reader: &mut Reader) -> Option<AuditTarget> {
        let rotate = self.rotate.into_option().map(|rotate| rotate.check(reader));
        Some(AuditTarget::File { path: self.file.into_option()?.0, rotate })
    }
}

/// When the file is full.
#[derive(JsonSchema)]
#[schemars(rename = "AuditRotate", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawRotate {
    /// Bytes of a file, at least 64KiB; the seal at its end may go beyond.
    #[schemars(extend("default" = "128MiB"))]
    size: Field<Size>,
    /// Full files that stay, 1000 at most. The oldest is removed for the next one: whoever has to keep all copies them in
    /// time.
    #[schemars(extend("default" = 8))]
    keep: Field<Count>,
}

impl Section for RawRotate {
    const NAME: &'static str = "`rotate`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { size: keys.optional("size"), keep: keys.optional("keep") }
    }
}

/// A file has room for a seal and some records.
const SIZE_MIN: u64 = 64 << 10;
/// Each rotation renames all of them.
const KEEP_MAX: u32 = 1000;

impl RawRotate {
    fn check(self, reader: &mut Reader) -> Rotate {
        let defaults = Rotate::default();
        if let (Some(Size(size)), Some(place)) = (self.size.get(), self.size.place())
            && *size < SIZE_MIN
        {
            reader.problem(place, format!("`size` is {size} bytes, less than 64KiB"), "write `64KiB` or more");
        }
        if let (Some(Count(keep)), Some(place)) = (self.keep.get(), self.keep.place())
            && *keep > KEEP_MAX
        {
            let what = format!("`keep: {keep}` is more than {KEEP_MAX}");
            reader.problem(place, what, "write a greater `size`, and fewer files");
        }
        Rotate { size: self.size.or(Size(defaults.size)).0, keep: self.keep.or(Count(defaults.keep)).0 }
    }
}

struct RawChoice(Decisions);

impl FromNode for RawChoice {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.value {
            Value::Mapping(_) => Some(Self(RawDecisions::from_node(node, reader)?.check(reader))),
            _ => reader.word(node, &[("all", ())]).map(|()| Self(Decisions::default())),
        }
    }
}

impl JsonSchema for RawChoice {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AuditChoice".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let some = generator.subschema_for::<RawDecisions>();
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": ["all"] }, some] })
    }
}

/// Which decisions are recorded.
#[derive(JsonSchema)]
#[schemars(rename = "AuditDecisions", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawDecisions {
    /// Whether refusals are, and what was cut because trust or permission ended.
    #[schemars(extend("default" = true))]
    denials: Field<bool>,
    /// How much of what was allowed, chosen by chance.
    #[schemars(extend("default" = "100%"))]
    allows: Field<Percent>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawDecisions {
    const NAME: &'static str = "`decisions`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { denials: keys.optional("denials"), allows: keys.optional("allows"), place: keys.place() }
    }
}

impl RawDecisions {
    fn check(self, reader: &mut Reader) -> Decisions {
        let defaults = Decisions::default();
        let checked = Decisions {
            denials: self.denials.or(defaults.denials),
            allows_percent: self.allows.or(Percent(defaults.allows_percent)).0,
        };
        if !checked.denials && checked.allows_percent == 0 {
            let hint = "write `denials: true`, or remove `audit`";
            reader.problem(&self.place, "`decisions` has nothing that would be recorded", hint);
        }
        checked
    }
}

/// How often the chain is sealed; at each rotation and at the end of the process it is as well.
#[derive(JsonSchema)]
#[schemars(rename = "AuditSeal", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawSeal {
    /// After this time, when there was a record since the last one. What a power failure may take is about as much: the
    /// file is synchronized with its disk when it is sealed.
    #[schemars(extend("default" = "1m"))]
    every: Field<Span>,
    /// After so many records at the latest.
    #[schemars(extend("default" = 10000))]
    records: Field<Count>,
}

impl Section for RawSeal {
    const NAME: &'static str = "`seal`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { every: keys.optional("every"), records: keys.optional("records") }
    }
}

impl RawSeal {
    fn check(self) -> Seal {
        let defaults = Seal::default();
        Seal { every: self.every.or(Span(defaults.every)).0, records: self.records.or(Count(defaults.records)).0 }
    }
}

/// Where seals go as well.
#[derive(JsonSchema)]
#[schemars(rename = "AuditSecondPlace", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawSecondPlace {
    /// A file that each seal is appended to; it should lie where whoever takes this host over cannot write it anew: a
    /// volume that only appends, another machine's.
    file: Field<FilePath>,
    /// Instead of a file, an address that each seal is sent to by POST, one a request: `https://…`, or `http://` on this host.
    /// Any answer from 200 to 299 says that it is kept; it may come twice. Redirects are not followed.
    url: Field<PostUrl>,
    /// Instead of these, an OpenTelemetry collector that each seal is sent to as a log record, over OTLP/HTTP in JSON: usually
    /// `https://…:4318/v1/logs`, or `http://` on this host.
    otlp: Field<PostUrl>,
    /// PEM file with the authorities that the certificate of `url` or `otlp` may come from.
    #[schemars(extend("x-default" = "the system's"))]
    roots: Field<FilePath>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawSecondPlace {
    const NAME: &'static str = "`second_place`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            file: keys.optional("file"),
            url: keys.optional("url"),
            otlp: keys.optional("otlp"),
            roots: keys.optional("roots"),
            place: keys.place(),
        }
    }
}

impl RawSecondPlace {
    /// `None`: its problems have been told.
    fn check(self, reader: &mut Reader) -> Option<SecondPlace> {
        let is_https = [&self.url, &self.otlp].iter().any(|url| url.get().is_some_and(PostUrl::is_https));
        if let (Some(place), false) = (self.roots.place(), is_https) {
            let hint = "remove it, or write an `https://` address as `url` or `otlp`";
            reader.problem(place, "`roots` is about the certificate of an `https` address, and there is none", hint);
        }
        let keys = [("file", self.file.place()), ("url", self.url.place()), ("otlp", self.otlp.place())];
        let written: Vec<&str> = keys.iter().filter(|(_, place)| place.is_some()).map(|(key, _)| *key).collect();
        if written.len() != 1 {
            let what = match written.as_slice() {
                [first, second, ..] => format!("`second_place` has `{first}` and `{second}`"),
                _ => "`second_place` has no place".to_owned(),
            };
            reader.problem(&self.place, what, "write `{ file: PATH }`, `{ url: https://… }` or `{ otlp: https://… }`");
            return None;
        }
        let roots = self.roots.into_option().map(|file| file.0);
        let url = self.url.into_option().map(|url| (url, PostAs::Line));
        match url.or(self.otlp.into_option().map(|url| (url, PostAs::Otlp))) {
            Some((url, form)) => Some(SecondPlace::Post { url, form, roots }),
            None => self.file.into_option().map(|file| SecondPlace::File(file.0)),
        }
    }
}

impl FromNode for OnFull {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("gap", Self::Gap), ("block", Self::Block)])
    }
}

impl JsonSchema for OnFull {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OnFull".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "enum": ["gap", "block"] })
    }
}
