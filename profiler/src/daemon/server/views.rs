//! What the page shows of the store.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::query::{self, Parameters, seconds};
use super::reply::{self, Refusal, typed};
use super::{Service, policy};
use crate::daemon::store::{Selection, Store, StoreError, StoredProcess};
use crate::format::differential::{self, Change, Changes, Side, Width};
use crate::format::functions;
use crate::format::svg::{self, Drawing, Shape, Style};
use crate::profile::Profile;
use crate::profile::view::{Lines, View};
use crate::profile::window::Identity;

/// How long a question waits for those before it.
const QUEUE: Duration = Duration::from_secs(20);
/// Boxes narrower than this are left out of graphs, in percent: on a screen they would be thinner than a line.
const MIN_PERCENT: f64 = 0.05;
/// Functions of a table, of each of the orders that it can be in.
const FUNCTIONS: usize = 300;
/// Bars of the strip that shows samples over time.
const BARS: usize = 180;
/// How lines of Lua functions are told apart: functions that have moved in their file are the same in both sides of a comparison.
const LINES: Lines = Lines::Function;
const DIFF_LINES: Lines = Lines::None;

impl Service {
    /// Has the store answer a question, when it is its turn.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Store) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let Some(store) = self.shared.store.clone() else {
            return Err(Refusal::not_found(
                "nothing is stored on this host: [store] directory is empty in the configuration",
            ));
        };
        let Ok(Ok(_turn)) = timeout(QUEUE, self.queries.acquire()).await else {
            return Err(Refusal::unavailable("too many questions are waiting for the store: try again soon"));
        };
        let answered = tokio::task::spawn_blocking(move || question(&store)).await;
        answered.map_err(|error| Refusal::internal(format!("the question has failed: {error}")))?
    }
}

fn profile(store: &Store, selection: &Selection, view: &View) -> Result<Profile, Refusal> {
    let profile = store.profile(selection).map_err(|error| match error {
        StoreError::TooLarge => Refusal::too_large(error.to_string()),
        error => Refusal::internal(error.to_string()),
    })?;
    Ok(view.of(&profile))
}

fn samples(profile: &Profile) -> u64 {
    profile.stacks().fold(0, |sum, (_, count)| sum.saturating_add(count))
}

/// A graph, unless there is nothing to draw.
fn graph(svg: std::io::Result<()>, bytes: Vec<u8>) -> Result<Response, Refusal> {
    svg.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => Refusal::not_found("there are no samples in this range"),
        _ => Refusal::internal(format!("the graph cannot be drawn: {error}")),
    })?;
    let policy = [(header::CONTENT_SECURITY_POLICY, policy::GRAPH.clone())];
    Ok((policy, typed("image/svg+xml", bytes)).into_response())
}

/// `GET /flame.svg`
pub(super) async fn flame(State(service): State<Arc<Service>>, parameters: Parameters) -> Result<Response, Refusal> {
    let selection = query::selection(&parameters, "from", "to")?;
    let view = query::view(&parameters, LINES)?;
    let title = selection.service.clone().unwrap_or_else(|| "all services".to_owned());
    let work = move |store: &Store| {
        let profile = profile(store, &selection, &view)?;
        let style = Style::default();
        let drawing =
            Drawing { shape: Shape::Flame, title: &title, subtitle: None, min_percent: MIN_PERCENT, style: &style };
        let mut bytes = Vec::new();
        let drawn = svg::write(&profile, LINES, &drawing, &mut bytes);
        graph(drawn, bytes)
    };
    service.ask(work).await
}

/// The two ranges of a comparison.
fn ranges(parameters: &Parameters) -> Result<[Selection; 2], Refusal> {
    Ok([query::selection(parameters, "a_from", "a_to")?, query::selection(parameters, "b_from", "b_to")?])
}

/// `GET /diff.svg`
pub(super) async fn diff_graph(
    State(service): State<Arc<Service>>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let ranges = ranges(&parameters)?;
    let view = query::view(&parameters, DIFF_LINES)?;
    let width = match query::text(&parameters, "width") {
        None | Some("after") => Width::After,
        Some("before") => Width::Before,
        Some(_) => return Err(Refusal::bad("`width` must be `before` or `after`")),
    };
    let work = move |store: &Store| {
        let (before, after) = (profile(store, &ranges[0], &view)?, profile(store, &ranges[1], &view)?);
        let (before, after) = (Side { name: "A", profile: &before }, Side { name: "B", profile: &after });
        let mut bytes = Vec::new();
        let drawn = differential::write_svg(before, after, DIFF_LINES, width, MIN_PERCENT, &mut bytes);
        graph(drawn, bytes)
    };
    service.ask(work).await
}

/// `GET /api/diff`
pub(super) async fn diff(State(service): State<Arc<Service>>, parameters: Parameters) -> Result<Response, Refusal> {
    let ranges = ranges(&parameters)?;
    let view = query::view(&parameters, DIFF_LINES)?;
    let work = move |store: &Store| {
        let (before, after) = (profile(store, &ranges[0], &view)?, profile(store, &ranges[1], &view)?);
        let sides = (Side { name: "A", profile: &before }, Side { name: "B", profile: &after });
        let Changes { own, total } = Changes::between(sides.0, sides.1, DIFF_LINES);
        let table = |changes: &[Change]| -> Vec<Value> { changes.iter().take(FUNCTIONS).map(change).collect() };
        reply::json(&json!({
            "samples": [samples(&before), samples(&after)],
            "functions": own.len(),
            "own": table(&own),
            "total": table(&total),
        }))
    };
    service.ask(work).await
}

