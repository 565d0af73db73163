//! Calls over gRPC, whose messages are bytes that have been encoded before.

use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes};
use reqwest::header::HeaderMap;
use tonic::client::Grpc as Client;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use super::credentials::{Credentials, TlsFiles, choose_cryptography};
use super::endpoint::{self, Outcome};
use super::http::{LONGEST_WAIT, Understood, said};
use crate::daemon::config::Export;
use crate::profile::window::ProcessProfile;

/// Most of an answer that is read.
const ANSWER_LIMIT: usize = 64 << 10;

/// The most that a message takes, unless it is of one process: servers take 4 MiB unless they are told otherwise.
const BODY_LIMIT: usize = 3 << 20;

/// Processes in as few messages as they fit in.
pub fn bodies(processes: &[&ProcessProfile], encode: &impl Fn(&[&ProcessProfile]) -> Vec<u8>) -> Vec<Vec<u8>> {
    if processes.is_empty() {
        return Vec::new();
    }
    let body = encode(processes);
    if body.len() <= BODY_LIMIT || processes.len() == 1 {
        return vec![body];
    }
    let (first, second) = processes.split_at(processes.len() / 2);
    [bodies(first, encode), bodies(second, encode)].concat()
}

/// A method of a service, and with what it is called.
#[derive(Debug)]
pub struct Grpc {
    server: Endpoint,
    /// The connection, while the last call over it has been answered: one that may be dead is not used again.
    channel: Mutex<Option<Channel>>,
    method: PathAndQuery,
    credentials: Credentials,
    timeout: Duration,
}

impl Grpc {
    /// `method` is that of the protocol, such as `/package.Service/Method`, which the configuration can replace.
    ///
    /// # Errors
    /// When the configuration cannot be, or a certificate cannot be read.
    pub fn new(config: &Export, method: &str) -> anyhow::Result<Grpc> {
        let url = endpoint::url(config)?;
        let path = url.path().trim_end_matches('/');
        let method = format!("/{}", config.path.as_deref().unwrap_or(method).trim_start_matches('/'));
        let method = format!("{path}{method}").parse().context("`path` is not the path of a method")?;
        let mut server = Endpoint::from_shared(url.as_str().to_owned())
            .context("`url` is not one that gRPC can be spoken to")?
            .user_agent(concat!("luaflame/", env!("CARGO_PKG_VERSION")))?
            .connect_timeout(config.timeout);
        let files = TlsFiles::read(&config.tls)?;
        if url.scheme() == "https" {
            server = server.tls_config(tls(files)).context("There is no way to speak TLS with these certificates")?;
        }
        let credentials = Credentials::new(config)?;
        Ok(Grpc { server, channel: Mutex::new(None), method, credentials, timeout: config.timeout })
    }

    /// Calls the method with an encoded message. `understand` tells what its answer says.
    pub async fn call(&self, body: Bytes, understand: impl FnOnce(&[u8]) -> Understood) -> Outcome {
        // What is not answered in time is cancelled, which the server is told.
        match tokio::time::timeout(self.timeout, self.try_call(body, understand)).await {
            Ok(outcome) => outcome,
            Err(_) => later("timeout", format!("The endpoint has not answered within {:?}", self.timeout)),
        }
    }

    async fn try_call(&self, body: Bytes, understand: impl FnOnce(&[u8]) -> Understood) -> Outcome {
        let headers = match self.credentials.headers().await {
            Ok(headers) => headers,
            Err(why) => return later("credentials", why),
        };
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
        let channel = channel.unwrap_or_else(|| self.server.connect_lazy());
        let answer = self.unary(channel.clone(), headers, body).await;
        if let Err(status) = &answer
            && status.source().is_some()
        {
            return later("connection", format!("There was no answer: {}", said(&causes(status))));
        }
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
        match answer {
            Err(status) => failed(&status),
            Ok(answer) => match understand(&answer) {
                Ok((rejected, why)) => Outcome::Taken { rejected, why },
                Err(why) => later("answer", format!("The endpoint has answered {why}")),
            },
        }
    }

    async fn unary(&self, channel: Channel, headers: HeaderMap, body: Bytes) -> Result<Bytes, Status> {
        let mut client = Client::new(channel).max_decoding_message_size(ANSWER_LIMIT);
        client.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let request = Request::from_parts(MetadataMap::from_headers(headers), Default::default(), body);
        Ok(client.unary(request, self.method.clone(), Raw).await?.into_inner())
    }
}

fn tls(files: TlsFiles) -> ClientTlsConfig {
    choose_cryptography();
    let mut tls = ClientTlsConfig::new();
    tls = match files.authorities {
        Some(authorities) => tls.ca_certificate(Certificate::from_pem(authorities)),
        None => tls.with_native_roots(),
    };
    match files.identity {
        Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
        None => tls,
    }
}

