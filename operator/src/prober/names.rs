//! DNS names and what is known of them.
//!
//! Each name is looked up once, whoever lists it, and again when its answer's time to live has passed.
//! A lookup that fails keeps the last answer: a DNS outage empties no Service.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cep_core::address_policy::AddressPolicy;
use cep_core::guard::GroupId;
use cep_core::outcome::{Cause, Reason};

use super::dns::{Answer, Family};

/// How soon a failed lookup is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Addresses of a name that are used, the lowest ones. Whoever owns a zone can put thousands into an
/// answer, and each would be probed.
const MAX_ADDRESSES: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Names {
    entries: HashMap<Arc<str>, Entry>,
    due: BTreeSet<(Duration, Arc<str>)>,
}

#[derive(Debug, Default)]
struct Entry {
    addresses: Vec<IpAddr>,
    obstacle: Option<Cause>,
    users: HashSet<GroupId>,
    /// Its place in [`Names::due`]; `None` while it is being looked up.
    due: Option<Duration>,
}

impl Names {
    /// A cep uses a name from now on; one that nobody used is looked up at once. Until there is an answer
    /// it stands for the addresses that an earlier run left. Returns the other ceps that now know them too.
    pub(super) fn join(
        &mut self,
        name: &Arc<str>,
        user: GroupId,
        remembered: Vec<IpAddr>,
        policy: &AddressPolicy,
        now: Duration,
    ) -> Vec<GroupId> {
        if !self.entries.contains_key(name) {
            self.entries.insert(name.clone(), Entry { due: Some(now), ..Entry::default() });
            self.due.insert((now, name.clone()));
        }
        let Some(entry) = self.entries.get_mut(name) else { return Vec::new() };
        let mut others = Vec::new();
        if entry.addresses.is_empty() && !remembered.is_empty() {
            let (addresses, obstacle) = permitted(remembered, policy);
            entry.addresses = addresses;
            entry.obstacle = obstacle.or_else(|| entry.obstacle.take());
            others.extend(entry.users.iter().copied().filter(|other| *other != user));
        }
        entry.users.insert(user);
        others
    }

    /// A cep does not use a name any more.
    pub(super) fn leave(&mut self, name: &Arc<str>, user: GroupId) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.users.remove(&user);
        if entry.users.is_empty() {
            if let Some(due) = entry.due {
                self.due.remove(&(due, name.clone()));
            }
            self.entries.remove(name);
        }
    }

    pub(super) fn addresses(&self, name: &Arc<str>) -> Vec<IpAddr> {
        self.entries.get(name).map(|entry| entry.addresses.clone()).unwrap_or_default()
    }

    pub(super) fn obstacle(&self, name: &Arc<str>) -> Option<&Cause> {
        self.entries.get(name)?.obstacle.as_ref()
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes a name that must be looked up now; [`Names::answered`] schedules it again.
    pub(super) fn take_due(&mut self, now: Duration) -> Option<Arc<str>> {
        let first = self.due.first().filter(|(due, _)| *due <= now)?.clone();
        self.due.remove(&first);
        if let Some(entry) = self.entries.get_mut(&first.1) {
            entry.due = None;
        }
        Some(first.1)
    }

    /// Takes in a lookup's result; returns the ceps for which something changed.
    pub(super) fn answered(
        &mut self,
        name: &Arc<str>,
        answer: Result<Answer, Cause>,
        policy: &AddressPolicy,
        now: Duration,
    ) -> Vec<GroupId> {
        let Some(entry) = self.entries.get_mut(name) else { return Vec::new() };
        let (addresses, obstacle, again) = match answer {
            Err(cause) => (entry.addresses.clone(), Some(cause), RETRY),
            Ok(answer) => {
                let (mut allowed, obstacle) = permitted(answer.addresses, policy);
                // A family that was not answered keeps what it had: one lost AAAA answer is no reason to
                // drop all IPv6 targets.
                let unanswered = answer.unanswered.map(|family| family == Family::V6);
                allowed.extend(entry.addresses.iter().filter(|a| Some(a.is_ipv6()) == unanswered));
                allowed.sort_unstable();
                allowed.dedup();
                allowed.truncate(MAX_ADDRESSES);
                // An answer without a usable address is no reason to drop what works.
                let addresses = if allowed.is_empty() { entry.addresses.clone() } else { allowed };
                (addresses, obstacle, answer.valid_for)
            }
        };
        // A name that was dropped and taken up again meanwhile has a turn already.
        if let Some(due) = entry.due.replace(now + again) {
            self.due.remove(&(due, name.clone()));
        }
        self.due.insert((now + again, name.clone()));
        if entry.addresses == addresses && entry.obstacle == obstacle {
            return Vec::new();
        }
        entry.addresses = addresses;
        entry.obstacle = obstacle;
        entry.users.iter().copied().collect()
    }
}

