//! Who may ask.
//!
//! A server that only this host reaches is open to its users, but not to pages of other origins in their browsers: a page whose name is
//! made to resolve to this host says its name in `Host`. Any other server wants a token or a certificate.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::reply::Refusal;
use super::{Listen, Service};

/// Fewest characters of a token: what can be guessed protects nothing.
const SHORTEST_TOKEN: usize = 16;

/// Who may ask, and how they prove who they are.
#[derive(Debug)]
pub(super) struct Access {
    /// Of the token that each request must have, its digest, which all are of one length.
    token: Option<[u8; 32]>,
    /// The names of this host that requests may be for, where nothing else tells who asks.
    hosts: Option<Vec<String>>,
    /// How TLS is spoken, if it is.
    pub(super) tls: Option<Arc<ServerConfig>>,
}

impl Access {
    /// What a configuration demands.
    ///
    /// # Errors
    /// When it would open the daemon to everybody, or a file that it names cannot be used.
    pub(super) fn of(config: &Listen) -> anyhow::Result<Access> {
        let address = config.address.ip();
        let proves = config.token_file.is_some() || config.client_ca_file.is_some();
        ensure!(
            proves || address.is_loopback(),
            "[listen] address {} can be reached from other hosts, and nothing says who may ask: set token_file, or \
             certificate_file, key_file and client_ca_file, or listen on 127.0.0.1",
            config.address
        );
        let token = config.token_file.as_deref().map(token).transpose()?;
        let hosts = (!proves).then(|| {
            let mut hosts = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).to_vec();
            hosts.push(if address.is_ipv6() { format!("[{address}]") } else { address.to_string() });
            hosts
        });
        let tls = match (&config.certificate_file, &config.key_file) {
            (Some(certificate), Some(key)) => Some(Arc::new(tls(certificate, key, config.client_ca_file.as_deref())?)),
            (None, None) if config.client_ca_file.is_none() => None,
            (None, None) => {
                bail!("[listen] client_ca_file needs certificate_file and key_file: clients show certificates over TLS")
            }
            _ => bail!("[listen] certificate_file and key_file belong together, and only one of them is set"),
        };
        Ok(Access { token: token.map(|token| digest(token.as_bytes())), hosts, tls })
    }

    /// # Errors
    /// Why the request is refused.
    fn check(&self, host: Option<&str>, headers: &HeaderMap) -> Result<(), Refusal> {
        if let Some(hosts) = &self.hosts {
            let name = host.map(without_port);
            if !name.is_some_and(|name| hosts.iter().any(|host| host.eq_ignore_ascii_case(name))) {
                return Err(Refusal::forbidden(
                    "this is open to this host only: ask for it by the name localhost or by its address",
                ));
            }
        }
        let Some(token) = &self.token else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| given_token(value.to_str().ok()?));
        let is_right = given.is_some_and(|given| bool::from(digest(&given).ct_eq(token)));
        if is_right { Ok(()) } else { Err(Refusal::unknown()) }
    }
}

/// Lets a request through, or not.
pub(super) async fn only_who_may(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let host = match request.uri().host() {
        Some(host) => Some(host),
        None => request.headers().get(header::HOST).and_then(|host| host.to_str().ok()),
    };
    match service.access.check(host, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// The token of `Bearer TOKEN`, or the password of `Basic ...`.
fn given_token(authorization: &str) -> Option<Vec<u8>> {
    let (scheme, rest) = authorization.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().into());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(rest.trim()).ok()?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

fn token(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("the token in {} cannot be read", path.display()))?;
    let token = text.trim();
    ensure!(
        token.len() >= SHORTEST_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic()),
        "{} holds no token: put one line of at least {SHORTEST_TOKEN} letters and digits there, such as `openssl rand -hex 32` \
         prints",
        path.display()
    );
    Ok(token.to_owned())
}

fn tls(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> anyhow::Result<ServerConfig> {
    let certificates = certificates(certificate)?;
    let key_of = |path: &Path| PrivateKeyDer::from_pem_file(path);
    let private = key_of(key).with_context(|| format!("{} holds no private key that can be read", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match client_ca {
        None => Arc::new(NoClientAuth),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in self::certificates(path)? {
                let added = roots.add(certificate);
                added.with_context(|| format!("a certificate in {} is of no authority", path.display()))?;
            }
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .with_context(|| format!("clients cannot be verified with {}", path.display()))?
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, private)
        .with_context(|| format!("{} and {} are not of each other", certificate.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.with_context(|| format!("the certificates in {} cannot be read", path.display()))?;
    ensure!(!certificates.is_empty(), "{} holds no certificate: it must be a PEM file", path.display());
    Ok(certificates)
}
