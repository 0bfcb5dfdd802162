//! The room on the image file system, as far as it can be seen from here.
//!
//! The runtime says where that is on the node, and the daemon sees nothing of the node but its run directory. Nothing more
//! need be shown to it: its own root, an overlay, is written to where the runtime keeps images, and an overlay tells the room
//! of what it is written to. So no directory with the contents of images and containers is mounted.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cri::{Client, v1};
use crate::images::disk::Space;

/// What the kernel calls an overlay.
const OVERLAY: u64 = 0x794c_7630;
/// Ends of where containerd keeps containers as directories of the very same file system.
const PLAIN: [&str; 2] = ["snapshotter.v1.native", "snapshotter.v1.btrfs"];

/// Where the image file system is.
pub(super) struct Spaces {
    /// A directory on it, as somebody has said.
    said: Option<PathBuf>,
    has_told: AtomicBool,
}

// === impl Spaces ===

impl Spaces {
    pub(super) fn new(said: Option<PathBuf>) -> Self {
        Self { said, has_told: AtomicBool::new(false) }
    }

    /// A directory on the image file system. `None`, when it cannot be seen; that is told once.
    pub(super) async fn place(&self, client: &Client) -> Option<PathBuf> {
        let found = match &self.said {
            Some(said) => Ok(said.clone()),
            None => match client.image_fs_info().await {
                Ok(info) => place(&info, Path::new("/"), is_overlay),
                Err(error) => Err(error.to_string()),
            },
        };
        let found = found.and_then(|place| match space(&place) {
            Ok(_) => Ok(place),
            Err(error) => Err(format!("{}: {error}", place.display())),
        });
        match found {
            Ok(place) => Some(place),
            Err(reason) => {
                if !self.has_told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        reason,
                        "the room on the image file system is not known, so --image-fs-reserve is not kept; mount a \
                         directory of that file system and name it with --image-fs-path"
                    );
                }
                None
            }
        }
    }
}

/// The room on the file system of a directory.
pub(super) fn space(place: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(place)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Space { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
}

fn is_overlay(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == OVERLAY))
}

/// Where the file system of `info` can be seen: where the runtime says, for who runs on the node itself, or else at `root`.
fn place(info: &v1::ImageFsInfoResponse, root: &Path, is_overlay: impl Fn(&Path) -> bool) -> Result<PathBuf, String> {
    let mountpoint = |list: &[v1::FilesystemUsage]| -> Option<PathBuf> {
        let id = list.first()?.fs_id.as_ref()?;
        (!id.mountpoint.is_empty()).then(|| PathBuf::from(&id.mountpoint))
    };
    let images = mountpoint(&info.image_filesystems).ok_or("the runtime does not say where it keeps images")?;
    if images.is_dir() {
        return Ok(images);
    }
    // Where containers are written to elsewhere, the root tells of that.
    if mountpoint(&info.container_filesystems).is_some_and(|containers| containers != images) {
        return Err(format!("{} is on another file system than containers", images.display()));
    }
    if is_overlay(root) || images.to_str().is_some_and(|images| PLAIN.iter().any(|end| images.ends_with(end))) {
        return Ok(root.to_owned());
    }
    Err(format!("{} is not visible here, and the root of this container is no overlay", images.display()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn info(images: &str, containers: &str) -> v1::ImageFsInfoResponse {
        let at = |path: &str| {
            let fs_id = Some(v1::FilesystemIdentifier { mountpoint: path.to_owned() });
            let usage = v1::FilesystemUsage { fs_id, ..v1::FilesystemUsage::default() };
            if path.is_empty() { Vec::new() } else { vec![usage] }
        };
        v1::ImageFsInfoResponse { image_filesystems: at(images), container_filesystems: at(containers) }
    }

    #[rstest]
    #[case::on_the_node("/", "", false, Ok("/"))]
    #[case::in_a_container("/not/there", "", true, Ok("/root"))]
    #[case::as_one_file_system("/not/there", "/not/there", true, Ok("/root"))]
    #[case::apart("/not/there", "/elsewhere", true, Err("another file system"))]
    #[case::no_overlay("/not/there", "", false, Err("no overlay"))]
    #[case::a_plain_directory("/not/there/io.containerd.snapshotter.v1.native", "", false, Ok("/root"))]
    #[case::not_said("", "", true, Err("does not say"))]
    fn the_image_file_system_is_found(
        #[case] images: &str,
        #[case] containers: &str,
        #[case] overlay: bool,
        #[case] found: Result<&str, &str>,
    ) {
        let place = place(&info(images, containers), Path::new("/root"), |_| overlay);
        match (place, found) {
            (Ok(place), Ok(expected)) => assert_eq!(place, Path::new(expected)),
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (place, found) => panic!("{place:?} is not {found:?}"),
        }
    }

    #[test]
    fn the_room_is_told_in_bytes() {
        let space = space(Path::new("/")).unwrap();
        assert!(space.total > 1 << 20 && space.free <= space.total, "{space:?}");
    }
}
