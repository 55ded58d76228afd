//! Of files, whatever stands in them, an identity is believed whole or not at all.

use super::fixtures::now;
use super::workload_message::all_verify;
use postern::identity::reading::pem_files;

/// The three files stand one behind the other, with a NUL between them.
pub(super) fn check(bytes: &[u8]) {
    let mut files = bytes.splitn(3, |byte| *byte == 0);
    let mut next = || files.next().unwrap_or_default();
    let contents = [next(), next(), next()];
    for is_json in [false, true] {
        if let Ok(believed) = pem_files(contents, is_json, now()) {
            assert_eq!(believed.svids.len(), 1, "files hold one identity");
            all_verify(&believed);
        }
    }
}
