//! What this kernel does for backpressure, by what came of using it.
//!
//! Nothing is concluded from a version number, which distributions make
//! meaningless, and no connection is opened for a probe: `sock_ops` acts on
//! sockets of clients only, and a connection made for it would have to be one.
//! The programs were loaded and attached or refused; the iterator left a flow
//! with its socket's events or without; the kernel took a pacing rate or the
//! program counted a refusal.

use super::interfaces::Attached;
use super::updates::WindowUpdates;
use crate::model::{Adopted, Backpressure};
use shaper_common::flow::{FLOW_PACED, FLOW_WINDOW, Flow};

/// What was found out so far.
#[derive(Default)]
pub(super) struct Support {
    /// Why the window updates could not be started.
    pub updates: Option<String>,
    /// Why the iterator that adopts cannot run.
    pub adopt: Option<String>,
    /// Why the iterator that gives pacing rates back cannot run.
    pub release: Option<String>,
    /// What came of adopting, once there was something to adopt.
    pub adopted: Option<Adopted>,
    /// Refused pacing rates: of all times before this daemon, and now.
    pub refused: (u64, u64),
}

impl Support {
    /// Learns from flows that were to be adopted.
    pub fn learn<'a>(&mut self, adopted: impl Iterator<Item = &'a Flow>) {
        let common = adopted.map(|flow| flow.flags).reduce(|a, b| a & b);
        if let Some(flags) = common {
            self.adopted = Some(Adopted {
                upload: flags & FLOW_WINDOW != 0,
                download: flags & FLOW_PACED != 0,
            });
        }
    }

    /// For `status`.
    pub fn report(
        &self,
        observe: bool,
        attached: &[Attached],
        updates: Option<&WindowUpdates>,
    ) -> Backpressure {
        let mut reasons = Vec::new();
        let there = attached.iter().any(|interface| interface.gone.is_none());
        let refused = self.refused.1 > self.refused.0;
        let running = updates.is_some_and(WindowUpdates::is_running);
        if observe {
            reasons.push("the policy only observes".to_owned());
        } else if !there {
            reasons.push("no interface is attached".to_owned());
        }
        if refused {
            reasons.push("the kernel refused a pacing rate (SO_MAX_PACING_RATE)".to_owned());
        }
        if let Some(error) = &self.updates {
            reasons.push(format!("no window updates: {error}"));
        } else if !running {
            reasons.push("window updates have ended, see the log".to_owned());
        }
        if let Some(error) = &self.adopt {
            reasons.push(format!("connections opened before are not paced: {error}"));
        } else if self.adopted.is_some_and(|adopted| !adopted.download) {
            reasons.push(
                "connections opened before are not paced: the kernel gave no events of open \
                 sockets (TCP_BPF_SOCK_OPS_CB_FLAGS, 6.12)"
                    .to_owned(),
            );
        }
        if let Some(error) = &self.release {
            reasons.push(format!("pacing rates cannot be given back: {error}"));
        }
        Backpressure {
            upload: there && !observe,
            download: there && !observe && !refused,
            window_updates: running,
            adopted: self.adopted,
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(flags: u32) -> Flow {
        Flow {
            flags,
            ..Flow::default()
        }
    }

    #[test]
    fn adopting_is_judged_by_the_flows() {
        let judge = |flags: &[u32]| {
            let flows: Vec<_> = flags.iter().map(|flags| flow(*flags)).collect();
            let mut support = Support::default();
            support.learn(flows.iter());
            support
                .adopted
                .map(|adopted| (adopted.upload, adopted.download))
        };
        assert_eq!(judge(&[]), None);
        assert_eq!(judge(&[FLOW_WINDOW | FLOW_PACED]), Some((true, true)));
        assert_eq!(judge(&[FLOW_WINDOW]), Some((true, false)));
        let both = [FLOW_WINDOW | FLOW_PACED, FLOW_PACED];
        assert_eq!(judge(&both), Some((false, true)));
    }

    #[test]
    fn what_is_missing_has_its_reason() {
        let support = Support {
            updates: Some("not permitted".to_owned()),
            refused: (3, 4),
            ..Support::default()
        };
        let report = support.report(false, &[], None);
        assert!(!report.upload && !report.download && !report.window_updates);
        let reason = report.reason.unwrap_or_default();
        for part in ["no interface", "SO_MAX_PACING_RATE", "not permitted"] {
            assert!(reason.contains(part), "{reason}");
        }
        // What an earlier daemon counted is no fault of this one.
        let support = Support {
            refused: (3, 3),
            ..Support::default()
        };
        let report = support.report(true, &[], None);
        assert!(
            report
                .reason
                .is_some_and(|r| r.contains("observes") && !r.contains("PACING"))
        );
    }
}