/// What comes of a call that has failed.
///
/// Refused is what says that this message is not taken, or no message of this kind. All else may pass, and the queue bounds how long it is
/// tried: credentials are renewed, and what is in front of a server, or it itself when its disk is full, answers with `Unknown` and
/// `Internal`. The specification of OpenTelemetry would give these up, and `ResourceExhausted` without a time to wait; of those,
/// only what says that the message is too large is.
fn failed(status: &Status) -> Outcome {
    let code = format!("{:?}", status.code());
    let why = said(status.message());
    let after = retry_delay(status);
    let refused = match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition => true,
        Code::Unimplemented => true,
        Code::ResourceExhausted => after.is_none() && is_too_large(status.message()),
        _ => false,
    };
    match refused {
        true => Outcome::Refused { status: code, why },
        false => Outcome::Later { status: code, why, after },
    }
}

/// Whether a server says that a message is larger than it takes. There is no status for that alone; these are the words of the
/// implementations in Go and in C++, and in Java.
fn is_too_large(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("message larger than max") || message.contains("message exceeds maximum size")
}

fn later(status: &str, why: String) -> Outcome {
    Outcome::Later { status: status.to_owned(), why, after: None }
}

/// All that is known of a status that is not the server's.
fn causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        cause = error.source();
    }
    text
}

/// The time to wait in the details of a status: a `google.rpc.RetryInfo`.
fn retry_delay(status: &Status) -> Option<Duration> {
    let details = Details::decode(status.details()).ok()?.details;
    let info = details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&*info.value).ok()?.retry_delay?;
    let seconds = Duration::from_secs(u64::try_from(delay.seconds).ok()?);
    Some((seconds + Duration::from_nanos(u64::try_from(delay.nanos).ok()?)).min(LONGEST_WAIT))
}

/// `google.rpc.Status`, as far as it is read here.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// Messages as they are.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf) -> Result<(), Status> {
        target.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::profile::Profile;

    fn outcome(code: Code, message: &str) -> Outcome {
        failed(&Status::new(code, message))
    }

    #[test]
    fn a_status_tells_whether_to_try_again() {
        for code in [Code::InvalidArgument, Code::Unimplemented, Code::NotFound] {
            assert!(matches!(outcome(code, "no"), Outcome::Refused { .. }), "{code:?}");
        }
        for code in [Code::Unavailable, Code::Unknown, Code::Internal, Code::Unauthenticated, Code::ResourceExhausted] {
            assert!(matches!(outcome(code, "no"), Outcome::Later { after: None, .. }), "{code:?}");
        }
        let large = "grpc: received message larger than max (5000000 vs. 4194304)";
        let refused = Outcome::Refused { status: "ResourceExhausted".to_owned(), why: large.to_owned() };
        assert_eq!(outcome(Code::ResourceExhausted, large), refused);
        let later = Outcome::Later { status: "Unavailable".to_owned(), why: "a\\nb".to_owned(), after: None };
        assert_eq!(outcome(Code::Unavailable, "a\nb"), later);
    }

    #[test]
    fn processes_go_into_as_few_messages_as_they_fit_in() {
        let profile = || ProcessProfile { identity: Arc::default(), profile: Profile::default() };
        let processes = [profile(), profile(), profile(), profile(), profile()];
        let processes: Vec<_> = processes.iter().collect();
        let sizes = |size: usize| {
            let bodies = bodies(&processes, &|processes| vec![0; processes.len() * size]);
            bodies.iter().map(|body| body.len() / size).collect::<Vec<_>>()
        };
        assert_eq!(sizes(1), [5]);
        assert_eq!(sizes(1 << 20), [2, 3]);
        // One alone is sent however large it is: the endpoint may take it.
        assert_eq!(sizes(4 << 20), [1, 1, 1, 1, 1]);
        assert!(bodies(&[], &|_| vec![0]).is_empty());
    }

    #[test]
    fn a_status_tells_how_long_to_wait() {
        let after = |seconds, nanos| {
            let value = RetryInfo { retry_delay: Some(Delay { seconds, nanos }) }.encode_to_vec();
            let any = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value };
            let details = Details { details: vec![any] }.encode_to_vec();
            retry_delay(&Status::with_details(Code::ResourceExhausted, "slow down", details.into()))
        };
        assert_eq!(after(2, 500_000_000), Some(Duration::from_millis(2500)));
        assert_eq!(after(i64::MAX, 0), Some(LONGEST_WAIT));
        assert_eq!(after(-1, 0), None);
        assert_eq!(retry_delay(&Status::with_details(Code::Unavailable, "", Bytes::from_static(b"\xff"))), None);
    }
}
