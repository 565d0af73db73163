//! A real OpenTelemetry Collector on the loopback interface.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::profiles::v1development::{
    ExportProfilesServiceRequest, ExportProfilesServiceResponse,
};
use prost::Message;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::load::{PATIENCE, free_port};
use crate::paths::target_dir;
use crate::process::{Running, wait_until};

const PROTOBUF: &str = "application/x-protobuf";

/// A Collector that takes profiles over gRPC and HTTP, and answers when it has passed on to us what it has understood of them.
#[derive(Debug)]
pub struct Collector {
    process: Running,
    grpc: String,
    http: String,
    passed_on: Arc<Mutex<Vec<ExportProfilesServiceRequest>>>,
    folder: TempDir,
    /// Serves what is passed on.
    _runtime: Runtime,
}

impl Collector {
    /// Starts it; it serves when this returns.
    ///
    /// # Errors
    /// When it cannot be started or does not listen within ten seconds; the error holds what it logged.
    pub fn start() -> Result<Collector> {
        let passed_on = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let next = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let (grpc, http) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
        let folder = tempfile::tempdir()?;
        let configuration = folder.path().join("collector.yaml");
        fs::write(&configuration, configured(&grpc, &http, &next.local_addr()?.to_string()))?;
        runtime.spawn(axum::serve(next, keeping(Arc::clone(&passed_on))).into_future());

        let program = target_dir().join("tools/bin/otelcol");
        let mut command = Command::new(&program);
        command
            .arg("--config")
            .arg(&configuration)
            .arg("--feature-gates=service.profilesSupport")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("log"))?);
        let process = Running::spawn(&mut command).context("run `cargo xtask setup`, which builds it")?;
        let mut collector = Collector { process, grpc, http, passed_on, folder, _runtime: runtime };
        let serves = |collector: &Collector| {
            [&collector.grpc, &collector.http].iter().all(|address| TcpStream::connect(address).is_ok())
        };
        wait_until(PATIENCE, || serves(&collector) || !matches!(collector.process.ended(), Ok(None)));
        if serves(&collector) {
            return Ok(collector);
        }
        bail!("the Collector does not serve; it logged:\n{}", collector.log())
    }

    /// The URL at which it takes gRPC.
    pub fn grpc(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// The URL at which it takes HTTP.
    pub fn http(&self) -> String {
        format!("http://{}", self.http)
    }

    /// What it has logged, which ends with a line for each request that it has taken.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What it has passed on since this was asked before.
    pub fn passed_on(&self) -> Vec<ExportProfilesServiceRequest> {
        std::mem::take(&mut self.passed_on.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn configured(grpc: &str, http: &str, next: &str) -> String {
    // Without a queue, it answers after it has passed on, and so that this has failed where it has.
    format!(
        "receivers:
  otlp:
    protocols:
      grpc:
        endpoint: {grpc}
      http:
        endpoint: {http}
exporters:
  debug:
  otlp_http:
    endpoint: http://{next}
    compression: none
    retry_on_failure:
      enabled: false
    sending_queue:
      enabled: false
service:
  telemetry:
    metrics:
      level: none
  pipelines:
    profiles:
      receivers: [otlp]
      exporters: [debug, otlp_http]
"
    )
}

/// Keeps what is sent to it.
fn keeping(kept: Arc<Mutex<Vec<ExportProfilesServiceRequest>>>) -> Router {
    let keep = move |body: Bytes| async move {
        match ExportProfilesServiceRequest::decode(body) {
            Ok(request) => kept.lock().unwrap_or_else(PoisonError::into_inner).push(request),
            Err(error) => return (StatusCode::BAD_REQUEST, [(CONTENT_TYPE, "text/plain")], error.to_string().into()),
        }
        (StatusCode::OK, [(CONTENT_TYPE, PROTOBUF)], ExportProfilesServiceResponse::default().encode_to_vec())
    };
    Router::new().route("/v1development/profiles", post(keep))
}
