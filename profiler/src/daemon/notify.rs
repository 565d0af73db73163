//! What the daemon tells systemd of itself, when it is started by it: without it, all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// It has begun to do its work, or does it again after a reload.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It reads its configuration again; [`ready`] is to follow.
pub fn reloading() {
    let now = NotifyState::monotonic_usec_now();
    tell(&[Some(NotifyState::Reloading), now.ok()].into_iter().flatten().collect::<Vec<_>>());
}

/// It ends, which may take this long.
pub fn stopping(timeout: Duration) {
    let microseconds = u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(microseconds)]);
}

/// One line on what it does now, which `systemctl status` shows.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// It is alive. Only whoever has seen that samples are taken may say so.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is to be called, if at all: twice in the time after which systemd would start it anew.
pub fn interval() -> Option<Duration> {
    Some(sd_notify::watchdog_enabled()? / 2)
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("systemd cannot be told {state:?}: {error}");
    }
}
