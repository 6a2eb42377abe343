//! Which kernels there are, and what each is documented to do: the README's
//! "Versions" and "Where the kernel can't", as a table.

use Is::{Exactly, Saying};

/// One kernel of the matrix.
pub struct Kernel {
    /// What `--kernel` calls it.
    pub name: &'static str,
    /// Debian's suites that have it, the first that does is taken.
    pub suites: &'static [&'static str],
    /// The longest that a run may take, in minutes: emulated, beside other work.
    pub minutes: u64,
    /// The facts that the guest has to find.
    pub expect: &'static [(&'static str, Is)],
}

/// What a fact has to be.
#[derive(Clone, Copy, Debug)]
pub enum Is {
    /// These words.
    Exactly(&'static str),
    /// Words with these among them.
    Saying(&'static str),
}

/// All of them, the oldest first.
pub const KERNELS: [Kernel; 4] = [
    Kernel {
        name: "5.10",
        suites: &["bullseye"],
        minutes: 10,
        // No atomic compare-and-swap.
        expect: &[
            ("programs", Exactly("refused")),
            ("refusal", Saying("kernel 5.15 or later is needed")),
        ],
    },
    Kernel {
        name: "6.1",
        suites: &["bookworm"],
        minutes: 40,
        expect: &[
            ("programs", Exactly("loaded")),
            ("iterators", Exactly("loaded")),
            ("fq", Exactly("present")),
            ("xdp", Exactly("generic")),
            // No TCX before 6.6.
            ("ingress", Exactly("clsact")),
            ("egress", Exactly("clsact")),
            ("backpressure.upload", Exactly("true")),
            ("backpressure.download", Exactly("true")),
            ("window_updates", Exactly("true")),
            ("adopted.upload", Exactly("true")),
            // No events of open sockets before 6.12, so no pacing of them.
            ("adopted.download", Exactly("false")),
            ("reason", Saying("connections opened before are not paced")),
        ],
    },
    Kernel {
        name: "6.12",
        suites: &["trixie"],
        minutes: 40,
        expect: ALL_OF_IT,
    },
    Kernel {
        name: "newest",
        // The next kernel, where there is one already.
        suites: &["experimental", "sid"],
        minutes: 40,
        expect: ALL_OF_IT,
    },
];

/// The kernel of the short form: the furthest from those that people build on.
pub const SHORT: &str = "6.1";

const ALL_OF_IT: &[(&str, Is)] = &[
    ("programs", Exactly("loaded")),
    ("iterators", Exactly("loaded")),
    ("fq", Exactly("present")),
    ("xdp", Exactly("generic")),
    ("ingress", Exactly("tcx")),
    ("egress", Exactly("tcx")),
    ("backpressure.upload", Exactly("true")),
    ("backpressure.download", Exactly("true")),
    ("window_updates", Exactly("true")),
    ("adopted.upload", Exactly("true")),
    ("adopted.download", Exactly("true")),
    ("reason", Exactly("none")),
];

impl Is {
    /// `None` where a fact is as expected, else why it is not.
    pub fn wrong(self, fact: Option<&str>) -> Option<String> {
        let right = match self {
            Exactly(words) => fact == Some(words),
            Saying(words) => fact.is_some_and(|fact| fact.contains(words)),
        };
        (!right).then(|| format!("{self:?} expected, {}", fact.unwrap_or("not found out")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_that_nobody_found_out_is_wrong() {
        assert_eq!(Exactly("tcx").wrong(Some("tcx")), None);
        assert!(Exactly("tcx").wrong(Some("tcx or so")).is_some());
        assert!(Exactly("tcx").wrong(None).is_some());
        assert_eq!(Saying("not paced").wrong(Some("are not paced: x")), None);
        assert!(Saying("not paced").wrong(Some("none")).is_some());
        assert!(Saying("not paced").wrong(None).is_some());
    }

    #[test]
    fn names_are_told_apart() {
        for kernel in &KERNELS {
            let same = KERNELS.iter().filter(|other| other.name == kernel.name);
            assert_eq!(same.count(), 1);
            assert!(!kernel.suites.is_empty() && !kernel.expect.is_empty());
        }
        assert!(KERNELS.iter().any(|kernel| kernel.name == SHORT));
    }
}
