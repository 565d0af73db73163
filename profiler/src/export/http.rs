//! Requests over HTTP.

use std::error::Error;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use prost::bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Identity, StatusCode, Url, redirect};

use super::credentials::{Credentials, TlsFiles, choose_cryptography};
use super::endpoint::{self, Outcome};
use crate::daemon::config::Export;
use crate::format::label::printable;

/// Most of an answer that is read.
const ANSWER_LIMIT: usize = 64 << 10;

/// Most of an answer that is told.
const TOLD_LIMIT: usize = 300;

/// The longest that an endpoint can make us wait.
pub const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// The whole answer to a request that succeeded, as it says.
#[derive(Debug)]
pub struct Answer {
    /// Without parameters, in lower case; empty when there is none.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// What an answer says: the parts that were rejected and why, or how it is not one of the protocol, as the end of a sentence that begins with
/// "The endpoint has answered".
pub type Understood = Result<(u64, Option<String>), String>;

/// Where requests are sent, and with what.
#[derive(Debug)]
pub struct Http {
    client: Client,
    url: Url,
    headers: HeaderMap,
    credentials: Credentials,
    timeout: Duration,
}

impl Http {
    /// `path` is that of the protocol, beginning with `/`, which the configuration can replace; `headers` say what bodies are.
    ///
    /// # Errors
    /// When the configuration cannot be, or a certificate cannot be read.
    pub fn new(config: &Export, path: &str, headers: &[(HeaderName, &'static str)]) -> anyhow::Result<Http> {
        let mut url = endpoint::url(config)?;
        let path = config.path.as_deref().unwrap_or(path).trim_start_matches('/');
        let path = format!("{}/{path}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        let client = client(config, url.scheme() == "https")?;
        Ok(Http { client, url, headers, credentials: Credentials::new(config)?, timeout: config.timeout })
    }

    /// Sends a body. `understand` tells what an answer with status 200 says.
    pub async fn post(&self, body: Bytes, understand: impl FnOnce(&Answer) -> Understood + Send) -> Outcome {
        match tokio::time::timeout(self.timeout, self.try_post(body, understand)).await {
            Ok(outcome) => outcome,
            Err(_) => later("timeout", format!("The endpoint has not answered completely within {:?}", self.timeout)),
        }
    }

    async fn try_post(&self, body: Bytes, understand: impl FnOnce(&Answer) -> Understood + Send) -> Outcome {
        let credentials = match self.credentials.headers().await {
            Ok(credentials) => credentials,
            Err(why) => return later("credentials", why),
        };
        let request = self.client.post(self.url.clone()).headers(credentials).headers(self.headers.clone()).body(body);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return later("connection", format!("The request could not be sent: {}", causes(error))),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(None) => break,
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_LIMIT => body.extend_from_slice(&chunk),
                // Enough of an error to be told.
                _ if status != StatusCode::OK => break,
                Ok(Some(_)) => {
                    return later("answer", format!("The endpoint has answered with more than {ANSWER_LIMIT} bytes"));
                }
                Err(error) => return later("answer", format!("The answer could not be read: {}", causes(error))),
            }
        }
        if status != StatusCode::OK {
            return failed(status, &headers, &body);
        }
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match understand(&Answer { content_type, body }) {
            Ok((rejected, why)) => Outcome::Taken { rejected, why },
            Err(why) => later("answer", format!("The endpoint has answered {why}")),
        }
    }
}

fn client(config: &Export, encrypted: bool) -> anyhow::Result<Client> {
    choose_cryptography();
    // What environment variables say of proxies, and where a redirect points to, is not what the configuration says.
    let mut client = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .retry(reqwest::retry::never())
        .pool_max_idle_per_host(1)
        .user_agent(concat!("luaflame/", env!("CARGO_PKG_VERSION")));
    let TlsFiles { authorities, identity } = TlsFiles::read(&config.tls)?;
    client = match authorities {
        Some(authorities) => {
            let authorities =
                Certificate::from_pem_bundle(&authorities).context("`ca_file` is not a PEM file of certificates")?;
            anyhow::ensure!(!authorities.is_empty(), "`ca_file` holds no certificate in PEM");
            client.tls_certs_only(authorities)
        }
        // The system's are read where they are needed.
        None if encrypted => client,
        None => client.tls_certs_only([]),
    };
    if let Some((certificate, key)) = identity {
        let identity = Identity::from_pem(&[certificate, b"\n".to_vec(), key].concat());
        let identity = identity.map_err(|_| {
            anyhow::anyhow!("`certificate_file` and `key_file` are not a certificate and its key in PEM")
        })?;
        client = client.identity(identity);
    }
    client.build().context("There is no way to speak TLS with these certificates")
}

fn failed(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Outcome {
    let said = said(&String::from_utf8_lossy(body));
    let why = if said.is_empty() { format!("{status}") } else { format!("{status}: {said}") };
    let status_text = status.as_u16().to_string();
    let is_later = matches!(status.as_u16(), 401 | 403 | 407 | 408 | 425 | 429);
    match status.is_client_error() && !is_later {
        true => Outcome::Refused { status: status_text, why },
        false => {
            let after = headers.get(RETRY_AFTER).and_then(|value| wait(value.to_str().ok()?, SystemTime::now()));
            Outcome::Later { status: status_text, why, after }
        }
    }
}

/// What `Retry-After` asks for: seconds, or a time.
fn wait(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if !value.is_empty() && value.bytes().all(|digit| digit.is_ascii_digit()) => LONGEST_WAIT,
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(LONGEST_WAIT))
}

/// What an endpoint says, fit to be told.
pub fn said(text: &str) -> String {
    printable(text.trim(), TOLD_LIMIT)
}

fn later(status: &str, why: String) -> Outcome {
    Outcome::Later { status: status.to_owned(), why, after: None }
}

/// All that is known of an error, without the URL.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    said(&text)
}
