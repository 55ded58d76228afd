//! `mode:` of a port or a route: what comes of a rule's no.

use crate::read::{FromNode, Reader};
use crate::yaml::Node;
use schemars::JsonSchema;

/// What comes of what the rules of a port or route say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Mode {
    /// What they refuse is refused.
    #[default]
    Enforce,
    /// What they refuse is counted, recorded, and let through.
    Observe,
    /// They are not asked.
    Off,
}

impl Mode {
    /// As it is written in the file, and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Off => "off",
        }
    }
}

impl FromNode for Mode {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("enforce", Self::Enforce), ("observe", Self::Observe), ("off", Self::Off)])
    }
}
