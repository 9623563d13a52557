//! How long the VM will be down, from what was measured; never a guess.

use crate::api::MeasuredDowntime;

/// What a prediction rests on. Unknown parts stay unknown.
#[derive(Clone, Debug, PartialEq)]
pub struct Basis<'a> {
    /// What stopping and starting took when it was last done.
    pub measured: Option<&'a MeasuredDowntime>,
    /// Bytes of the last delta, or of all disks for a full download.
    pub bytes: Option<u64>,
    /// Bytes a second.
    pub bytes_per_second: Option<u64>,
}

/// A predicted downtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// All parts together, in milliseconds; none while one of them is unknown.
    pub milliseconds: Option<i64>,
    /// The parts, in words.
    pub parts: String,
}

/// Predicts.
#[must_use]
pub fn predict(basis: &Basis<'_>) -> Prediction {
    let copy = last_delta(basis);
    let shutdown = basis
        .measured
        .map(|measured| measured.shutdown_milliseconds);
    let start = basis.measured.map(|measured| measured.start_milliseconds);
    let word =
        |part: Option<i64>| part.map_or_else(|| "unknown".to_owned(), |ms| format!("{ms} ms"));
    Prediction {
        milliseconds: shutdown
            .zip(copy)
            .zip(start)
            .map(|((shutdown, copy), start)| shutdown + copy + start),
        parts: format!(
            "shutdown {}, last delta {}, start {}",
            word(shutdown),
            word(copy),
            word(start)
        ),
    }
}

/// How long the last delta takes, in milliseconds. A rate says nothing of what every delta costs, however small, and what one took before
/// does: no less is expected. Without a rate, more bytes than before take longer in proportion, which is too long rather than too short.
fn last_delta(basis: &Basis<'_>) -> Option<i64> {
    let bytes = basis.bytes?;
    let at_rate = match (bytes, basis.bytes_per_second) {
        (0, _) => Some(0),
        (_, Some(rate)) if rate > 0 => i64::try_from(bytes.saturating_mul(1000) / rate).ok(),
        _ => None,
    };
    let before = basis.measured.and_then(|measured| {
        let took = measured.last_delta_milliseconds?;
        let sent = u64::try_from(measured.last_delta_bytes?).ok()?;
        Some((took, sent))
    });
    match (at_rate, before) {
        (Some(at_rate), Some((took, sent))) if bytes <= sent => Some(at_rate.max(took)),
        (Some(at_rate), _) => Some(at_rate),
        (None, Some((took, sent))) if bytes <= sent => Some(took),
        (None, Some((took, sent))) if sent > 0 => {
            let scaled = i128::from(took) * i128::from(bytes) / i128::from(sent);
            i64::try_from(scaled).ok()
        }
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURED: MeasuredDowntime = MeasuredDowntime {
        shutdown_milliseconds: 1200,
        start_milliseconds: 300,
        last_delta_milliseconds: None,
        last_delta_bytes: None,
    };

    #[test]
    fn a_prediction_is_the_sum_of_its_parts() {
        let prediction = predict(&Basis {
            measured: Some(&MEASURED),
            bytes: Some(50_000_000),
            bytes_per_second: Some(100_000_000),
        });
        assert_eq!(prediction.milliseconds, Some(1200 + 500 + 300));
        assert_eq!(
            prediction.parts,
            "shutdown 1200 ms, last delta 500 ms, start 300 ms"
        );
    }

    #[test]
    fn nothing_to_send_takes_no_time_at_any_rate() {
        let prediction = predict(&Basis {
            measured: Some(&MEASURED),
            bytes: Some(0),
            bytes_per_second: None,
        });
        assert_eq!(prediction.milliseconds, Some(1500));
    }

    #[test]
    fn the_last_delta_takes_no_less_than_it_took_before() {
        let before = MeasuredDowntime {
            last_delta_milliseconds: Some(100),
            last_delta_bytes: Some(1000),
            ..MEASURED
        };
        // (bytes now, bytes a second, milliseconds)
        for (bytes, rate, expected) in [
            (10, None, 100),
            (1000, None, 100),
            (3000, None, 300),
            (10, Some(1_000_000), 100),
            (1000, Some(2_000), 500),
            (200_000, Some(100_000), 2000),
        ] {
            let basis = Basis {
                measured: Some(&before),
                bytes: Some(bytes),
                bytes_per_second: rate,
            };
            assert_eq!(last_delta(&basis), Some(expected), "{basis:?}");
        }
    }

    #[test]
    fn an_unknown_part_makes_the_whole_unknown_and_is_named() {
        for (measured, bytes, rate, unknown) in [
            (None, Some(1), Some(1000), "shutdown unknown"),
            (Some(&MEASURED), None, Some(1), "last delta unknown"),
            (Some(&MEASURED), Some(1), None, "last delta unknown"),
            (Some(&MEASURED), Some(1), Some(0), "last delta unknown"),
        ] {
            let prediction = predict(&Basis {
                measured,
                bytes,
                bytes_per_second: rate,
            });
            assert_eq!(prediction.milliseconds, None);
            assert!(prediction.parts.contains(unknown), "{}", prediction.parts);
        }
    }
}
