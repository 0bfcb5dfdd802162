use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use rstest::rstest;

use super::fault::shorten;
use super::*;
use crate::images::disk::Full;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn tag(timeout: Option<i32>, retries: Option<i32>, deadline: Option<i64>, policy: &str) -> ImageTagSpec {
    let pull_policy = TagPullPolicy {
        timeout_seconds: timeout,
        backoff_limit: retries,
        active_deadline_seconds: deadline,
        ..TagPullPolicy::default()
    };
    ImageTagSpec {
        tag: "1".to_owned(),
        created_at: Some(Time(at(100))),
        pull_policy: Some(pull_policy),
        image_pull_policy: policy.to_owned(),
        ..ImageTagSpec::default()
    }
}

#[rstest]
#[case::nothing_said(None, None, 600, 3)]
#[case::said(Some(5), Some(0), 5, 0)]
#[case::negative(Some(-5), Some(-1), 600, 3)]
#[case::zero_seconds(Some(0), Some(9), 600, 9)]
fn a_policy_has_defaults_img_41(
    #[case] timeout: Option<i32>,
    #[case] limit: Option<i32>,
    #[case] seconds: u64,
    #[case] retries: u32,
) {
    let policy = Policy::of(&tag(timeout, limit, None, ""), at(0));
    assert_eq!((policy.timeout.as_secs(), policy.retries, policy.deadline), (seconds, retries, None));
}

#[test]
fn the_deadline_counts_from_when_it_was_asked_for_weak_45() {
    let mut spec = tag(None, None, Some(60), "");
    assert_eq!(Policy::of(&spec, at(500)).deadline, Some(at(160)));
    spec.created_at = None;
    assert_eq!(Policy::of(&spec, at(500)).deadline, Some(at(560)), "or from when it was first heard of");
    assert_eq!(Policy::of(&tag(None, None, Some(i64::MAX), ""), at(0)).deadline, None);
}

#[rstest]
#[case::empty("", true)]
#[case::always("Always", true)]
#[case::if_not_present("IfNotPresent", false)]
fn an_empty_policy_is_always_img_47(#[case] policy: &str, #[case] is_always: bool) {
    assert_eq!(Policy::of(&tag(None, None, None, policy), at(0)).is_always, is_always);
}

fn broken() -> Failure {
    Failure::of("app:1", Answer::Refused("unexpected EOF"))
}

