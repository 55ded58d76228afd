//! What tells one policy from every other.

use crate::authz::Labels;
use postern_config::Config;

/// Labels decide, and need not stand in the file.
pub(super) fn digest(config: &Config, labels: &Labels) -> String {
    let mut text = config.effective_json().to_string();
    for (name, value) in labels.iter() {
        text.push_str(&format!("\n{name:?}={value:?}"));
    }
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
