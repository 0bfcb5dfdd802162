//! Feature gates: what can be switched on or off by `--feature-gates`, under the reference's names where it has one.

use std::str::FromStr;

/// What is switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a gate of its own")]
pub struct Gates {
    /// `InPlaceUpdateNativeSidecar`, on: init containers that restart always are updated in place.
    pub in_place_native_sidecar: bool,
    /// `SidecarSetPatchPodMetadataDefaultsAllowed`, off: SidecarSets may patch any annotation while there is no white list
    /// (SSV-32).
    pub patch_metadata_defaults_allowed: bool,
    /// `KruiseDaemon`, on: containers are recreated on request (CRR-1).
    pub daemon: bool,
    /// `ImagePullJobGate`, on: images are pulled ahead (IPJ-6). Never on without `KruiseDaemon` (FG-2).
    ///
    /// Differs: FG-1. Off by default in the reference, where it was new; who installs this has asked for it.
    pub image_pull_job: bool,
}

/// A text that is no list of gates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not GATE=true or GATE=false")]
pub struct NotAGate(String);

// === impl Gates ===

impl Default for Gates {
    fn default() -> Self {
        Self {
            in_place_native_sidecar: true,
            patch_metadata_defaults_allowed: false,
            daemon: true,
            image_pull_job: true,
        }
    }
}

impl FromStr for Gates {
    type Err = NotAGate;

    /// Reads `A=true,B=false`. Gates that are not known are ignored: the reference has many that mean nothing here.
    fn from_str(text: &str) -> Result<Self, NotAGate> {
        let mut gates = Self::default();
        for gate in text.split(',').map(str::trim).filter(|gate| !gate.is_empty()) {
            let wrong = || NotAGate(gate.to_owned());
            let (name, value) = gate.split_once('=').ok_or_else(wrong)?;
            let value = value.parse().map_err(|_| wrong())?;
            match name {
                "InPlaceUpdateNativeSidecar" => gates.in_place_native_sidecar = value,
                "SidecarSetPatchPodMetadataDefaultsAllowed" => gates.patch_metadata_defaults_allowed = value,
                "KruiseDaemon" => gates.daemon = value,
                "ImagePullJobGate" => gates.image_pull_job = value,
                _ => {}
            }
        }
        gates.image_pull_job &= gates.daemon;
        Ok(gates)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nothing("", true, false, true)]
    #[case::all(
        "InPlaceUpdateNativeSidecar=false, SidecarSetPatchPodMetadataDefaultsAllowed=true,KruiseDaemon=false",
        false,
        true,
        false
    )]
    #[case::those_of_others("PodWebhook=false,InPlaceUpdateNativeSidecar=true", true, false, true)]
    fn gates_are_read(#[case] text: &str, #[case] native: bool, #[case] metadata: bool, #[case] daemon: bool) {
        let read = text.parse::<Gates>().unwrap();
        assert_eq!(
            [read.in_place_native_sidecar, read.patch_metadata_defaults_allowed, read.daemon],
            [native, metadata, daemon]
        );
    }

    #[rstest]
    #[case::by_default("", true)]
    #[case::off("ImagePullJobGate=false", false)]
    #[case::not_without_a_daemon("ImagePullJobGate=true,KruiseDaemon=false", false)]
    fn images_are_pulled_ahead_where_there_is_a_daemon_fg_2(#[case] text: &str, #[case] is_on: bool) {
        assert_eq!(text.parse::<Gates>().unwrap().image_pull_job, is_on);
    }

    #[rstest]
    #[case::no_value("InPlaceUpdateNativeSidecar", "InPlaceUpdateNativeSidecar")]
    #[case::another_value("A=true,InPlaceUpdateNativeSidecar=yes", "InPlaceUpdateNativeSidecar=yes")]
    fn what_is_no_gate_is_named(#[case] text: &str, #[case] named: &str) {
        assert_eq!(text.parse::<Gates>(), Err(NotAGate(named.to_owned())));
    }
}
