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

/// What an answer says: the parts that were rejected and why, or how it is not one of the protocol, as the end of a
/// sentence that begins with
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
    /// `path` is that of the protocol, beginning with `/`, which the configuration can replace; `headers` say what
    /// bodies are.
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::SocketAddr;
    use std::path::Path;
    use std::sync::Arc;

    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::daemon::config::Config;

    /// What servers here answer with when they are honest.
    const TAKEN: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/taken\r\ncontent-length: 5\r\n\r\ntaken";

    fn config(address: SocketAddr, more: &str) -> Export {
        config_of("http", address, more)
    }

    fn config_of(scheme: &str, address: SocketAddr, more: &str) -> Export {
        let port = address.port();
        let text = format!(
            "[[export]]\nname = \"test\"\nprotocol = \"pyroscope\"\nurl = \"{scheme}://localhost:{port}/base/\"\ntimeout = \"2s\"\n{more}"
        );
        toml::from_str::<Config>(&text).unwrap().export.remove(0)
    }

    async fn posted(config: &Export) -> Outcome {
        let http = Http::new(config, "/protocol", &[(CONTENT_TYPE, "text/body")]).unwrap();
        http.post(Bytes::from_static(b"the body"), |answer| match (&*answer.content_type, &*answer.body) {
            ("text/taken", b"taken") => Ok((0, None)),
            _ => Err("with something else".to_owned()),
        })
        .await
    }

    /// Reads a request, and says it.
    async fn request(stream: &mut (impl AsyncRead + Unpin)) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"the body") {
            let mut some = [0; 1024];
            match stream.read(&mut some).await.unwrap_or(0) {
                0 => break,
                read => text.extend_from_slice(&some[..read]),
            }
        }
        String::from_utf8(text).unwrap()
    }

    /// A server for one request, which is answered with these bytes, over and over when it `drips`.
    async fn server(answer: impl Into<Vec<u8>>, drips: bool) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = answer.into();
        let serving = tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap().0;
            let request = request(&mut stream).await;
            while stream.write_all(&answer).await.is_ok() && drips {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            request
        });
        (address, serving)
    }

    async fn outcome(answer: &str) -> Outcome {
        posted(&config(server(answer, false).await.0, "")).await
    }

    fn is_later(outcome: &Outcome, wanted: &str) -> bool {
        matches!(outcome, Outcome::Later { status, .. } if status == wanted)
    }

    #[tokio::test]
    async fn a_request_has_what_the_configuration_says() {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        fs::write(&token, "secret\n").unwrap();
        let (address, serving) = server(TAKEN, false).await;
        let more = format!("tenant = \"us\"\ntoken_file = \"{}\"\nheaders = {{ x-more = \"yes\" }}", token.display());
        let config = config(address, &more);
        assert_eq!(posted(&config).await, Outcome::Taken { rejected: 0, why: None });
        let request = serving.await.unwrap().to_ascii_lowercase();
        assert!(request.starts_with("post /base/protocol http/1.1\r\n"), "{request}");
        for header in ["x-scope-orgid: us", "authorization: bearer secret", "x-more: yes", "content-type: text/body"] {
            assert!(request.contains(&format!("{header}\r\n")), "{header} is not in {request}");
        }
        let http = Http::new(&config, "/", &[]).unwrap();
        assert!(!format!("{http:?}").contains("yes"));

        fs::remove_file(&token).unwrap();
        let gone = posted(&config).await;
        assert!(is_later(&gone, "credentials"), "{gone:?}");
        fs::write(&token, "two\nlines").unwrap();
        assert!(is_later(&posted(&config).await, "credentials"));
    }

    #[tokio::test]
    async fn a_status_tells_whether_a_body_is_tried_again() {
        for status in [400, 404, 405, 413, 422] {
            let outcome = outcome(&format!("HTTP/1.1 {status} No\r\ncontent-length: 9\r\n\r\nbad \x1b[31m!")).await;
            let Outcome::Refused { status: told, why } = outcome else { panic!("{status}: {outcome:?}") };
            assert_eq!(told, status.to_string());
            assert!(why.contains("bad") && !why.contains('\x1b'), "{why:?}");
        }
        for status in [204, 301, 302, 401, 403, 407, 408, 425, 429, 500, 502, 503, 504] {
            let answer =
                format!("HTTP/1.1 {status} No\r\nlocation: /else\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n");
            let outcome = outcome(&answer).await;
            let Outcome::Later { status: told, after, .. } = outcome else { panic!("{status}: {outcome:?}") };
            assert_eq!((told, after), (status.to_string(), Some(Duration::from_secs(7))));
        }
    }

    #[tokio::test]
    async fn an_answer_that_lies_is_not_believed() {
        for lie in [
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 5\r\n\r\ntaken",
            "HTTP/1.1 200 OK\r\ncontent-type: text/taken\r\ncontent-length: 5\r\n\r\nwhat?",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-type: text/taken\r\ncontent-length: 50\r\n\r\ntaken",
            "HTTP/1.1 200 OK\r\ncontent-type: text/taken\r\ntransfer-encoding: chunked\r\n\r\n5\r\ntaken\r\n",
            "HTTP/1.1 200 OK\r\ncontent-type: text/taken\r\ncontent-length: nine\r\n\r\ntaken",
        ] {
            let outcome = outcome(lie).await;
            assert!(matches!(outcome, Outcome::Later { .. }), "{lie}: {outcome:?}");
        }
        for nothing in ["", "HTTP/1.1 200", "garbage\r\n\r\n", "HTTP/2 200 OK\r\n\r\n"] {
            let outcome = outcome(nothing).await;
            assert!(is_later(&outcome, "connection"), "{nothing}: {outcome:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_waited_for() {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/taken\r\n\r\n";
        let (address, serving) = server(head.to_owned() + &"x".repeat(10_000), true).await;
        assert!(is_later(&posted(&config(address, "")).await, "answer"));
        serving.abort();
        for drop in ["x", "HTTP/1.1 100 Continue\r\n\r\n"] {
            let (address, serving) = server(drop, true).await;
            let slow = config(address, "").clone();
            let outcome = posted(&Export { timeout: Duration::from_millis(200), ..slow }).await;
            assert!(matches!(outcome, Outcome::Later { .. }), "{outcome:?}");
            serving.abort();
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said_without_the_url() {
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let Outcome::Later { status, why, .. } = posted(&config(address, "")).await else { panic!("it was taken") };
        assert_eq!(status, "connection");
        assert!(why.contains("refused") && !why.contains("/base"), "{why}");
    }

    #[test]
    fn seconds_and_times_to_wait_are_understood() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, wanted) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("301", Some(300)),
            ("99999999999999999999999", Some(300)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Sat, 06 Nov 2094 08:49:37 GMT", Some(300)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(wait(value, now), wanted.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_is_said_at_once_and_no_secret_with_it() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let wrong = |url: &str, more: &str| {
            let config = Export { url: url.to_owned(), ..config(address, more) };
            let error = format!("{:#}", Http::new(&config, "/", &[]).unwrap_err());
            assert!(!error.contains("secret"), "{error}");
            error
        };
        assert!(wrong("ftp://host", "").contains("http://"));
        assert!(wrong("https://me:secret@host", "").contains("header_files"));
        wrong("host:80", "");
        wrong("http://host/?token=secret", "");
        assert!(wrong("http://host", "headers = { \"a b\" = \"secret\" }").contains("a b"));
        assert!(wrong("http://host", "headers = { a = \"secret\\n\" }").contains("no header"));
        assert!(wrong("http://host", "headers = { Content-Type = \"secret\" }").contains("content-type"));
        assert!(
            wrong("http://host", "headers = { authorization = \"secret\" }\ntoken_file = \"/x\"").contains("twice")
        );
        assert!(wrong("https://host", "tls = { ca_file = \"/nowhere.pem\" }").contains("/nowhere.pem"));
        assert!(wrong("https://host", "tls = { ca_file = \"/dev/null\" }").contains("no certificate"));
        assert!(wrong("https://host", "tls = { key_file = \"/dev/null\" }").contains("both"));
    }

    /// An authority, with certificates that it has signed for a server and for us, in PEM files.
    fn certificates(directory: &Path) -> Arc<rustls::ServerConfig> {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
        choose_cryptography();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
        let signed = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &authority).unwrap(), key)
        };
        let (certificate, key) = signed("us");
        fs::write(directory.join("us.pem"), certificate.pem()).unwrap();
        fs::write(directory.join("us.key"), key.serialize_pem()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder(roots.into()).build().unwrap();
        let (certificate, key) = signed("localhost");
        let key = key.serialize_der().try_into().unwrap();
        let server = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
        server.with_single_cert(vec![certificate.der().clone()], key).unwrap().into()
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
        request(&mut stream).await;
        let _ = stream.write_all(TAKEN.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    #[tokio::test]
    async fn both_sides_prove_who_they_are() {
        let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let acceptor = tokio_rustls::TlsAcceptor::from(certificates(ours.path()));
        certificates(others.path());
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream).await;
                }
            }
        });
        let tls = |ca: &Path, identity: Option<&Path>| {
            let mut tls = format!("ca_file = \"{}/ca.pem\"", ca.display());
            if let Some(path) = identity.map(Path::display) {
                tls += &format!(", certificate_file = \"{path}/us.pem\", key_file = \"{path}/us.key\"");
            }
            config_of("https", address, &format!("tls = {{ {tls} }}"))
        };
        let taken = posted(&tls(ours.path(), Some(ours.path()))).await;
        assert_eq!(taken, Outcome::Taken { rejected: 0, why: None });
        let Outcome::Later { why, .. } = posted(&tls(others.path(), Some(ours.path()))).await else { panic!("taken") };
        assert!(why.contains("invalid peer certificate"), "{why}");
        for identity in [None, Some(others.path())] {
            let outcome = posted(&tls(ours.path(), identity)).await;
            assert!(matches!(outcome, Outcome::Later { .. }), "{outcome:?}");
        }
        serving.abort();
    }
}
