//! OpenTelemetry profiles: the messages `opentelemetry.proto.profiles.v1development` of version 1.10.0 of the protocol, which is what the
//! crate `opentelemetry-proto` 0.33 has. They are not declared stable; what reads another version refuses these.

mod encode;

pub use encode::encode;

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceResponse;
use prost::Message;
use prost::bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::endpoint::{Encoded, Endpoint, Sending};
use super::grpc::{Grpc, bodies};
use super::http::{Answer, Http, Understood, said};
use crate::daemon::config::Export;
use crate::profile::window::{ProcessProfile, Window};

/// Where OpenTelemetry profiles are taken over gRPC.
const METHOD: &str = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export";

/// Where they are taken over HTTP.
const PATH: &str = "/v1development/profiles";

/// Its bodies.
const PROTOBUF: &str = "application/x-protobuf";

/// An endpoint that takes OpenTelemetry profiles over gRPC.
#[derive(Debug)]
pub struct OtlpGrpc(Grpc);

impl OtlpGrpc {
    /// That of a configuration.
    ///
    /// # Errors
    /// When something in the configuration cannot be, or a certificate cannot be read.
    pub fn new(config: &Export) -> anyhow::Result<OtlpGrpc> {
        Ok(OtlpGrpc(Grpc::new(config, METHOD)?))
    }
}

impl Endpoint for OtlpGrpc {
    fn encode(&self, window: &Window, processes: &[&ProcessProfile]) -> Encoded {
        let encode = |processes: &[&ProcessProfile]| encode(window, processes).encode_to_vec();
        Encoded { bodies: bodies(processes, &encode), left_out: 0 }
    }

    fn send<'a>(&'a self, body: Bytes) -> Sending<'a> {
        Box::pin(self.0.call(body, understood))
    }
}

/// An endpoint that takes OpenTelemetry profiles over HTTP.
#[derive(Debug)]
pub struct OtlpHttp(Http);

impl OtlpHttp {
    /// That of a configuration.
    ///
    /// # Errors
    /// When something in the configuration cannot be, or a certificate cannot be read.
    pub fn new(config: &Export) -> anyhow::Result<OtlpHttp> {
        Ok(OtlpHttp(Http::new(config, PATH, &[(CONTENT_TYPE, PROTOBUF), (CONTENT_ENCODING, "gzip")])?))
    }
}

impl Endpoint for OtlpHttp {
    fn encode(&self, window: &Window, processes: &[&ProcessProfile]) -> Encoded {
        let encode = |processes: &[&ProcessProfile]| compressed(&encode(window, processes).encode_to_vec());
        Encoded { bodies: bodies(processes, &encode), left_out: 0 }
    }

    fn send<'a>(&'a self, body: Bytes) -> Sending<'a> {
        Box::pin(self.0.post(body, |answer: &Answer| match &*answer.content_type {
            PROTOBUF => understood(&answer.body),
            other => Err(format!("with {:?}, which is not {PROTOBUF}", said(other))),
        }))
    }
}

fn compressed(body: &[u8]) -> Vec<u8> {
    let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
    compressed.write_all(body).and_then(|()| compressed.finish()).expect("memory can be written to")
}

/// What the answer says.
fn understood(answer: &[u8]) -> Understood {
    let response = ExportProfilesServiceResponse::decode(answer)
        .map_err(|error| format!("with what is no response of OpenTelemetry profiles: {error}"))?;
    let partial = response.partial_success.unwrap_or_default();
    let rejected = u64::try_from(partial.rejected_profiles)
        .map_err(|_| format!("that it has rejected {} profiles", partial.rejected_profiles))?;
    let why = said(&partial.error_message);
    Ok((rejected, (!why.is_empty()).then_some(why)))
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesPartialSuccess;

    use super::*;

    fn answer(rejected_profiles: i64, error_message: &str) -> Understood {
        let partial = ExportProfilesPartialSuccess { rejected_profiles, error_message: error_message.to_owned() };
        understood(&ExportProfilesServiceResponse { partial_success: Some(partial) }.encode_to_vec())
    }

    #[test]
    fn answers_are_understood() {
        assert_eq!(understood(b""), Ok((0, None)));
        assert_eq!(answer(0, ""), Ok((0, None)));
        assert_eq!(answer(2, "too\nold"), Ok((2, Some("too\\nold".to_owned()))));
        assert!(answer(-1, "").is_err());
        assert!(understood(b"<html>").is_err());
    }
}
