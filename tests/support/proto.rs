//! The Rust code of the runtimes' messages, made from what is in `proto/` without `protoc`.

#![allow(dead_code, unreachable_pub, reason = "each target uses its part")]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use prost::Message as _;

/// Where messages are described, and the package that they are in.
struct Described {
    proto: &'static str,
    package: &'static str,
}

const CRI: Described = Described { proto: "proto/cri/api.proto", package: "runtime.v1" };
const CONTENT: Described =
    Described { proto: "proto/containerd/content.proto", package: "containerd.services.content.v1" };
/// The message that holds passwords prints itself by hand.
const SECRET: [&str; 1] = [".runtime.v1.AuthConfig"];

/// A committed file with what it should hold.
pub struct Generated {
    /// Its path in the repository.
    pub path: &'static str,
    /// What is generated.
    pub text: String,
}

/// Everything that is generated: the messages and the clients, and for tests the servers.
pub fn generate() -> Result<[Generated; 4]> {
    let client = |builder: tonic_prost_build::Builder| builder.build_server(false);
    let server = |package: &'static str, module: &'static str| {
        move |builder: tonic_prost_build::Builder| {
            builder.build_client(false).extern_path(format!(".{package}"), module)
        }
    };
    Ok([
        make(&CRI, "src/cri/v1.rs", client)?,
        make(&CRI, "tests/support/cri/server.rs", server(CRI.package, "::outrigger::cri::v1"))?,
        make(&CONTENT, "src/cri/content.rs", client)?,
        make(&CONTENT, "tests/support/cri/content.rs", server(CONTENT.package, "::outrigger::cri::content"))?,
    ])
}

fn make(
    described: &Described,
    path: &'static str,
    with: impl FnOnce(tonic_prost_build::Builder) -> tonic_prost_build::Builder,
) -> Result<Generated> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = root.join(described.proto);
    let source = fs::read_to_string(&proto)?;
    // What was trimmed from a file under a licence keeps it.
    let licence = source.split_inclusive("*/").next().filter(|text| text.starts_with("/*"));
    let licence = licence.map(|text| format!("{text}\n\n")).unwrap_or_default();
    let set = protox::Compiler::new([proto.parent().context("a file is in a directory")?])?
        .include_source_info(true)
        .open_file(&proto)?
        .encode_file_descriptor_set();
    // By way of bytes: the two crates need not share their types.
    let set = tonic_prost_build::FileDescriptorSet::decode(&*set)?;
    let out = tempfile::tempdir()?;
    let builder = tonic_prost_build::configure().build_transport(false).btree_map(".").skip_debug(SECRET).out_dir(&out);
    with(builder).compile_fds(set)?;
    let text = fs::read_to_string(out.path().join(format!("{}.rs", described.package)))?;
    Ok(Generated { path, text: format!("{licence}{text}") })
}
