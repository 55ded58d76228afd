//! `credential:` of a service: what requests take along besides our certificate.

use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::spiffe_id::SpiffeId;
use crate::values::At;
use crate::yaml::{Node, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// What requests take along besides our certificate. The application never has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// A JWT-SVID of ours, in `Authorization` (JWT-SVID §5.2).
    JwtSvid {
        /// `None`: the SPIFFE ID of the peer that was proven.
        audience: Option<String>,
        app_token: AppToken,
        /// Who answers is not who the token is for, and passes requests on.
        passed_on: bool,
    },
}

/// What becomes of an `Authorization` that the application wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum AppToken {
    /// It is removed, and counted.
    #[default]
    Replace,
    /// The request is refused.
    Refuse,
}

impl AppToken {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Refuse => "refuse",
        }
    }
}

impl FromNode for AppToken {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("replace", Self::Replace), ("refuse", Self::Refuse)])
    }
}

/// A kind of credential by its name, or a mapping with the one kind and its keys.
#[derive(Debug)]
pub(crate) struct RawCredential(pub Credential);

impl FromNode for RawCredential {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let credential = match &node.value {
            Value::Mapping(_) => RawCredentialKinds::from_node(node, reader)?.jwt_svid.into_option()?.check(reader)?,
            _ => {
                reader.word(node, &[("jwt_svid", ())])?;
                Credential::JwtSvid { audience: None, app_token: AppToken::default(), passed_on: false }
            }
        };
        Some(Self(credential))
    }
}

impl JsonSchema for RawCredential {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "CredentialKind".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kinds = generator.subschema_for::<RawCredentialKinds>();
        json_schema!({ "anyOf": [{ "type": "string", "enum": ["jwt_svid"] }, kinds] })
    }
}

/// What requests take along besides our certificate.
#[derive(JsonSchema)]
#[schemars(rename = "Credential", deny_unknown_fields, extend("required" = ["jwt_svid"]))]
pub(crate) struct RawCredentialKinds {
    /// A JWT-SVID of ours, from the Workload API, as `Authorization: Bearer …`.
    jwt_svid: Field<RawJwtSvid>,
}

impl Section for RawCredentialKinds {
    const NAME: &'static str = "`credential`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self { jwt_svid: keys.required("jwt_svid", "write `credential: jwt_svid`, or `jwt_svid:` with its keys below") }
    }
}

/// A JWT-SVID that requests take along. It is sent only to a peer that has proven who it is.
#[derive(JsonSchema)]
#[schemars(rename = "JwtSvid", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawJwtSvid {
    /// For whom the token is. One that is the peer's alone: whom it is shown to could show it to others else.
    #[schemars(extend("x-default" = "the SPIFFE ID of the peer that answers"))]
    audience: Field<At<String>>,
    /// What becomes of an `Authorization` that the application wrote: `replace` it, or `refuse` the request with 400.
    #[schemars(extend("default" = "replace"))]
    app_token: Field<AppToken>,
    /// The peer that answers is not the workload that `audience` names, and passes requests on to it, as a gateway does.
    #[schemars(extend("default" = false))]
    passed_on: Field<bool>,
}

impl Section for RawJwtSvid {
    const NAME: &'static str = "`jwt_svid`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            audience: keys.optional("audience"),
            app_token: keys.optional("app_token"),
            passed_on: keys.optional("passed_on"),
        }
    }
}

impl RawJwtSvid {
    fn check(self, reader: &mut Reader) -> Option<Credential> {
        let audience = match self.audience.is_written() {
            true => Some(self.audience.into_option()?),
            false => None,
        };
        if let Some(At { value, place }) = &audience
            && SpiffeId::parse(value).is_ok_and(|id| id.path().is_empty())
        {
            // JWT-SVID §7.2.
            let hint = "write the SPIFFE ID of the workload that answers, or remove `audience`";
            reader.problem(place, format!("the audience `{value}` is a whole trust domain"), hint);
        }
        Some(Credential::JwtSvid {
            audience: audience.map(|it| it.value),
            app_token: self.app_token.or_default(),
            passed_on: self.passed_on.or(false),
        })
    }
}
