//! Images without anything in them that runs: layers of random bytes, so that no two images share one, and nothing makes
//! them smaller.

use std::fs::File;
use std::io::Read as _;

use anyhow::Result;
use axum::body::Bytes;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// So long are the blocks of a tar file.
const BLOCK: usize = 512;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image, as it is pushed.
pub struct Image {
    /// Config and layers: digest and bytes.
    pub blobs: Vec<(String, Bytes)>,
    pub manifest: Bytes,
    /// Of the manifest: by this the image is known.
    pub digest: String,
}

impl Image {
    /// One with a layer for each of these lengths, in bytes; each layer is a file of random bytes.
    pub fn random(layers: &[usize]) -> Result<Self> {
        let layers = layers.iter().enumerate().map(|(number, length)| layer(&format!("layer-{number}"), *length));
        let layers: Vec<(String, Bytes)> = layers.collect::<Result<_>>()?;
        let diff_ids: Vec<&str> = layers.iter().map(|(digest, _)| &**digest).collect();
        let config = json!({
            "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
            "os": "linux",
            "config": {"Cmd": ["/layer-0"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Bytes::from(config.to_string());
        let descriptor = |kind: &str, digest: &str, bytes: &Bytes| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": bytes.len()});
        let config_digest = digest(&config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("config.v1+json", &config_digest, &config),
            "layers": layers.iter().map(|(digest, it)| descriptor("layer.v1.tar", digest, it)).collect::<Vec<_>>(),
        });
        let manifest = Bytes::from(manifest.to_string());
        let blobs = [(config_digest, config)].into_iter().chain(layers).collect();
        Ok(Self { blobs, digest: digest(&manifest), manifest })
    }

    /// One layer of a few kilobytes.
    pub fn small() -> Result<Self> {
        Self::random(&[8 << 10])
    }

    /// Of all that a node has to fetch for it, in bytes.
    pub fn size(&self) -> u64 {
        self.blobs.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// `sha256:…`
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::from("sha256:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A tar file with one file.
fn layer(name: &str, length: usize) -> Result<(String, Bytes)> {
    let mut tar = header(name, length);
    let padded = length.next_multiple_of(BLOCK);
    // Two empty blocks are the end.
    tar.resize(BLOCK + padded + 2 * BLOCK, 0);
    File::open("/dev/urandom")?.read_exact(&mut tar[BLOCK..BLOCK + length])?;
    Ok((digest(&tar), Bytes::from(tar)))
}

/// The header of a regular file, as POSIX has it.
fn header(name: &str, length: usize) -> Vec<u8> {
    let mut header = vec![0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{length:011o}\0"));
    put(136, "00000000000\0");
    // The checksum is that of a header with blanks in its place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
