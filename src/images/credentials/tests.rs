use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;

fn secret(auths: &Value) -> Vec<Login> {
    let text = json!({"auths": auths, "credsStore": "unknown members are tolerated"}).to_string();
    Login::read(CONFIG_JSON, &[(CONFIG_JSON_KEY.to_owned(), text.into_bytes())].into()).unwrap()
}

/// A secret that logs in at each place under the name of that place.
fn logins(places: &[&str]) -> Vec<Login> {
    secret(&places.iter().map(|place| ((*place).to_owned(), json!({"username": place, "password": "p"}))).collect())
}

fn users(keyring: &Keyring, name: &str) -> Vec<String> {
    keyring.matching(name).into_iter().map(|credential| credential.username.clone()).collect()
}

#[rstest]
#[case::host("reg.example", "reg.example/team/app", true)]
#[case::other_host("reg.example", "other.example/team/app", false)]
#[case::scheme("https://reg.example", "reg.example/app", true)]
#[case::plain_scheme("http://reg.example", "reg.example/app", true)]
#[case::version("https://reg.example/v2/", "reg.example/app", true)]
#[case::version_without_slash("https://reg.example/v1", "reg.example/app", true)]
#[case::version_and_path("reg.example/v2/team", "reg.example/team/app", true)]
#[case::path_like_a_version("reg.example/v2x", "reg.example/app", false)]
#[case::path("reg.example/team", "reg.example/team/app", true)]
#[case::other_path("reg.example/team", "reg.example/other/app", false)]
#[case::beginning_of_a_path("reg.example/te", "reg.example/team/app", true)]
#[case::port("reg.example:5000", "reg.example:5000/app", true)]
#[case::no_port("reg.example", "reg.example:5000/app", false)]
#[case::another_port("reg.example:5001", "reg.example:5000/app", false)]
#[case::glob("*.example", "reg.example/app", true)]
#[case::glob_of_one_part("*.example", "a.reg.example/app", false)]
#[case::glob_in_a_part("r?g*.example", "reg1.example/app", true)]
#[case::class("reg[0-9].example", "reg7.example/app", true)]
#[case::not_in_class("reg[^0-9].example", "reg7.example/app", false)]
#[case::broken_glob("reg[.example", "reg[.example/app", false)]
#[case::default_registry("https://index.docker.io/v1/", "nginx", true)]
#[case::default_registry_by_name("docker.io", "nginx", true)]
#[case::path_of_the_default_registry("docker.io/library", "nginx", true)]
#[case::somebodys_path("docker.io/team", "nginx", false)]
#[case::default_registry_is_no_other("https://index.docker.io/v1/", "reg.example/nginx", false)]
#[case::loopback("localhost:5000", "localhost:5000/app", true)]
fn a_login_is_for_a_place_img_54(#[case] place: &str, #[case] image: &str, #[case] is_for: bool) {
    let keyring = Keyring::new([logins(&[place])]);
    assert_eq!(!keyring.matching(image).is_empty(), is_for);
}

#[test]
fn longer_paths_come_first_and_secrets_in_their_order_img_54() {
    let again = secret(&json!({"reg.example/team": {"username": "second", "password": "p"}}));
    let keyring = Keyring::new([logins(&["reg.example", "reg.example/team", "*.example"]), again]);
    let expected = ["reg.example/team", "second", "reg.example", "*.example"];
    assert_eq!(users(&keyring, "reg.example/team/app"), expected);
    assert_eq!(users(&keyring, "reg.example/other"), ["reg.example", "*.example"]);
}

#[test]
fn the_entry_of_the_default_registry_counts_only_when_nothing_matches_img_54() {
    let keyring = Keyring::new([logins(&["https://index.docker.io/v1/", "docker.io/team"])]);
    assert_eq!(users(&keyring, "team/app"), ["docker.io/team"]);
    assert_eq!(users(&keyring, "nginx"), ["https://index.docker.io/v1/"]);
}

#[test]
fn one_credential_is_tried_once() {
    let same = || secret(&json!({"reg.example": {"username": "u", "password": "p"}}));
    assert_eq!(Keyring::new([same(), same()]).matching("reg.example/app").len(), 1);
}

#[rstest]
#[case::members(json!({"username": "u", "password": "p:q"}))]
#[case::auth(json!({"auth": STANDARD.encode("u:p:q")}))]
#[case::auth_without_padding(json!({"auth": STANDARD_NO_PAD.encode("u:p:q")}))]
#[case::auth_counts_more(json!({"username": "x", "password": "y", "auth": STANDARD.encode("u:p:q"), "email": "e"}))]
fn a_password_is_read_img_53(#[case] entry: Value) {
    let keyring = Keyring::new([secret(&json!({"reg.example": entry}))]);
    let expected = Credential { username: "u".to_owned(), password: "p:q".to_owned() };
    assert_eq!(keyring.matching("reg.example/app"), [&expected]);
}