fn permitted(addresses: Vec<IpAddr>, policy: &AddressPolicy) -> (Vec<IpAddr>, Option<Cause>) {
    let mut denied = None;
    let allowed: Vec<IpAddr> = addresses
        .into_iter()
        .filter(|address| match policy.permit(*address) {
            Ok(()) => true,
            Err(why) => {
                denied = Some(Cause::new(
                    Reason::AddressDenied,
                    format!("resolves to {address}, which {why}; it is neither probed nor served"),
                ));
                false
            }
        })
        .collect();
    (allowed, denied)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: GroupId = 1;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn known(remembered: &[&str]) -> (Names, Arc<str>) {
        let (mut names, name) = (Names::default(), Arc::<str>::from("db.example.org"));
        names.join(&name, USER, ips(remembered), &AddressPolicy::default(), Duration::ZERO);
        (names, name)
    }

    fn answer(names: &mut Names, name: &Arc<str>, addresses: &[&str], unanswered: Option<Family>) -> usize {
        let valid_for = Duration::from_secs(5);
        let answer = Answer { addresses: ips(addresses), valid_for, unanswered };
        names.answered(name, Ok(answer), &AddressPolicy::default(), Duration::ZERO).len()
    }

    fn failure(names: &mut Names, name: &Arc<str>) -> usize {
        let cause = Cause::new(Reason::NotResolved, "no name server answered in time");
        names.answered(name, Err(cause), &AddressPolicy::default(), Duration::ZERO).len()
    }

    #[test]
    fn an_earlier_run_is_remembered_until_there_is_an_answer() {
        let (mut names, name) = known(&["10.0.0.1", "127.0.0.1"]);
        assert_eq!(names.addresses(&name), ips(&["10.0.0.1"]), "what is forbidden now is not taken over");
        assert_eq!(
            names.take_due(Duration::ZERO),
            Some(name.clone()),
            "it is looked up at once all the same"
        );
        assert_eq!(failure(&mut names, &name), 1);
        assert_eq!(names.addresses(&name), ips(&["10.0.0.1"]));
        assert_eq!(names.obstacle(&name).map(|cause| cause.reason), Some(Reason::NotResolved));
        assert_eq!(failure(&mut names, &name), 0, "told once");
        assert_eq!(answer(&mut names, &name, &["10.0.0.2"], None), 1);
        assert_eq!((names.addresses(&name), names.obstacle(&name)), (ips(&["10.0.0.2"]), None));
    }

    #[test]
    fn what_is_in_use_is_not_replaced_by_what_is_remembered() {
        let (mut names, name) = known(&[]);
        answer(&mut names, &name, &["10.0.0.2"], None);
        names.join(&name, USER + 1, ips(&["10.0.0.1"]), &AddressPolicy::default(), Duration::ZERO);
        assert_eq!(names.addresses(&name), ips(&["10.0.0.2"]));
    }

    #[test]
    fn what_one_cep_remembers_helps_the_others_until_there_is_an_answer() {
        let (mut names, name) = known(&[]);
        failure(&mut names, &name);
        let others =
            names.join(&name, USER + 1, ips(&["10.0.0.1"]), &AddressPolicy::default(), Duration::ZERO);
        assert_eq!((others, names.addresses(&name)), (vec![USER], ips(&["10.0.0.1"])));
    }

    #[test]
    fn a_name_has_one_turn_at_a_time_whatever_happens_meanwhile() {
        let (mut names, name) = known(&[]);
        names.take_due(Duration::ZERO);
        names.leave(&name, USER);
        names.join(&name, USER, Vec::new(), &AddressPolicy::default(), Duration::from_secs(1));
        failure(&mut names, &name);
        assert_eq!(names.due.len(), 1);
        names.leave(&name, USER);
        assert_eq!((names.due.len(), names.entries.len()), (0, 0));
    }

    #[test]
    fn an_answer_of_thousands_is_cut() {
        let (mut names, name) = known(&[]);
        let many: Vec<String> = (0..1000).map(|n| format!("10.0.{}.{}", n / 250, n % 250)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        answer(&mut names, &name, &many, None);
        assert_eq!(names.addresses(&name).len(), MAX_ADDRESSES);
    }

    #[test]
    fn half_an_answer_keeps_the_other_half() {
        let (mut names, name) = known(&["10.0.0.1", "fd00::1"]);
        answer(&mut names, &name, &["10.0.0.2"], Some(Family::V6));
        assert_eq!(names.addresses(&name), ips(&["10.0.0.2", "fd00::1"]));
        answer(&mut names, &name, &["fd00::2"], None);
        assert_eq!(names.addresses(&name), ips(&["fd00::2"]));
    }
}
