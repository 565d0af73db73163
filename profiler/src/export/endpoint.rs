//! What an endpoint is to those that send to it.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use prost::bytes::Bytes;
use reqwest::Url;

use super::otlp::{OtlpGrpc, OtlpHttp};
use super::parca::Parca;
use super::pyroscope::Pyroscope;
use crate::daemon::config::{Export, Protocol};
use crate::profile::window::{ProcessProfile, Window};

/// What an endpoint has made of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Taken {
        /// Parts of it (profiles, series, samples: what the protocol counts) that the endpoint says it has not taken.
        rejected: u64,
        /// What it says about that.
        why: Option<String>,
    },
    /// It will never be taken: there is something wrong with the body.
    Refused {
        /// The status of the answer, for metrics, such as `400` or `InvalidArgument`.
        status: String,
        /// What the endpoint says about it, made [`printable`](crate::format::label::printable).
        why: String,
    },
    /// It may be taken later: there is no connection, no answer in time, an answer that is not understood, an
    /// endpoint with
    /// too much to do, or one that does not believe who we are, since tokens and certificates are renewed.
    Later {
        /// The status of the answer, or one word for what there was instead of one: `connection`, `timeout`, `answer`,
        /// `credentials`.
        status: String,
        /// A sentence about it, made [`printable`](crate::format::label::printable).
        why: String,
        /// How long to wait, when the endpoint says so.
        after: Option<Duration>,
    },
}

/// The bodies of requests.
#[derive(Debug, Default)]
pub struct Encoded {
    /// One for each request, in the order in which they are sent: more than one where the endpoint limits their size.
    pub bodies: Vec<Vec<u8>>,
    /// Samples that are in none of them, since the endpoint would refuse them.
    pub left_out: u64,
}

/// The future of [`Endpoint::send`].
pub type Sending<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// Where profiles are sent.
pub trait Endpoint: Debug + Send + Sync {
    /// The requests that tell it of processes in a window, all of one service. It takes CPU time, and waits for
    /// nothing.
    fn encode(&self, window: &Window, processes: &[&ProcessProfile]) -> Encoded;

    /// Sends one of these bodies, which this or an earlier run of the program has encoded. It ends in the time that
    /// the configuration gives
    /// to one request.
    fn send<'a>(&'a self, body: Bytes) -> Sending<'a>;
}

/// The endpoint that a configuration tells of. Nothing is sent yet; its certificates are read.
///
/// # Errors
/// When something in the configuration cannot be, or a certificate cannot be read.
pub fn endpoint(config: &Export) -> anyhow::Result<Arc<dyn Endpoint>> {
    let endpoint: anyhow::Result<Arc<dyn Endpoint>> = match config.protocol {
        Protocol::Pyroscope => Pyroscope::new(config).map(|endpoint| Arc::new(endpoint) as _),
        Protocol::Parca => Parca::new(config).map(|endpoint| Arc::new(endpoint) as _),
        Protocol::OtlpGrpc => OtlpGrpc::new(config).map(|endpoint| Arc::new(endpoint) as _),
        Protocol::OtlpHttp => OtlpHttp::new(config).map(|endpoint| Arc::new(endpoint) as _),
    };
    endpoint.with_context(|| format!("The endpoint {:?} cannot be sent to", config.name))
}

/// The URL of a configuration, whose path ends without a `/`.
///
/// # Errors
/// When it is not one of `http` or `https` with a host, or it has a password or other parts that are not for it to
/// have.
pub fn url(config: &Export) -> anyhow::Result<Url> {
    // The URL itself may hold a password, and is not told.
    let url = Url::parse(&config.url).context("`url` is not a URL such as https://profiles.example.com")?;
    ensure!(matches!(url.scheme(), "http" | "https"), "`url` must begin with http:// or https://");
    ensure!(url.has_host(), "`url` names no host");
    if !url.username().is_empty() || url.password().is_some() {
        bail!(
            "`url` holds a user name or password, which others could read: put them into a file and name it in `header_files`"
        );
    }
    ensure!(url.query().is_none() && url.fragment().is_none(), "`url` must have no `?` and no `#`");
    Ok(url)
}
