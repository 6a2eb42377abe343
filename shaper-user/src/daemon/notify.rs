//! What systemd is told (`sd_notify(3)`); nothing where nobody listens.

use sd_notify::NotifyState;

pub(super) fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot notify systemd: {error}");
    }
}

/// `RELOADING=1`, with the time that `Type=notify-reload` asks for.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("cannot read the clock: {error}"),
    }
}