#[rstest]
#[case::flat(CONFIG, CONFIG_KEY, r#"{"reg.example": {"username": "u", "password": "p"}}"#, 1)]
#[case::no_logins(CONFIG_JSON, CONFIG_JSON_KEY, "{}", 0)]
#[case::helper(CONFIG_JSON, CONFIG_JSON_KEY, r#"{"auths": {"reg.example": {}, "b": null}, "credsStore": "x"}"#, 0)]
#[case::empty(CONFIG_JSON, CONFIG_JSON_KEY, "", 0)]
#[case::other_member(CONFIG_JSON, CONFIG_KEY, "{}", 0)]
#[case::other_type("Opaque", CONFIG_JSON_KEY, "not JSON", 0)]
fn the_type_says_what_is_read_img_53(
    #[case] r#type: &str,
    #[case] key: &str,
    #[case] text: &str,
    #[case] count: usize,
) {
    let data = [(key.to_owned(), text.as_bytes().to_vec())].into();
    assert_eq!(Login::read(r#type, &data).unwrap().len(), count);
}

#[rstest]
#[case::not_json(r#"{"auths": hunter2"#, "is not JSON (line 1, column 11)")]
#[case::list("[\"hunter2\"]", "it is not an object")]
#[case::auths(r#"{"auths": "hunter2"}"#, "`auths` is not an object")]
#[case::entry(r#"{"auths": {"reg": "hunter2"}}"#, "the entry of \"reg\" is not an object")]
#[case::number(r#"{"auths": {"reg": {"password": 12}}}"#, "has a `password` that is not a string")]
#[case::not_base64(r#"{"auths": {"reg": {"auth": "hunter2!"}}}"#, "has an `auth` that is not base64 of a text")]
#[case::no_colon(
    r#"{"auths": {"reg": {"auth": "aHVudGVyMg=="}}}"#,
    "has an `auth` that is not base64 of user:password"
)]
fn what_cannot_be_read_is_told_without_the_secret_img_53(#[case] text: &str, #[case] told: &str) {
    let data = [(CONFIG_JSON_KEY.to_owned(), text.as_bytes().to_vec())].into();
    let error = Login::read(CONFIG_JSON, &data).unwrap_err().to_string();
    assert!(error.contains(told) && !error.contains("hunter2") && !error.contains("aHVu"), "{error}");
}

#[test]
fn nothing_prints_a_password() {
    let keyring = Keyring::new([secret(&json!({"reg.example": {"username": "u", "password": "hunter2"}}))]);
    let printed = format!("{keyring:?} {:?}", keyring.matching("reg.example/app"));
    assert!(printed.contains("reg.example") && !printed.contains("hunter2"), "{printed}");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".*", flat in any::<bool>()) {
        let (r#type, key) = if flat { (CONFIG, CONFIG_KEY) } else { (CONFIG_JSON, CONFIG_JSON_KEY) };
        _ = Login::read(r#type, &[(key.to_owned(), text.into_bytes())].into());
    }

    #[test]
    fn any_place_is_compared_with_any_image(place in ".*", image in ".*") {
        _ = is_within(&place, &image);
    }

    #[test]
    fn a_place_without_globs_is_that_host_and_what_is_below_it(
        host in "[a-z]{1,5}(\\.[a-z]{1,5}){1,3}(:[0-9]{2,5})?", other in "[a-z]{1,5}(\\.[a-z]{1,5}){1,3}",
        path in "(/[a-z]{1,4}){0,3}", rest in "(/[a-z]{1,4}){1,3}",
    ) {
        let keyring = Keyring::new([logins(&[&format!("https://{host}{path}")])]);
        let name = |host: &str| format!("{host}{path}{rest}");
        prop_assert_eq!(keyring.matching(&name(&host)).len(), 1);
        prop_assert!(other == host || keyring.matching(&name(&other)).is_empty());
    }

    #[test]
    fn every_match_is_of_some_login_and_the_first_has_the_longest_path(
        paths in prop::collection::vec("(/[ab]){0,4}", 1..6), image in "(/[ab]){1,5}",
    ) {
        let places: Vec<String> = paths.iter().map(|path| format!("reg.example{path}")).collect();
        let keyring = Keyring::new([logins(&places.iter().map(String::as_str).collect::<Vec<_>>())]);
        let found = users(&keyring, &format!("reg.example{image}"));
        let longest = paths.iter().filter(|path| image.starts_with(path.as_str())).map(String::len).max();
        prop_assert_eq!(found.first().map(|place| place.len() - "reg.example".len()), longest);
        prop_assert!(found.iter().all(|place| places.contains(place)));
    }

    #[test]
    fn a_star_fits_anything_and_a_text_fits_itself(before in "[a-z]{0,4}", after in "[a-z]{0,4}", between in "[a-z]{0,9}") {
        let text = format!("{before}{between}{after}");
        prop_assert!(fits(text.as_bytes(), text.as_bytes()));
        let starred = format!("{before}*{after}");
        prop_assert!(fits(starred.as_bytes(), text.as_bytes()));
    }
}
