//! The Rust code of the CRI messages, made from `proto/cri/api.proto` without `protoc`.

#![allow(dead_code, unreachable_pub, reason = "each target uses its part")]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use prost::Message as _;

/// Where the messages are described.
const PROTO: &str = "proto/cri/api.proto";
/// The message that holds passwords prints itself by hand.
const SECRET: [&str; 1] = [".runtime.v1.AuthConfig"];

/// A committed file with what it should hold.
pub struct Generated {
    /// Its path in the repository.
    pub path: &'static str,
    /// What is generated.
    pub text: String,
}

/// Everything that is generated: the messages and the client, and for tests the server.
pub fn generate() -> Result<[Generated; 2]> {
    let client = make("src/cri/v1.rs", |builder| builder.build_server(false))?;
    let server = make("tests/support/cri/server.rs", |builder| {
        builder.build_client(false).extern_path(".runtime.v1", "::outrigger::cri::v1")
    })?;
    Ok([client, server])
}

fn make(
    path: &'static str,
    with: impl FnOnce(tonic_prost_build::Builder) -> tonic_prost_build::Builder,
) -> Result<Generated> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = root.join(PROTO);
    let licence = fs::read_to_string(&proto)?;
    let licence = licence.split_inclusive("*/").next().context("the licence is on top")?;
    let described = protox::Compiler::new([root.join("proto/cri")])?
        .include_source_info(true)
        .open_file(&proto)?
        .encode_file_descriptor_set();
    // By way of bytes: the two crates need not share their types.
    let described = tonic_prost_build::FileDescriptorSet::decode(&*described)?;
    let out = tempfile::tempdir()?;
    let builder = tonic_prost_build::configure().build_transport(false).btree_map(".").skip_debug(SECRET).out_dir(&out);
    with(builder).compile_fds(described)?;
    let text = fs::read_to_string(out.path().join("runtime.v1.rs"))?;
    Ok(Generated { path, text: format!("{licence}\n\n{text}") })
}
