//! What follows from a failure, by its class; never by its words.

use jiff::SignedDuration;

/// Class of a failure: decides what follows and labels metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// May go away by itself: a lost connection, a time-out.
    Transient,
    /// Too many requests; the other side said how long to wait.
    Throttled,
    /// Somebody else was first: look again and decide anew.
    Conflict,
    /// No room: space, a quota. Goes away when somebody makes room.
    Capacity,
    /// The guest or host did not do what it was asked within its deadline; asking again would do the same.
    Unresponsive,
    /// The request can never succeed as it stands.
    Invalid,
    /// Not allowed.
    Denied,
}

impl ErrorClass {
    /// All classes.
    pub const ALL: [Self; 7] = [
        Self::Transient,
        Self::Throttled,
        Self::Conflict,
        Self::Capacity,
        Self::Unresponsive,
        Self::Invalid,
        Self::Denied,
    ];

    /// The word as it stands in status and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "Transient",
            Self::Throttled => "Throttled",
            Self::Conflict => "Conflict",
            Self::Capacity => "Capacity",
            Self::Unresponsive => "Unresponsive",
            Self::Invalid => "Invalid",
            Self::Denied => "Denied",
        }
    }

    /// The class of this word; an unknown word, from a newer version, is taken as [`ErrorClass::Transient`].
    #[must_use]
    pub fn parse(word: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == word)
            .unwrap_or(Self::Transient)
    }

    /// Whether a person must mend something before trying again makes sense.
    #[must_use]
    pub const fn needs_person(self) -> bool {
        matches!(
            self,
            Self::Invalid | Self::Denied | Self::Capacity | Self::Unresponsive
        )
    }

    /// How long to wait before the next attempt, after `failures` in a row (at least one).
    #[must_use]
    pub fn retry_delay(self, failures: u64) -> SignedDuration {
        let (first, longest) = match self {
            Self::Conflict => (100, 5_000),
            Self::Transient => (500, 30_000),
            Self::Throttled => (1_000, 120_000),
            Self::Capacity | Self::Unresponsive | Self::Invalid | Self::Denied => (5_000, 60_000),
        };
        let doubled = first << failures.saturating_sub(1).min(16);
        SignedDuration::from_millis(doubled.min(longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stay_bounded() {
        for class in ErrorClass::ALL {
            let delays: Vec<_> = (1..200)
                .map(|failures| class.retry_delay(failures))
                .collect();
            assert!(
                delays.windows(2).all(|pair| pair[0] <= pair[1]),
                "{class:?} shrinks"
            );
            assert!(
                delays[0] >= SignedDuration::from_millis(100)
                    && delays[198] <= SignedDuration::from_secs(120)
            );
            assert_eq!(ErrorClass::parse(class.as_str()), class);
        }
    }

    #[test]
    fn a_word_from_a_newer_version_is_tried_again() {
        assert_eq!(ErrorClass::parse("Melted"), ErrorClass::Transient);
    }
}
