//! The two sets of capabilities that there are.

use crate::domain::{BySite, Capabilities, DirectionCapabilities};

const EVERYTHING: DirectionCapabilities = DirectionCapabilities {
    rollback: true,
    cancel_after_stop: true,
    pause_before_cutover: true,
    separate_stop: true,
    alternate_location: Ok(()),
    protects_after_commit: Ok(()),
};

/// What Homeward's own agents can do: everything, in both directions.
#[must_use]
pub const fn agents_like() -> Capabilities {
    Capabilities {
        registers: true,
        towards: BySite {
            on_premises: EVERYTHING,
            azure: EVERYTHING,
        },
    }
}

/// What a replication service can do: stop, last delta and start are one; nothing goes back once that began; towards Azure it cannot
/// pause before it, and it protects nothing that runs there.
#[must_use]
pub fn service_like() -> Capabilities {
    let one_piece = DirectionCapabilities {
        rollback: false,
        cancel_after_stop: false,
        separate_stop: false,
        ..EVERYTHING
    };
    Capabilities {
        registers: true,
        towards: BySite {
            on_premises: one_piece.clone(),
            azure: DirectionCapabilities {
                pause_before_cutover: false,
                protects_after_commit: Err(
                    "the service protects nothing that runs in Azure until it was brought back"
                        .into(),
                ),
                ..one_piece
            },
        },
    }
}
