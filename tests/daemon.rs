//! The node's side against a runtime of our own on a real unix socket.

#[path = "support/proto.rs"]
mod proto;

use std::fs;
use std::path::Path;

#[test]
fn the_code_of_the_runtimes_messages_is_what_their_description_makes() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for generated in proto::generate().unwrap() {
        let committed = fs::read_to_string(generated.path).unwrap_or_default();
        let made = target.join(generated.path.replace('/', "-"));
        fs::write(&made, &generated.text).unwrap();
        assert!(committed == generated.text, "changed; take it: cp {} {}", made.display(), generated.path);
    }
}