#[test]
fn it_is_tried_again_after_1_2_4_up_to_30_seconds_img_41() {
    let policy = Policy::of(&tag(None, Some(7), None, ""), at(0));
    let (mut attempts, mut now, mut pauses) = (Attempts::default(), 1000, Vec::new());
    loop {
        match attempts.next(&policy, at(now)) {
            Step::Try(limit) => {
                assert_eq!(limit.as_secs(), 600);
                attempts.failed(broken(), at(now));
            }
            Step::Rest(until) => {
                pauses.push(until.as_second() - now);
                now = until.as_second();
            }
            Step::GiveUp(why) => {
                assert!(why.ends_with("attempt 8 of 8 failed"), "{why}");
                break;
            }
        }
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
}

#[rstest]
#[case::not_found(Answer::Gone("docker.io/library/app:1: not found"), true)]
#[case::denied(Answer::Refused("unexpected status from HEAD request: 401 Unauthorized"), true)]
#[case::invalid(Answer::Invalid("invalid reference format"), true)]
#[case::busy(Answer::Refused("429 Too Many Requests"), false)]
#[case::slow(Answer::Slow(Duration::from_secs(2)), false)]
#[case::other(Answer::Refused("something new"), false)]
fn what_would_fail_the_same_way_is_not_tried_again_weak_30(#[case] answer: Answer<'_>, #[case] is_final: bool) {
    let policy = Policy::of(&tag(None, Some(3), None, ""), at(0));
    let mut attempts = Attempts::default();
    attempts.failed(Failure::of("app:1", answer), at(1000));
    match attempts.next(&policy, at(1000)) {
        Step::GiveUp(why) => {
            assert!(is_final && why.contains("attempt 1 of 4 failed, not tried again"), "{why}");
        }
        step => assert!(!is_final && step == Step::Rest(at(1001)), "{step:?}"),
    }
}

#[test]
fn what_is_left_until_the_deadline_is_all_there_is_img_42() {
    let policy = Policy::of(&tag(Some(600), None, Some(60), ""), at(0));
    let mut attempts = Attempts::default();
    assert_eq!(attempts.next(&policy, at(150)), Step::Try(Duration::from_secs(10)));
    attempts.failed(broken(), at(159));
    attempts.failed(broken(), at(159));
    assert_eq!(attempts.next(&policy, at(159)), Step::Rest(at(160)), "and no longer is waited for");
    let Step::GiveUp(why) = attempts.next(&policy, at(160)) else { panic!() };
    assert!(why.starts_with("pulling exceeds the activeDeadlineSeconds; attempt 2 of 4 failed: app:1: "), "{why}");
    assert_eq!(Attempts::default().next(&policy, at(160)), Step::GiveUp(DEADLINE.to_owned()), "also while it waits");
}

#[rstest]
#[case(
    Answer::Gone(
        "failed to pull and unpack image \"docker.io/library/app:1\": failed to resolve reference \"docker.io/library/app:1\": docker.io/library/app:1: not found"
    ),
    Fault::Unknown
)]
#[case(Answer::Gone("manifest unknown"), Fault::Unknown)]
#[case(Answer::Refused("reading manifest 9 in docker.io/library/app: manifest unknown"), Fault::Unknown)]
#[case(Answer::Gone("no match for platform in manifest sha256:ab: not found"), Fault::Platform)]
#[case(
    Answer::Refused(
        "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"
    ),
    Fault::Denied
)]
#[case(
    Answer::Refused(
        "failed to resolve reference \"reg:5000/a:1\": failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://auth/token: 401 Unauthorized"
    ),
    Fault::Denied
)]
#[case(
    Answer::Refused("unexpected status from HEAD request to http://reg:5000/v2/a/manifests/1: 429 Too Many Requests"),
    Fault::Busy
)]
#[case(Answer::Refused("toomanyrequests: You have reached your pull rate limit"), Fault::Busy)]
#[case(
    Answer::Refused(
        "failed to copy: httpReadSeeker: failed open: unexpected status code http://reg/v2/a: 503 Service Unavailable"
    ),
    Fault::Server
)]
#[case(
    Answer::Refused(
        "failed to commit: failed commit on ref \"layer-sha256:ab\": unexpected commit size 10, expected 20: failed precondition"
    ),
    Fault::Broken
)]
#[case(Answer::Refused("failed to copy: httpReadSeeker: unexpected EOF"), Fault::Broken)]
#[case(Answer::Refused("failed to extract layer sha256:ab: gzip: invalid header"), Fault::Broken)]
#[case(
    Answer::Gone(
        "failed to copy: httpReadSeeker: failed open: could not fetch content descriptor sha256:ab from remote: not found"
    ),
    Fault::Broken
)]
#[case(Answer::Refused("write /var/lib/containerd/x: no space left on device"), Fault::Full)]
#[case(Answer::Refused("failed to extract layer sha256:ab: write /x: no space left on device: unknown"), Fault::Full)]
#[case(Answer::Refused("dial tcp: lookup reg on 10.0.0.1:53: no such host"), Fault::Unreachable)]
#[case(Answer::Refused("dial tcp 10.0.0.1:5000: connect: connection refused"), Fault::Unreachable)]
#[case(
    Answer::Refused("tls: failed to verify certificate: x509: certificate signed by unknown authority"),
    Fault::Untrusted
)]
#[case(Answer::Refused("http: server gave HTTP response to HTTPS client"), Fault::Untrusted)]
#[case(Answer::Refused("net/http: request canceled (Client.Timeout exceeded while awaiting headers)"), Fault::Slow)]
#[case(Answer::Refused("context deadline exceeded"), Fault::Slow)]
#[case(Answer::Slow(Duration::from_secs(3)), Fault::Slow)]
#[case(Answer::Cut("connection refused"), Fault::Runtime)]
#[case(Answer::Invalid("invalid reference format"), Fault::Invalid)]
#[case(Answer::Refused("failed to parse image reference \"A\": repository name must be lowercase"), Fault::Invalid)]
#[case(Answer::Refused("something new"), Fault::Other)]
fn an_answer_is_of_a_class_weak_30(#[case] answer: Answer<'_>, #[case] fault: Fault) {
    let failure = Failure::of("app:1", answer);
    assert_eq!(failure.fault, fault);
    assert!(failure.told.starts_with("app:1: ") && failure.told.contains("; "), "{failure}");
}

