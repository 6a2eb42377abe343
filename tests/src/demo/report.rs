//! What the demo prints.

use std::fmt;

/// One phase's numbers.
#[derive(Clone, Debug)]
pub struct Phase {
    pub name: &'static str,
    /// The heavy client's rate, where it ran.
    pub heavy_bps: Option<f64>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub messages: u64,
}

/// Something that must be so.
#[derive(Clone, Debug)]
pub struct Claim {
    held: bool,
    text: String,
}

impl Claim {
    pub const fn new(held: bool, text: String) -> Self {
        Self { held, text }
    }
}

/// The whole.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub phases: Vec<Phase>,
    pub claims: Vec<Claim>,
    pub notes: Vec<String>,
}

impl Report {
    /// Whether every claim held.
    pub fn held(&self) -> bool {
        !self.claims.is_empty() && self.claims.iter().all(|claim| claim.held)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<10} {:>14} {:>12} {:>12} {:>10}",
            "phase", "heavy client", "light p50", "light p99", "messages"
        )?;
        for phase in &self.phases {
            let heavy = phase
                .heavy_bps
                .map_or_else(|| "-".to_owned(), |bps| format!("{:.2} Mbit/s", bps / 1e6));
            writeln!(
                f,
                "{:<10} {heavy:>14} {:>9.1} ms {:>9.1} ms {:>10}",
                phase.name, phase.p50_ms, phase.p99_ms, phase.messages
            )?;
        }
        writeln!(f)?;
        for note in &self.notes {
            writeln!(f, "        {note}")?;
        }
        for claim in &self.claims {
            let word = if claim.held { "ok" } else { "FAILED" };
            writeln!(f, "{word:<7} {}", claim.text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_claim_breaks_the_report() {
        let mut report = Report::default();
        assert!(!report.held(), "nothing claimed is nothing shown");
        report.claims.push(Claim::new(true, "a".into()));
        assert!(report.held());
        report.claims.push(Claim::new(false, "b".into()));
        assert!(!report.held());
        let text = report.to_string();
        assert!(
            text.contains("ok      a") && text.contains("FAILED  b"),
            "{text}"
        );
    }
}