fn change(change: &Change) -> Value {
    json!({
        "name": change.name,
        "class": change.class.name(),
        "before": change.before,
        "after": change.after,
        "points": change.difference(),
        "chance": change.chance(),
        "clear": change.is_clear(),
    })
}

/// `GET /api/functions`
pub(super) async fn functions(
    State(service): State<Arc<Service>>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    let selection = query::selection(&parameters, "from", "to")?;
    let view = query::view(&parameters, LINES)?;
    let work = move |store: &Store| {
        let profile = profile(store, &selection, &view)?;
        let mut all: Vec<_> = functions::functions(&profile, LINES).into_iter().collect();
        let count = all.len();
        // Those that are among the first by own time or among the first by total time.
        all.sort_by_key(|(_, samples)| std::cmp::Reverse(samples.total));
        if all.len() > FUNCTIONS {
            let mut rest = all.split_off(FUNCTIONS);
            rest.sort_by_key(|(_, samples)| std::cmp::Reverse(samples.own));
            all.extend(rest.into_iter().take(FUNCTIONS));
        }
        let rows = all.iter().map(|((name, class), samples)| {
            json!({ "name": name, "class": class.name(), "own": samples.own, "total": samples.total })
        });
        reply::json(&json!({
            "samples": samples(&profile),
            "lost": profile.counters.lost,
            "seconds": profile.meta.seconds,
            "frequency": profile.meta.frequency,
            "count": count,
            "functions": rows.collect::<Vec<Value>>(),
        }))
    };
    service.ask(work).await
}

/// `GET /api/timeline`
pub(super) async fn timeline(State(service): State<Arc<Service>>, parameters: Parameters) -> Result<Response, Refusal> {
    let (from, to) = query::range(&parameters, "from", "to")?;
    let name = query::text(&parameters, "service").map(str::to_owned);
    let windows = service.ask(move |store| Ok(store.timeline(name.as_deref(), from, to))).await?;
    reply::json(&json!({ "from": seconds(from), "to": seconds(to), "bars": bars(&windows, from, to) }))
}

/// Samples in equal parts of a stretch of time; those of a window are spread over it evenly.
fn bars(windows: &[(SystemTime, f64, u64)], from: SystemTime, to: SystemTime) -> Vec<f64> {
    let mut bars = vec![0.0; BARS];
    let (from, to) = (seconds(from), seconds(to));
    let width = (to - from) / BARS as f64;
    for &(start, length, samples) in windows {
        let start = (seconds(start) - from) / width;
        let length = (length / width).max(f64::MIN_POSITIVE);
        let end = start + length;
        let last = end.min(BARS as f64);
        let mut at = start.max(0.0);
        while at < last {
            let next = (at.floor() + 1.0).min(last);
            bars[at as usize] += samples as f64 * (next - at) / length;
            at = next;
        }
    }
    bars
}

/// `GET /api/services`: those in the store, and those that are profiled now.
pub(super) async fn services(State(service): State<Arc<Service>>, parameters: Parameters) -> Result<Response, Refusal> {
    let (from, to) = query::range(&parameters, "from", "to")?;
    let live = service.shared.processes.borrow().clone();
    let idle = service.shared.state.borrow().idle();
    let (stored, since) = match service.shared.store {
        None => (Vec::new(), None),
        Some(_) => {
            let work = move |store: &Store| {
                let all = store.timeline(None, UNIX_EPOCH, SystemTime::now());
                Ok((store.services(from, to), all.first().map(|(start, ..)| *start)))
            };
            service.ask(work).await?
        }
    };
    let mut services: Vec<(String, u64, Vec<Value>)> = Vec::new();
    for one in stored {
        let processes = one.processes.iter().map(|process| {
            let is_live = live.iter().any(|live| (live.pid, live.started) == (process.pid, process.started));
            stored_process(process, is_live)
        });
        let processes = processes.collect();
        services.push((one.name, one.samples, processes));
    }
    for identity in &live {
        let is_known = |process: &Value| process["pid"] == identity.pid && process["live"] == true;
        match services.iter_mut().find(|(name, ..)| *name == identity.service) {
            Some((.., processes)) if processes.iter().any(is_known) => {}
            Some((.., processes)) => processes.push(live_process(identity)),
            None => services.push((identity.service.clone(), 0, vec![live_process(identity)])),
        }
    }
    services.sort_by(|one, two| two.1.cmp(&one.1).then(one.0.cmp(&two.0)));
    let services: Vec<Value> = services
        .into_iter()
        .map(|(name, samples, processes)| json!({ "name": name, "samples": samples, "processes": processes }))
        .collect();
    reply::json(&json!({
        "stored": service.shared.store.is_some(),
        "since": since.map(seconds),
        "idle": idle,
        "services": services,
    }))
}

fn stored_process(process: &StoredProcess, is_live: bool) -> Value {
    json!({
        "pid": process.pid,
        "command": process.command,
        "worker": process.worker,
        "container": process.container,
        "first": seconds(process.first),
        "last": seconds(process.last),
        "live": is_live,
    })
}

fn live_process(identity: &Identity) -> Value {
    json!({
        "pid": identity.pid,
        "command": identity.command,
        "worker": identity.worker,
        "container": identity.container,
        "first": null,
        "last": null,
        "live": true,
    })
}
