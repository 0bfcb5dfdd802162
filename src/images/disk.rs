//! Whether there is room for an image: what is to stay free on the image file system, and what a person is told when a pull
//! would take it.
//!
//! The kubelet evicts pods when its image file system runs full, and begins to delete images before that; an image that is
//! only pulled ahead must never cause that. What an image will need is known once its manifest is: its missing layers, and
//! unpacked at least as much again. Before that, and while it is pulled, what counts is what is free.

use std::fmt;
use std::str::FromStr;

use crate::quantity::Quantity;

/// What is to stay free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// So many of a hundred parts of the file system.
    Percent(u8),
    /// So many bytes.
    Bytes(u64),
}

/// A text that says no reserve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a percentage from 0% to 100%, such as 15%, nor a size, such as 5Gi")]
pub struct NotAReserve(String);

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can be written.
    pub free: u64,
    /// Bytes that there are.
    pub total: u64,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Bytes that the image needs, once that is known.
    pub needed: Option<u64>,
    /// Bytes that were free.
    pub free: u64,
    /// Bytes that are to stay free.
    pub reserved: u64,
}

// === impl Reserve ===

impl Default for Reserve {
    /// Where the kubelet begins to evict pods unless it is told otherwise (`imagefs.available<15%`).
    fn default() -> Self {
        Self::Percent(15)
    }
}

impl Reserve {
    /// Bytes of a file system of this size.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Percent(percent) => {
                let bytes = u128::from(total) * u128::from(percent) / 100;
                u64::try_from(bytes).unwrap_or(u64::MAX)
            }
            Self::Bytes(bytes) => bytes,
        }
    }

    /// Whether `needed` bytes can be written to `space`, or anything at all when that is not known.
    pub fn allows(self, space: Space, needed: Option<u64>) -> Result<(), Full> {
        let reserved = self.of(space.total);
        let left = space.free.saturating_sub(needed.unwrap_or_default());
        // Who reserves nothing finds out by trying.
        if reserved == 0 || (space.free >= needed.unwrap_or_default() && left >= reserved) {
            return Ok(());
        }
        Err(Full { needed, free: space.free, reserved })
    }
}

impl FromStr for Reserve {
    type Err = NotAReserve;

    fn from_str(text: &str) -> Result<Self, NotAReserve> {
        let wrong = || NotAReserve(text.to_owned());
        if let Some(number) = text.strip_suffix('%') {
            let percent = number.parse().ok().filter(|percent| *percent <= 100).ok_or_else(wrong)?;
            return Ok(Self::Percent(percent));
        }
        let is_number = text.starts_with(|first: char| first.is_ascii_digit());
        let quantity = Quantity::parse(text).ok().filter(|_| is_number).ok_or_else(wrong)?;
        u64::try_from(quantity.millis() / 1000).map(Self::Bytes).map_err(|_| wrong())
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

// === impl Full ===

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, free, reserved } = self;
        f.write_str("the image file system has not enough room: ")?;
        if let Some(needed) = needed {
            write!(f, "at least {needed} bytes are needed, ")?;
        }
        write!(
            f,
            "{free} bytes are free, and {reserved} are to stay free; remove what is not used on the node, pull a smaller \
             image, or lower --image-fs-reserve of the daemon"
        )
    }
}

impl std::error::Error for Full {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::percent("15%", Some(Reserve::Percent(15)))]
    #[case::nothing("0%", Some(Reserve::Percent(0)))]
    #[case::everything("100%", Some(Reserve::Percent(100)))]
    #[case::binary("5Gi", Some(Reserve::Bytes(5 << 30)))]
    #[case::decimal("1.5G", Some(Reserve::Bytes(1_500_000_000)))]
    #[case::bytes("0", Some(Reserve::Bytes(0)))]
    #[case::too_much("101%", None)]
    #[case::negative("-1Gi", None)]
    #[case::negative_percent("-1%", None)]
    #[case::fraction("1.5%", None)]
    #[case::words("much", None)]
    #[case::empty("", None)]
    fn a_reserve_is_a_percentage_or_a_size(#[case] text: &str, #[case] read: Option<Reserve>) {
        assert_eq!(text.parse().ok(), read);
    }

    #[rstest]
    #[case::room(Some(300), true)]
    #[case::just_room(Some(350), true)]
    #[case::beyond(Some(351), false)]
    #[case::more_than_there_is(Some(2000), false)]
    #[case::not_known_yet(None, true)]
    fn an_image_may_not_go_into_the_reserve(#[case] needed: Option<u64>, #[case] is_allowed: bool) {
        let space = Space { free: 500, total: 1000 };
        assert_eq!(Reserve::Percent(15).allows(space, needed).is_ok(), is_allowed);
    }

    #[test]
    fn who_has_less_than_the_reserve_pulls_nothing_and_is_told_the_figures() {
        let full = Reserve::Bytes(600).allows(Space { free: 500, total: 1000 }, Some(200)).unwrap_err();
        let told = full.to_string();
        for part in
            ["at least 200 bytes are needed", "500 bytes are free", "600 are to stay free", "--image-fs-reserve"]
        {
            assert!(told.contains(part), "{told}");
        }
        assert!(Reserve::Bytes(600).allows(Space { free: 500, total: 1000 }, None).is_err());
        assert!(Reserve::Bytes(0).allows(Space { free: 0, total: 1000 }, Some(1)).is_ok(), "no reserve, no check");
    }

    proptest! {
        #[test]
        fn what_is_allowed_leaves_the_reserve(
            free in any::<u64>(), total in any::<u64>(), needed in prop::option::of(any::<u64>()), percent in 1_u8..=100,
        ) {
            let reserve = Reserve::Percent(percent);
            if reserve.allows(Space { free, total }, needed).is_ok() && reserve.of(total) > 0 {
                prop_assert!(free - needed.unwrap_or(0) >= reserve.of(total));
            }
        }
    }
}
