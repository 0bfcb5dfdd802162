//! Restarting a container of many pods: which of them are asked for next, so that few enough are away at a time.
//!
//! What is known of a batch is the requests that it made; so it can be interrupted anywhere and taken up again.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde_json::Value;

use super::Request;
use crate::api::recreate::RecreateState;

/// How many pods may be away at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many.
    Count(usize),
    /// So many of a hundred, rounded down, and one at least.
    Percent(usize),
}

/// A pod that is selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Whether it is ready.
    pub is_ready: bool,
    /// How far it is.
    pub standing: Standing,
}

/// How far a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing was asked for yet.
    Waits,
    /// It needs nothing, and why.
    Spared(String),
    /// It was asked for.
    UnderWay,
    /// Its containers were restarted.
    Done,
    /// They were not, and why.
    Failed(String),
}

/// What is asked for next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wave {
    /// Indexes of the pods.
    pub next: Vec<usize>,
    /// How many pods are in which standing, before it is asked.
    pub counts: Counts,
    /// Whether there have been too many failures to ask for more.
    pub is_stopped: bool,
}

/// How many pods are in which standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Restarted.
    pub done: usize,
    /// Asked for.
    pub under_way: usize,
    /// Not asked for yet.
    pub waiting: usize,
    /// Not restarted.
    pub failed: usize,
    /// In need of nothing.
    pub spared: usize,
}

// === impl Limit ===

impl Limit {
    /// How many of `all` pods.
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (all * percent / 100).max(1),
        }
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no number of pods such as 3, and no share of them such as 10%");
        let limit = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent),
            None => text.parse().ok().map(Self::Count),
        };
        match limit.ok_or_else(wrong)? {
            Self::Count(0) | Self::Percent(0) => Err("with 0 pods away at a time, none is ever restarted".to_owned()),
            limit => Ok(limit),
        }
    }
}

// === impl Target ===

