//! Who we are to an endpoint, and how it proves who it is. None of it is in what `Debug` writes or in errors.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use tokio::io::AsyncReadExt;

use crate::daemon::config::{ClientTls, Export};

/// Longest value of a header that is read from a file.
const VALUE_LIMIT: u64 = 64 << 10;

/// The headers, or metadata, of each request.
#[derive(Clone)]
pub struct Credentials {
    fixed: HeaderMap,
    /// Those whose values are in files, with what goes before them.
    files: Arc<[(HeaderName, &'static str, PathBuf)]>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Those of a configuration. Files are not read yet.
    ///
    /// # Errors
    /// When a name is not one of a header, is given twice, or is one that the protocol sets itself, or a value is
    /// not one of a header.
    pub fn new(config: &Export) -> anyhow::Result<Credentials> {
        let mut fixed = HeaderMap::new();
        let mut files: Vec<(HeaderName, &'static str, PathBuf)> = Vec::new();
        let mut put = |name: HeaderName, value: &str| {
            let value = HeaderValue::from_str(value);
            let mut value =
                value.with_context(|| format!("The value of the header {name} has characters of no header"))?;
            value.set_sensitive(true);
            ensure!(fixed.insert(&name, value).is_none(), "The header {name} is given twice");
            Ok(())
        };
        for (name, value) in &config.headers {
            put(header_name(name)?, value)?;
        }
        if let Some(tenant) = &config.tenant {
            put(HeaderName::from_static("x-scope-orgid"), tenant)?;
        }
        let named = config.header_files.iter().map(|(name, path)| anyhow::Ok((header_name(name)?, "", path.clone())));
        let token = config.token_file.iter().map(|path| anyhow::Ok((AUTHORIZATION, "Bearer ", path.clone())));
        for file in named.chain(token) {
            let file = file?;
            let again = fixed.contains_key(&file.0) || files.iter().any(|(name, ..)| *name == file.0);
            ensure!(!again, "The header {} is given twice", file.0);
            files.push(file);
        }
        Ok(Credentials { fixed, files: files.into() })
    }

    /// The headers as they are now: files are read anew each time, since whoever renews a token writes a new one.
    ///
    /// # Errors
    /// A sentence, when a file cannot be read or does not hold a value of a header.
    pub async fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = self.fixed.clone();
        for (name, before, path) in &*self.files {
            let told =
                |error: &dyn fmt::Display| format!("The header {name} cannot be read from {}: {error}", path.display());
            let text = read(path).await.map_err(|error| told(&error))?;
            let text = text.trim_ascii();
            if text.is_empty() {
                return Err(told(&"the file is empty"));
            }
            let value = [before.as_bytes(), text].concat();
            let mut value =
                HeaderValue::from_bytes(&value).map_err(|_| told(&"the file holds characters of no header"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    tokio::fs::File::open(path).await?.take(VALUE_LIMIT).read_to_end(&mut text).await?;
    Ok(text)
}

fn header_name(name: &str) -> anyhow::Result<HeaderName> {
    let name: HeaderName = name.parse().with_context(|| format!("{name:?} is not the name of a header"))?;
    let ours = ["content-type", "content-length", "content-encoding", "transfer-encoding", "connection", "te"];
    let is_ours = ours.contains(&name.as_str()) || name.as_str().starts_with("grpc-");
    ensure!(!is_ours, "The header {name} is one that the protocol sets");
    Ok(name)
}

/// The contents of the files of [`ClientTls`], in PEM.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Certificates of authorities that are believed in place of the system's.
    pub authorities: Option<Vec<u8>>,
    /// Our certificate, and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for TlsFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.debug_struct("TlsFiles").finish_non_exhaustive()
    }
}

impl TlsFiles {
    /// Reads them.
    ///
    /// # Errors
    /// When one cannot be read, or there is a certificate without a key or a key without a certificate.
    pub fn read(config: &ClientTls) -> anyhow::Result<TlsFiles> {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
        let identity = match (&config.certificate_file, &config.key_file) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            (None, None) => None,
            _ => anyhow::bail!("`certificate_file` and `key_file` are of no use without each other: give both or none"),
        };
        Ok(TlsFiles { authorities: config.ca_file.as_deref().map(read).transpose()?, identity })
    }
}

/// Makes `ring` what TLS computes with in this program, unless something has been chosen.
pub fn choose_cryptography() {
    // Somebody else may be as fast.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
