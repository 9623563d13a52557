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
    let copy = match (basis.bytes, basis.bytes_per_second) {
        (Some(0), _) => Some(0),
        (Some(bytes), Some(rate)) if rate > 0 => {
            i64::try_from(bytes.saturating_mul(1000) / rate).ok()
        }
        _ => None,
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURED: MeasuredDowntime = MeasuredDowntime {
        shutdown_milliseconds: 1200,
        start_milliseconds: 300,
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
