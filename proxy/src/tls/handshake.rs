//! One mTLS handshake as rustls sees it: verifier and certificate resolver for one snapshot, with the verdict kept.
//!
//! rustls takes only its own error from a verifier; the exact reason stays in here until `mesh` takes it out. Whatever
//! is held (snapshot, key) is let go when the handshake is over: a rustls client keeps its configuration, and with it
//! this object, for the life of the connection.

use crate::identity::{Snapshot, Svid};
use crate::tls::error::TlsError;
use crate::tls::peer::{Peer, Role};
use crate::tls::verified::Asked;
use crate::tls::verifier::Strictness;
use postern_config::{SpiffeId, SpiffePattern};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

pub struct Handshake {
    algorithms: WebPkiSupportedAlgorithms,
    /// Locked a few times in a handshake, by its own task only. `None`: over.
    state: Mutex<Option<State>>,
}

struct State {
    snapshot: Arc<Snapshot>,
    /// `None`: a client that shows no certificate.
    own: Option<Arc<CertifiedKey>>,
    expected: Expected,
    strictness: Strictness,
    verdict: Option<Result<Arc<Peer>, TlsError>>,
    /// What the snapshot may remember of the verdict, once the other side has proven that it has the key.
    unproven: Option<Asked>,
}

/// Whom the other side may be, beyond being verified.
pub enum Expected {
    /// A server admits whoever is verified: `authz` decides what they may.
    Anyone,
    /// A client accepts these alone (SPIFFE checklist A2.31).
    OneOf(Vec<SpiffePattern>),
    Exactly(SpiffeId),
}

impl Handshake {
    pub fn new(
        provider: &CryptoProvider,
        snapshot: &Arc<Snapshot>,
        svid: &Svid,
        expected: Expected,
        strictness: Strictness,
    ) -> Arc<Self> {
        Self::with(provider, snapshot, Some(svid.certified.clone()), expected, strictness)
    }

    /// For a client that shows no certificate.
    pub fn anonymous(
        provider: &CryptoProvider,
        snapshot: &Arc<Snapshot>,
        expected: Expected,
        strictness: Strictness,
    ) -> Arc<Self> {
        Self::with(provider, snapshot, None, expected, strictness)
    }

    fn with(
        provider: &CryptoProvider,
        snapshot: &Arc<Snapshot>,
        own: Option<Arc<CertifiedKey>>,
        expected: Expected,
        strictness: Strictness,
    ) -> Arc<Self> {
        let state = State { snapshot: snapshot.clone(), own, expected, strictness, verdict: None, unproven: None };
        Arc::new(Self { algorithms: provider.signature_verification_algorithms, state: Mutex::new(Some(state)) })
    }

    /// Ends it: lets snapshot and key go, and hands out the verdict. `None`: the verifier was never asked.
    pub fn finish(&self) -> Option<Result<Arc<Peer>, TlsError>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).take()?.verdict
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = state.as_mut() else {
            return Err(rustls::Error::General("a certificate was presented after the handshake".to_owned()));
        };
        let chain: Vec<_> =
            std::iter::once(leaf).chain(intermediates).map(|der| CertificateDer::from(der.as_ref())).collect();
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
        let (verdict, told) = match state.snapshot.verify(&chain, role, now, state.strictness) {
            Ok((peer, asked)) => match state.expected.check(&peer) {
                Ok(()) => {
                    state.unproven = asked;
                    (Ok(peer), Ok(()))
                }
                Err(error) => (Err(error), Err(CertificateError::ApplicationVerificationFailure)),
            },
            Err(error) => {
                let told = error.certificate_error();
                (Err(TlsError::Verify(error)), Err(told))
            }
        };
        state.verdict = Some(verdict);
        told.map_err(rustls::Error::InvalidCertificate)
    }

    /// The signature over the handshake (RFC 8446 §4.4.3), by the key of the leaf.
    fn check_key(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = rustls::crypto::verify_tls13_signature(message, leaf, signature, &self.algorithms)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = state.as_mut()
            && let (Some(asked), Some(Ok(peer))) = (state.unproven.take(), &state.verdict)
        {
            state.snapshot.remember(asked, peer);
        }
        Ok(valid)
    }

    fn own(&self) -> Option<Arc<CertifiedKey>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|state| state.own.clone())
    }
}

impl Expected {
    fn check(&self, peer: &Peer) -> Result<(), TlsError> {
        let expected = match self {
            Self::Anyone => return Ok(()),
            Self::OneOf(patterns) if patterns.iter().any(|pattern| pattern.matches(&peer.id)) => return Ok(()),
            Self::Exactly(id) if *id == peer.id => return Ok(()),
            Self::OneOf(patterns) => patterns.iter().map(SpiffePattern::to_string).collect::<Vec<_>>().join(", "),
            Self::Exactly(id) => id.to_string(),
        };
        Err(TlsError::WrongIdentity { found: peer.id.clone(), expected })
    }
}

impl ClientCertVerifier for Handshake {
    /// RFC 8446 §4.4.2: without a certificate the handshake fails with `certificate_required`.
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// No hints: a peer has one identity for us, and our list of roots is nobody's business.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, Role::Client, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_key(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Handshake {
    /// `server_name` is a placeholder: the SPIFFE ID alone says who answers.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, Role::Server, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_key(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ResolvesServerCert for Handshake {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.own()
    }
}

impl ResolvesClientCert for Handshake {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.own()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// rustls asks for it; nothing in here is for printing.
impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handshake")
    }
}
