//! Room in a file system, and the part of it that Homeward leaves to others.

use std::fmt;

/// What replicas, undo journals and points in time leave free, bytes. On a small file system a twentieth of it.
///
/// In it the registers go on being written, a guest goes on writing to its sparse disks, and an administrator can still log in.
const LEFT_ALONE: u64 = 1 << 30;

/// Room in one file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Free for this process.
    pub free: u64,
    /// The whole file system.
    pub total: u64,
}

impl Room {
    /// What is left alone.
    #[must_use]
    pub fn left_alone(self) -> u64 {
        LEFT_ALONE.min(self.total / 20)
    }

    /// What may be taken.
    #[must_use]
    pub fn spare(self) -> u64 {
        self.free.saturating_sub(self.left_alone())
    }

    /// Whether what is left alone has been begun.
    #[must_use]
    pub fn is_scarce(self) -> bool {
        self.free < self.left_alone()
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes can be had ({} are free, the last {} of {} are left for others)",
            self.spare(),
            self.free,
            self.left_alone(),
            self.total
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_gibibyte_or_twentieth_is_left_alone() {
        const GIB: u64 = 1 << 30;
        for (free, total, spare, scarce) in [
            (GIB, 1000 * GIB, 0, false),
            (3 * GIB, 1000 * GIB, 2 * GIB, false),
            (GIB - 1, 1000 * GIB, 0, true),
            (GIB / 2, 10 * GIB, 0, false),
            (GIB, 10 * GIB, GIB / 2, false),
            (GIB / 2 - 1, 10 * GIB, 0, true),
            (0, 1, 0, false),
            (0, 20, 0, true),
        ] {
            let room = Room { free, total };
            assert_eq!(
                (room.spare(), room.is_scarce()),
                (spare, scarce),
                "{free} of {total}"
            );
        }
    }
}