#[test]
fn what_an_image_is_called_does_not_count_weak_30() {
    let words = "failed to resolve reference \"reg.example/team/certificate:1\": HEAD https://reg.example/v2/team/certificate/manifests/1: 503 Service Unavailable";
    let failure = Failure::of("reg.example/team/certificate:1", Answer::Refused(words));
    assert_eq!(failure.fault, Fault::Server);
}

#[test]
fn a_message_names_the_image_once_says_what_and_what_to_do() {
    let words = "failed to pull and unpack image \"reg:5000/a:1\": failed to resolve reference \"reg:5000/a:1\": reg:5000/a:1: not found";
    let failure = Failure::of("reg:5000/a:1", Answer::Gone(words));
    let told = "reg:5000/a:1: the registry does not have it (not found); check its name and tag; a registry may also say so \
                to who may not read it";
    assert_eq!(failure.to_string(), told);
    let long = Failure::of("a:1", Answer::Refused(&"x".repeat(10_000)));
    assert!(long.told.len() < 500, "{}", long.told.len());
    let full = Failure::full("a:1", &Full { needed: Some(7), free: 5, reserved: 3 });
    assert!(full.told.contains("7 bytes") && !full.is_final(), "{full}");
}

#[test]
fn failures_of_several_credentials_are_told_together_img_55() {
    let denied = || Failure::of("a:1", Answer::Refused("401 Unauthorized"));
    let joined = Failure::join(vec![denied(), denied()]).unwrap();
    assert_eq!((joined.is_final(), joined.told), (true, denied().told), "the same is told once");
    let joined = Failure::join(vec![denied(), Failure::of("a:1", Answer::Refused("502 Bad Gateway"))]).unwrap();
    assert!(!joined.is_final() && joined.told.contains("502"), "{joined}");
    assert_eq!(Failure::join(Vec::new()), None);
}

proptest! {
    #[test]
    fn attempts_end_and_never_exceed_their_limits(
        retries in 0_i32..6, timeout in 1_i32..50, deadline in prop::option::of(1_i64..200),
        took in prop::collection::vec((0_i64..60, 0_usize..14), 12),
    ) {
        let policy = Policy::of(&tag(Some(timeout), Some(retries), deadline, ""), at(100));
        let (mut attempts, mut now, mut tries) = (Attempts::default(), 100, 0);
        for _ in 0..100 {
            match attempts.next(&policy, at(now)) {
                Step::Try(limit) => {
                    let limit = i64::try_from(limit.as_secs()).unwrap();
                    prop_assert!(limit >= 1 && limit <= i64::from(timeout));
                    prop_assert!(deadline.is_none_or(|deadline| now + limit <= 100 + deadline));
                    let (seconds, fault) = took[tries];
                    tries += 1;
                    prop_assert!(tries <= usize::try_from(retries).unwrap() + 1);
                    now += seconds.min(limit);
                    attempts.failed(Failure::new("a:1", Fault::ALL[fault], "x"), at(now));
                }
                Step::Rest(until) => {
                    prop_assert!(until > at(now) && until.as_second() - now <= 30);
                    now = until.as_second();
                }
                Step::GiveUp(why) => {
                    let is_late = deadline.is_some_and(|deadline| now >= 100 + deadline);
                    let is_final = tries > 0 && Fault::ALL[took[tries - 1].1].is_final();
                    prop_assert!(is_late || is_final || tries == usize::try_from(retries).unwrap() + 1, "{}", why);
                    return Ok(());
                }
            }
        }
        prop_assert!(false, "it has no end");
    }

    #[test]
    fn a_shortened_text_is_short_and_whole_characters(text in "\\PC*", limit in 0_usize..80) {
        let short = shorten(&text, limit);
        prop_assert!(short.len() <= limit.max(5) || short == text, "{}", short);
    }

    #[test]
    fn any_words_are_told(words in ".*", image in ".*") {
        _ = Failure::of(&image, Answer::Refused(&words));
    }
}
