//! What a request asks for.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::Query;

use super::reply::Refusal;
use crate::daemon::store::Selection;
use crate::profile::view::{Lines, View};

/// How much time is looked at unless told otherwise.
const RANGE: Duration = Duration::from_hours(1);
/// The end of the year 9999, in seconds: what calendars can show.
const LATEST: f64 = 253_402_300_799.0;

/// The parameters of a request by name; those that mean nothing are left alone, since a flame graph adds its own.
pub(super) type Parameters = Query<HashMap<String, String>>;

/// A parameter, where it is given and not empty.
pub(super) fn text<'a>(parameters: &'a Parameters, name: &str) -> Option<&'a str> {
    parameters.get(name).map(String::as_str).filter(|text| !text.is_empty())
}

/// A parameter as a number.
///
/// # Errors
/// When it is none.
pub(super) fn number<T: FromStr>(parameters: &Parameters, name: &str) -> Result<Option<T>, Refusal> {
    let parse = |text: &str| text.parse().map_err(|_| Refusal::bad(format!("`{name}` must be a number")));
    text(parameters, name).map(parse).transpose()
}

/// The stretch of time between two parameters, which is the last hour unless they tell.
///
/// # Errors
/// When they are no such times.
pub(super) fn range(parameters: &Parameters, from: &str, to: &str) -> Result<(SystemTime, SystemTime), Refusal> {
    let end = time(parameters, to)?.unwrap_or_else(SystemTime::now);
    let start = time(parameters, from)?.unwrap_or_else(|| end.checked_sub(RANGE).unwrap_or(UNIX_EPOCH));
    if start >= end {
        return Err(Refusal::bad(format!("`{from}` must be before `{to}`")));
    }
    Ok((start, end))
}

fn time(parameters: &Parameters, name: &str) -> Result<Option<SystemTime>, Refusal> {
    let Some(seconds) = number::<f64>(parameters, name)? else { return Ok(None) };
    if !(0.0..=LATEST).contains(&seconds) {
        return Err(Refusal::bad(format!("`{name}` must be a time in seconds since 1970")));
    }
    Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
}

/// What is selected by `service`, `pid` and two times.
///
/// # Errors
/// When one of them is not what it must be.
pub(super) fn selection(parameters: &Parameters, from: &str, to: &str) -> Result<Selection, Refusal> {
    let (from, to) = range(parameters, from, to)?;
    let service = text(parameters, "service").map(str::to_owned);
    Ok(Selection { service, pid: number(parameters, "pid")?, from, to })
}

/// What of a profile is shown: `show=lua` leaves the frames of Lua land alone.
///
/// # Errors
/// When it is asked for something else.
pub(super) fn view(parameters: &Parameters, lines: Lines) -> Result<View, Refusal> {
    let lua_only = match text(parameters, "show") {
        None | Some("all") => false,
        Some("lua") => true,
        Some(_) => return Err(Refusal::bad("`show` must be `all` or `lua`")),
    };
    Ok(View { lua_only, lines, ..View::default() })
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
