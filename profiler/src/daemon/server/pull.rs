//! Profiles to be pulled, as Go's `/debug/pprof/profile` offers them: of the seconds from now on.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};

use super::Service;
use super::query::{self, Parameters};
use super::reply::{Refusal, typed};
use crate::format::pprof;
use crate::profile::Profile;
use crate::profile::view::Lines;
use crate::profile::window::{Identity, ProcessProfile, Window, merged};

/// Seconds of a profile unless told otherwise, and most of them.
const SECONDS: u64 = 30;
const MOST_SECONDS: u64 = 300;
/// How much longer than asked for the seconds may take to come.
const LATE: Duration = Duration::from_secs(3);
/// Most bytes that a profile takes here; samples that would make it larger are counted as lost.
const WEIGHT_LIMIT: usize = 32 << 20;

/// Which processes are wanted.
#[derive(Debug)]
struct Wanted {
    service: Option<String>,
    pid: Option<u32>,
}

impl Wanted {
    fn has(&self, identity: &Identity) -> bool {
        self.service.as_ref().is_none_or(|service| *service == identity.service)
            && self.pid.is_none_or(|pid| pid == identity.pid)
    }

    /// There is nothing to pull of processes that are not profiled.
    fn check(&self, processes: &[Arc<Identity>]) -> Result<(), Refusal> {
        let is_wanted = self.service.is_some() || self.pid.is_some();
        if !is_wanted || processes.iter().any(|identity| self.has(identity)) {
            return Ok(());
        }
        let what = match (&self.service, self.pid) {
            (Some(_), Some(pid)) => format!("no process {pid} of this service"),
            (_, Some(pid)) => format!("no process {pid}"),
            _ => "no process of this service".to_owned(),
        };
        Err(Refusal::not_found(format!("{what} is profiled now; /api/services lists those that are")))
    }
}

/// What has come so far.
#[derive(Debug, Default)]
struct Pulled {
    profile: Profile,
    /// Seconds that have come.
    seconds: f64,
    /// Slices that have come, and those that were gone before they were taken.
    slices: u64,
    missed: u64,
    /// Samples that there was no room for.
    left_out: u64,
}

impl Pulled {
    fn add(&mut self, window: &Window, wanted: &Wanted) {
        self.slices += 1;
        self.seconds += window.seconds;
        let processes = || window.processes.iter().filter(|process| wanted.has(&process.identity));
        let weight: usize = processes().map(|ProcessProfile { profile, .. }| profile.weight()).sum();
        let mut slice = merged(processes());
        if self.profile.weight() + weight > WEIGHT_LIMIT {
            let samples = slice.counters.samples;
            slice.forget_samples();
            slice.counters.samples = 0;
            slice.counters.lost += samples;
            self.left_out += samples;
        }
        self.profile.absorb(&slice);
    }

    /// As it is sent; what is missing is said in its comments.
    fn encoded(mut self, started: SystemTime) -> io::Result<Vec<u8>> {
        self.profile.meta.seconds = self.seconds;
        self.profile.meta.started.get_or_insert(started);
        let mut message = pprof::converted(&self.profile, Lines::Both);
        let mut comment = |text: String| {
            message.comment.push(message.string_table.len() as i64);
            message.string_table.push(text);
        };
        if self.missed > 0 {
            comment(format!("{} seconds are missing: they could not be taken in time", self.missed));
        }
        if self.left_out > 0 {
            comment(format!(
                "{} of the lost samples had no room in this profile: ask for fewer seconds",
                self.left_out
            ));
        }
        let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
        compressed.write_all(&message.encode_to_vec())?;
        compressed.finish()
    }
}

pub(super) async fn profile(State(service): State<Arc<Service>>, parameters: Parameters) -> Result<Response, Refusal> {
    let seconds = query::number::<u64>(&parameters, "seconds")?.unwrap_or(SECONDS);
    if !(1..=MOST_SECONDS).contains(&seconds) {
        return Err(Refusal::bad(format!("`seconds` must be from 1 to {MOST_SECONDS}")));
    }
    let service_name = query::text(&parameters, "service").map(str::to_owned);
    let wanted = Wanted { service: service_name, pid: query::number(&parameters, "pid")? };
    if let Some(reason) = service.shared.state.borrow().idle() {
        return Err(Refusal::unavailable(reason));
    }
    wanted.check(&service.shared.processes.borrow())?;
    let _place = service.pulls.try_acquire().map_err(|_| {
        Refusal::unavailable(format!("{} profiles are being pulled already, and no more at once", super::PULLS))
    })?;
    let started = SystemTime::now();
    let pulled = collect(&service, seconds, &wanted).await;
    let encoded = tokio::task::spawn_blocking(move || pulled.encoded(started)).await;
    let bytes = encoded
        .map_err(io::Error::other)
        .flatten()
        .map_err(|error| Refusal::internal(format!("the profile cannot be written: {error}")))?;
    let at = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let disposition = format!("attachment; filename=\"luaflame-{at}.pb.gz\"");
    Ok(([(header::CONTENT_DISPOSITION, disposition)], typed("application/octet-stream", bytes)).into_response())
}

/// Takes slices until there are as many as seconds are asked for, until they are overdue, or until the daemon ends.
async fn collect(service: &Service, seconds: u64, wanted: &Wanted) -> Pulled {
    let mut pulled = Pulled::default();
    let mut slices = service.shared.slices.subscribe();
    let mut stopping = service.stopping.clone();
    let overdue = sleep_until(Instant::now() + Duration::from_secs(seconds) + LATE);
    tokio::pin!(overdue);
    while pulled.slices + pulled.missed < seconds {
        tokio::select! {
            slice = slices.recv() => match slice {
                Ok(window) => pulled.add(&window, wanted),
                Err(RecvError::Lagged(missed)) => pulled.missed += missed,
                Err(RecvError::Closed) => break,
            },
            () = &mut overdue => break,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        }
    }
    pulled
}
