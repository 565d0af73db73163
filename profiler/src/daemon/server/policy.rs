//! What a browser may do with what we send.
//!
//! Everything is forbidden but what is needed, and scripts and styles run only if they are the ones we know. Of flame graphs these are
//! known by their digests, taken from a graph without any names of others: a script that got into a graph by a name would not be among
//! them.

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::format::differential::{self, Side, Width};
use crate::format::svg::{self, Drawing, Shape, Style};
use crate::profile::view::Lines;
use crate::profile::{Frame, FrameKind, Origin, Profile};

/// Of everything that does not say otherwise.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'";

/// Of the page: what it loads is ours.
pub(super) const PAGE: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; \
     frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
);

/// Of flame graphs.
pub(super) static GRAPH: LazyLock<HeaderValue> = LazyLock::new(|| {
    let graphs = [flame(), difference()];
    let known = |pieces: fn(&str) -> Vec<String>| {
        let mut digests: Vec<String> =
            graphs.iter().flat_map(|graph| pieces(graph)).map(|text| digest(&text)).collect();
        digests.sort_unstable();
        digests.dedup();
        digests.join(" ")
    };
    let policy = format!(
        "{NOTHING}; script-src 'unsafe-hashes' {}; style-src 'unsafe-hashes' {}",
        known(scripts),
        known(styles)
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static(NOTHING))
});

/// Adds to an answer what every one has.
pub(super) async fn strict(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(NOTHING));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    // Profiles are of now, and nobody else's.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn digest(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

/// What runs in a graph: its script, and what its root does when it is loaded.
fn scripts(graph: &str) -> Vec<String> {
    let script = between(graph, "<script type=\"text/ecmascript\">", "</script>").map(|script| {
        // A browser takes what stands in these for the text of the script, and not them.
        script.replace("<![CDATA[", "").replace("]]>", "")
    });
    let load = between(graph, " onload=\"", "\"").map(str::to_owned);
    script.chain(load).collect()
}

/// Its style sheet, and what single elements have.
fn styles(graph: &str) -> Vec<String> {
    let sheet = between(graph, "<style type=\"text/css\">", "</style>");
    sheet.chain(between(graph, " style=\"", "\"")).map(str::to_owned).collect()
}

fn between<'a>(text: &'a str, start: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(start).skip(1).filter_map(move |rest| rest.split_once(end)).map(|(inner, _)| inner)
}

/// A sample of one frame.
fn plain() -> Profile {
    let mut profile = Profile::default();
    let frame = Frame { kind: FrameKind::Native, name: None, file: None, first_line: 0, line: 0, unresolved: true };
    let id = profile.frame(frame);
    profile.add(Origin::default(), &[id], 1);
    profile
}

fn flame() -> String {
    let drawing =
        Drawing { shape: Shape::Flame, title: "", subtitle: Some(""), min_percent: 0.0, style: &Style::default() };
    drawn(|bytes| svg::write(&plain(), Lines::Function, &drawing, bytes))
}

fn difference() -> String {
    let profile = plain();
    let side = Side { name: "", profile: &profile };
    drawn(|bytes| differential::write_svg(side, side, Lines::Function, Width::After, 0.0, bytes))
}

fn drawn(write: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> String {
    let mut bytes = Vec::new();
    write(&mut bytes).expect("a graph of one stack can be drawn");
    String::from_utf8_lossy(&bytes).into_owned()
}