impl Target {
    /// Reads a pod. `requests` are those that the batch made for it, `containers` what is restarted, and `began` when the
    /// batch began: a pod that came later has run none of the old containers.
    pub fn read<'r>(
        pod: &Value,
        requests: impl IntoIterator<Item = &'r Request>,
        containers: &[String],
        began: Timestamp,
    ) -> Self {
        let (metadata, status) = (&pod["metadata"], &pod["status"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let uid = text(&metadata["uid"]);
        let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
        let is_ready = list(&status["conditions"])
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        let created = metadata["creationTimestamp"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        let has =
            |place: &Value, container: &String| list(place).iter().any(|there| there["name"] == container.as_str());
        let absent = containers
            .iter()
            .find(|name| !has(&pod["spec"]["containers"], name) && !has(&pod["spec"]["initContainers"], name));
        let standing = if let Some(request) = requests.into_iter().find(|request| request.pod_uid == uid) {
            Standing::of(request)
        } else if metadata["deletionTimestamp"].is_string() {
            Standing::Spared("it is going away".to_owned())
        } else if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")) {
            Standing::Spared("it has ended".to_owned())
        } else if let Some(absent) = absent {
            Standing::Spared(format!("it has no container {absent}"))
        } else if created.is_some_and(|created| created > began) {
            Standing::Spared("it came after the batch began".to_owned())
        } else if status["phase"] == "Pending" {
            Standing::Spared("its containers have not started yet".to_owned())
        } else {
            Standing::Waits
        };
        Self { name: text(&metadata["name"]), uid, is_ready, standing }
    }
}

// === impl Standing ===

impl Standing {
    fn of(request: &Request) -> Self {
        if !request.has_ended() {
            return Self::UnderWay;
        }
        let is_done = |state: &RecreateState| state.phase == "Succeeded";
        let (message, containers) = (&request.status.message, &request.status.container_recreate_states);
        if message.is_empty() && !containers.is_empty() && containers.iter().all(is_done) {
            return Self::Done;
        }
        // The manager says why it ended the request; the node, what became of a container.
        let mut said = vec![message.clone()];
        let troubled = containers.iter().filter(|state| !state.message.is_empty() && !message.contains(&state.message));
        said.extend(troubled.map(|state| format!("container {}: {}", state.name, state.message)));
        said.retain(|text| !text.is_empty());
        Self::Failed(said.join("; "))
    }
}

/// Chooses the pods that are asked for next. Of `targets` no more than `limit` are away at a time, unready ones included;
/// those come first, since they serve nobody anyway. With more than `most_failures`, nothing more is asked for.
pub fn wave(targets: &[Target], limit: Limit, most_failures: Option<usize>) -> Wave {
    let mut counts = Counts::default();
    for target in targets {
        *match target.standing {
            Standing::Waits => &mut counts.waiting,
            Standing::Spared(_) => &mut counts.spared,
            Standing::UnderWay => &mut counts.under_way,
            Standing::Done => &mut counts.done,
            Standing::Failed(_) => &mut counts.failed,
        } += 1;
    }
    let is_stopped = most_failures.is_some_and(|most| counts.failed > most);
    if is_stopped {
        return Wave { next: Vec::new(), counts, is_stopped };
    }
    let limit = limit.of(targets.len());
    let is_away = |target: &&Target| !target.is_ready || target.standing == Standing::UnderWay;
    let mut away = targets.iter().filter(is_away).count();
    let mut under_way = counts.under_way;
    let waiting = |is_ready: bool| {
        let targets = targets.iter().enumerate();
        targets.filter(move |(_, target)| target.standing == Standing::Waits && target.is_ready == is_ready)
    };
    let mut next = Vec::new();
    for (index, target) in waiting(false).chain(waiting(true)) {
        let costs = usize::from(target.is_ready);
        if under_way < limit && away + costs <= limit.max(away) {
            next.push(index);
            (away, under_way) = (away + costs, under_way + 1);
        }
    }
    Wave { next, counts, is_stopped }
}

// === impl Wave ===

impl Wave {
    /// Whether nothing is under way, and nothing will be.
    pub fn is_over(&self) -> bool {
        self.counts.under_way == 0 && self.next.is_empty() && (self.is_stopped || self.counts.waiting == 0)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, under_way, waiting, failed, spared } = self;
        write!(f, "{done} restarted, {under_way} under way, {waiting} to go, {failed} failed")?;
        if *spared > 0 { write!(f, ", {spared} left alone") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// One letter a pod: waits, under way, done, failed, spared; a capital is one that is not ready.
    fn targets(pods: &str) -> Vec<Target> {
        let target = |(n, letter): (usize, char)| Target {
            name: format!("p{n}"),
            uid: format!("u{n}"),
            is_ready: letter.is_lowercase(),
            standing: match letter.to_ascii_lowercase() {
                'w' => Standing::Waits,
                'u' => Standing::UnderWay,
                'd' => Standing::Done,
                'f' => Standing::Failed("x".to_owned()),
                _ => Standing::Spared("x".to_owned()),
            },
        };
        pods.chars().enumerate().map(target).collect()
    }

    #[rstest]
    #[case::as_many_as_may_be_away("wwww", "2", &[0, 1])]
    #[case::a_share_rounded_down("wwwwwwwwww", "25%", &[0, 1])]
    #[case::one_at_least("wwww", "10%", &[0])]
    #[case::what_is_under_way_counts("Uwww", "2", &[1])]
    #[case::also_while_it_is_still_ready("uwww", "2", &[1])]
    #[case::one_that_is_done_and_not_ready_again_counts("Dwww", "1", &[])]
    #[case::unready_ones_count_whatever_they_are("Sww", "1", &[])]
    #[case::unready_ones_come_first_and_cost_nothing("wWw", "1", &[1])]
    #[case::but_not_all_at_once("WWWW", "2", &[0, 1])]
    #[case::none_is_left("ddd", "1", &[])]
    fn no_more_are_away_than_may_be(#[case] pods: &str, #[case] limit: &str, #[case] next: &[usize]) {
        assert_eq!(wave(&targets(pods), limit.parse().unwrap(), Some(0)).next, next);
    }

    #[rstest]
    #[case::at_the_first("fww", Some(0), true, true)]
    #[case::not_before_the_others_are_through("fuw", Some(0), true, false)]
    #[case::later("fww", Some(1), false, false)]
    #[case::never("ffw", None, false, false)]
    #[case::all_is_done("dds", Some(0), false, true)]
    fn it_stops_at_failures(
        #[case] pods: &str,
        #[case] most: Option<usize>,
        #[case] is_stopped: bool,
        #[case] is_over: bool,
    ) {
        let wave = wave(&targets(pods), Limit::Count(5), most);
        assert_eq!((wave.is_stopped, wave.is_over()), (is_stopped, is_over));
    }

    #[rstest]
    #[case::zero("0")]
    #[case::no_share("0%")]
    #[case::more_than_all("101%")]
    #[case::words("some")]
    #[case::negative("-1")]
    #[case::nothing("")]
    fn what_is_no_limit_is_refused(#[case] text: &str) {
        assert!(text.parse::<Limit>().is_err());
    }

    fn request(status: &Value) -> Request {
        Request::read(&json!({
            "metadata": {"labels": {"crr.apps.kruise.io/pod-uid": "u"}}, "status": status,
        }))
    }

    #[rstest]
    #[case::begun(json!({}), Standing::UnderWay)]
    #[case::in_the_queue(json!({"phase": "Pending"}), Standing::UnderWay)]
    #[case::done(json!({"phase": "Completed", "containerRecreateStates": [{"name": "a", "phase": "Succeeded"}]}), Standing::Done)]
    #[case::late(
        json!({"phase": "Completed", "message": "recreating has exceeded the activeDeadlineSeconds",
            "containerRecreateStates": [{"name": "a", "phase": "Recreating", "message": "CrashLoopBackOff"}]}),
        Standing::Failed("recreating has exceeded the activeDeadlineSeconds; container a: CrashLoopBackOff".to_owned())
    )]
    #[case::never_begun(json!({"phase": "Completed", "message": "pod has gone"}), Standing::Failed("pod has gone".to_owned()))]
    fn a_request_tells_how_far_its_pod_is(#[case] status: Value, #[case] expected: Standing) {
        let pod = json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "a"}]}});
        let target = Target::read(&pod, [&request(&status)], &["a".to_owned()], Timestamp::UNIX_EPOCH);
        assert_eq!(target.standing, expected);
    }

    #[rstest]
    #[case::it_runs(json!({}), None)]
    #[case::it_came_later(json!({"metadata": {"creationTimestamp": "2026-03-02T09:00:00Z"}}), Some("it came after the batch began"))]
    #[case::it_goes(json!({"metadata": {"deletionTimestamp": "2026-03-02T07:00:00Z"}}), Some("it is going away"))]
    #[case::it_has_ended(json!({"status": {"phase": "Succeeded"}}), Some("it has ended"))]
    #[case::it_starts(json!({"status": {"phase": "Pending"}}), Some("its containers have not started yet"))]
    #[case::it_lacks_the_container(json!({"spec": {"containers": [{"name": "b"}]}}), Some("it has no container a"))]
    #[case::it_is_a_native_sidecar(json!({"spec": {"containers": [{"name": "b"}], "initContainers": [{"name": "a"}]}}), None)]
    fn pods_that_need_nothing_are_spared(#[case] change: Value, #[case] why: Option<&str>) {
        let mut pod = json!({
            "metadata": {"uid": "u", "creationTimestamp": "2026-03-02T07:00:00Z"},
            "spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Running"},
        });
        json_patch::merge(&mut pod, &change);
        let began = "2026-03-02T08:00:00Z".parse().unwrap();
        let target = Target::read(&pod, [], &["a".to_owned()], began);
        let expected = why.map_or(Standing::Waits, |why| Standing::Spared(why.to_owned()));
        assert_eq!(target.standing, expected);
    }
}
