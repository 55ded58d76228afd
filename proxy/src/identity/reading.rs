//! What would be believed of bytes from outside, without a source around it: for properties that hold for any bytes.

use super::file_content::{FileContents, FilePaths, Sequences, check_contents};
use super::message::{Update, check_svids};
use super::proto::X509svidResponse;
use super::snapshot::{Bundle, Svid};
use crate::tls::Strictness;
use postern_config::TrustDomain;
use prost::Message;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// What an update would put in the place of what we have.
pub struct Believed {
    pub svids: Vec<Svid>,
    pub bundles: HashMap<TrustDomain, Arc<Bundle>>,
    /// Bundles that were there and are not taken.
    pub refused: Vec<TrustDomain>,
}

impl From<Update> for Believed {
    fn from(update: Update) -> Self {
        Self { svids: update.svids, bundles: update.bundles, refused: update.refused }
    }
}

/// A message of `FetchX509SVID`, as it comes off the wire.
///
/// # Errors
/// It is discarded; in words.
pub fn workload_message(bytes: &[u8], now: SystemTime) -> Result<Believed, String> {
    let message = X509svidResponse::decode(bytes).map_err(|error| error.to_string())?;
    check_svids(message, now, Strictness::Strict).map(Into::into).map_err(|fault| fault.to_string())
}

/// The contents of the three files of an identity. `is_json`: the bundle is in SPIFFE's format.
///
/// # Errors
/// They are not used; in words.
pub fn pem_files(contents: [&[u8]; 3], is_json: bool, now: SystemTime) -> Result<Believed, String> {
    let paths = FilePaths {
        certificate: PathBuf::from("svid.pem"),
        key: PathBuf::from("key.pem"),
        bundle: PathBuf::from(if is_json { "bundle.json" } else { "bundle.pem" }),
        federated: Vec::new(),
    };
    let contents = FileContents::of(&contents);
    let update = check_contents(&paths, contents, &mut Sequences::new(), now, Strictness::Strict);
    update.map(Into::into).map_err(|fault| fault.to_string())
}
