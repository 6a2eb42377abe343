//! A server in one direction, divided among its clients and their connections.

use super::fill::share_out;
use super::ruled::Ruled;
use super::share::Carried;
use super::{ClientNow, FlowNow};
use crate::policy::{PlaceRule, Rate};

/// What an idle connection may begin with, in bits per second, at most …
const FLOOR: f64 = 64_000.0;
/// … this part of what it has a share in, …
const FLOOR_PART: f64 = 0.02;
/// … and all of them this part of it.
const FLOORS_PART: f64 = 0.1;
/// What is left of a cap beside clients that are exempt, at least.
const LEFT: f64 = 0.1;

/// What a connection is given in a direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    /// Infinite: no limit.
    pub rate: f64,
    /// The place rule is what holds it.
    pub by_rule: bool,
    /// A part of what several have.
    pub shared: bool,
}

/// A client in one direction, with its place rule.
struct Claim<'a> {
    flows: &'a [FlowNow],
    rule: Option<&'a PlaceRule>,
    /// What that lets it have here.
    ruled: f64,
    /// What each connection wants; infinite: anything.
    wants: Vec<f64>,
    /// All of them together.
    want: f64,
    /// What its place lets it have: by its rule and its share.
    place: f64,
    /// What the policy holds it to anyway.
    most: f64,
    exempt: bool,
}

impl Claim<'_> {
    fn rate(&self, d: usize) -> f64 {
        self.flows.iter().map(|flow| flow.rate(d)).sum()
    }

    fn each(&self, d: usize) -> f64 {
        bps(self.rule.and_then(|rule| rule.flow[d]))
    }

    /// One connection has all that the rule lets the client have.
    fn is_whole(&self, d: usize) -> bool {
        self.flows.len() == 1 && self.ruled >= bps(self.rule.and_then(|rule| rule.client[d]))
    }
}

/// A server in one direction.
pub(super) struct Direction<'a> {
    d: usize,
    claims: Vec<Claim<'a>>,
}

impl<'a> Direction<'a> {
    pub fn new(d: usize, clients: &'a [ClientNow], ruled: &[Ruled<'a>]) -> Self {
        let claims = clients.iter().zip(ruled).map(|(client, at)| {
            let wants = wants(client, at.rule, d);
            Claim {
                flows: &client.flows,
                rule: at.rule,
                ruled: at.most[d],
                want: wants.iter().sum(),
                wants,
                place: at.most[d],
                most: client.most[d],
                exempt: client.exempt,
            }
        });
        Self {
            d,
            claims: claims.collect(),
        }
    }

    /// The clients that can be held.
    fn held(&self) -> impl Iterator<Item = &Claim<'a>> {
        self.claims.iter().filter(|claim| !claim.exempt)
    }

    /// What the others send.
    fn exempt(&self) -> f64 {
        let exempt = self.claims.iter().filter(|claim| claim.exempt);
        exempt.map(|claim| claim.rate(self.d)).sum()
    }

    pub fn carried(&self) -> Carried {
        let want = |claim: &Claim<'_>| claim.want.min(claim.place).min(claim.most);
        Carried {
            rates: self.held().map(|claim| claim.rate(self.d)).collect(),
            wants: self.held().map(want).collect(),
            exempt: self.exempt(),
        }
    }

    /// Those that are far below it are left alone.
    pub fn hold_to_share(&mut self, share: f64) {
        for claim in self.claims.iter_mut().filter(|claim| !claim.exempt) {
            if claim.want > share / 2.0 {
                claim.place = claim.place.min(share);
            }
        }
    }

    /// One for each connection of each client.
    pub fn divide(&self, cap: Option<Rate>) -> Vec<Given> {
        let budgets = self.budgets(bps(cap));
        let clients = self.claims.iter().zip(budgets);
        clients
            .flat_map(|(claim, (budget, floor))| self.among_flows(claim, budget, floor))
            .collect()
    }

    /// What each client may have, and the floor of its connections. Infinite where
    /// nothing has to hold it.
    fn budgets(&self, cap: f64) -> Vec<(f64, f64)> {
        let total = (cap - self.exempt()).max(cap * LEFT);
        let most: Vec<_> = self.held().map(|c| c.place.min(c.most)).collect();
        let binds = most.iter().sum::<f64>() > total;
        let (shares, floor) = if binds {
            let wants: Vec<_> = self.held().map(|claim| claim.want).collect();
            let flows = self.held().map(|claim| claim.flows.len()).sum();
            (share_out(total, &wants, &most), floor(cap, flows))
        } else {
            (self.held().map(|claim| claim.place).collect(), FLOOR)
        };
        let mut shares = shares.into_iter();
        let budget = |claim: &Claim<'_>| {
            let unheld = (f64::INFINITY, FLOOR);
            if claim.exempt {
                return unheld;
            }
            let floor = floor.min(self::floor(claim.place, claim.flows.len()));
            shares.next().map_or(unheld, |share| (share, floor))
        };
        self.claims.iter().map(budget).collect()
    }

    fn among_flows(&self, claim: &Claim<'_>, budget: f64, floor: f64) -> Vec<Given> {
        let each = claim.each(self.d);
        let by_rule = budget >= claim.ruled * 0.999 && claim.ruled.is_finite();
        let most = vec![each; claim.flows.len()];
        let given = if budget.is_finite() {
            share_out(budget, &claim.wants, &most)
        } else {
            most
        };
        given
            .into_iter()
            .map(|rate| Given {
                rate: rate.max(floor.min(each)),
                by_rule: by_rule || rate >= each * 0.999 && each.is_finite(),
                shared: rate < each && !(by_rule && claim.is_whole(self.d)),
            })
            .collect()
    }
}

/// What an idle one of `flows` connections keeps of `total`, in bits per second.
pub(super) fn floor(total: f64, flows: usize) -> f64 {
    let all = total * FLOORS_PART / flows.max(1) as f64;
    FLOOR.min(total * FLOOR_PART).min(all)
}

/// What each connection of a client wants in a direction, as far as it may have it.
pub(super) fn wants(client: &ClientNow, rule: Option<&PlaceRule>, d: usize) -> Vec<f64> {
    let each = client.each[d].min(bps(rule.and_then(|rule| rule.flow[d])));
    let flows = client.flows.iter();
    flows.map(|flow| flow.want(d).min(each)).collect()
}

/// Infinite where there is no limit.
pub(super) fn bps(rate: Option<Rate>) -> f64 {
    rate.map_or(f64::INFINITY, |rate| rate.bps() as f64)
}
