//! The table at the end.

use std::{fmt::Write as _, time::Duration};

use homeward::api::FailoverPhase;
use homeward_playground::narrator::{bytes, milliseconds};

use crate::follow::{Followed, unsigned};

/// One move, with what was measured from outside.
pub struct Move {
    /// As it was followed.
    pub followed: Followed,
    /// Bytes of the blocks that reverse replication had to bring, counted on the disks.
    pub reverse_counted: u64,
    /// Bytes that it sent, as the log of the agent that sent them says.
    pub reverse_sent: u64,
    /// From the guest's last word at the source to its first at the target.
    pub silence: Option<u64>,
}

/// A name, and a value of each move.
pub type Row = (String, Vec<String>);

const NAME_WIDTH: usize = 34;
const WIDTH: usize = 40;

/// The moves side by side.
pub fn table(moves: &[Move]) -> String {
    let mut rows: Vec<Row> = Vec::new();
    let mut row = |name: &str, value: &dyn Fn(&Move) -> String| {
        rows.push((name.to_owned(), moves.iter().map(value).collect()));
    };
    row("direction", &|it| {
        let spec = &it.followed.failover.spec;
        format!("{} -> {}", spec.from, spec.to)
    });
    row("data sync", &|it| {
        status(it, |status| {
            let choice = status.data_sync.as_ref()?;
            Some(choice.chosen.as_str().to_owned())
        })
    });
    row("  because", &|it| {
        status(it, |status| Some(status.data_sync.as_ref()?.reason.clone()))
    });
    row("bytes sent", &|it| {
        status(it, |status| {
            let transfer = status.transfer.as_ref()?;
            Some(bytes(unsigned(
                transfer.synchronized_bytes + transfer.final_bytes,
            )))
        })
    });
    row("  of that, while it was down", &|it| {
        status(it, |status| {
            Some(bytes(unsigned(status.transfer.as_ref()?.final_bytes)))
        })
    });
    row("  bytes changed", &|it| {
        status(it, |status| {
            Some(bytes(unsigned(status.transfer.as_ref()?.changed_bytes)))
        })
    });
    row("bytes sent in reverse", &|it| {
        status(it, |status| {
            Some(bytes(unsigned(status.transfer.as_ref()?.reverse_bytes?)))
        })
    });
    row("  bytes changed", &|it| {
        status(it, |status| {
            Some(bytes(unsigned(
                status.transfer.as_ref()?.reverse_changed_bytes?,
            )))
        })
    });
    row("  bytes changed, counted on disks", &|it| {
        bytes(it.reverse_counted)
    });
    row("downtime predicted", &|it| {
        status(it, |status| {
            let predicted = status.downtime.as_ref()?.predicted_milliseconds?;
            Some(milliseconds(unsigned(predicted)))
        })
    });
    row("  of which", &|it| {
        status(it, |status| status.downtime.as_ref()?.prediction.clone())
    });
    row("downtime, stop to start", &|it| {
        status(it, |status| {
            let actual = status.downtime.as_ref()?.actual_milliseconds?;
            Some(milliseconds(unsigned(actual)))
        })
    });
    row("  guest silent, boot included", &|it| {
        it.silence.map_or_else(unknown, milliseconds)
    });
    let followed: Vec<&Followed> = moves.iter().map(|it| &it.followed).collect();
    rows.extend(phases(&followed));
    render(&rows)
}

/// How long each phase lasted, and all of them.
pub fn phases(moves: &[&Followed]) -> Vec<Row> {
    let mut names = Vec::new();
    for (phase, _) in moves.iter().flat_map(|it| &it.phases) {
        if !names.contains(phase) {
            names.push(*phase);
        }
    }
    let spent = |it: &Followed, wanted: Option<FailoverPhase>| {
        let of = it.phases.iter();
        let of = of.filter(|(phase, _)| wanted.is_none_or(|wanted| *phase == wanted));
        let spent: Duration = of.map(|(_, spent)| *spent).sum();
        milliseconds(u64::try_from(spent.as_millis()).unwrap_or(u64::MAX))
    };
    let row = |name: String, wanted| (name, moves.iter().map(|it| spent(it, wanted)).collect());
    let mut rows: Vec<Row> = names
        .into_iter()
        .map(|phase| row(format!("{phase:?}"), Some(phase)))
        .collect();
    rows.push(row("in all".into(), None));
    rows
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn status(it: &Move, value: impl Fn(&homeward::api::FailoverStatus) -> Option<String>) -> String {
    let found = it.followed.failover.status.as_ref().and_then(value);
    found.unwrap_or_else(unknown)
}

/// The rows as text.
pub fn render(rows: &[Row]) -> String {
    let mut lines = Vec::new();
    for (name, values) in rows {
        let cells: Vec<Vec<String>> = values.iter().map(|value| wrap(value)).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(1);
        for line in 0..height {
            let mut text = format!("{:NAME_WIDTH$}", if line == 0 { name.as_str() } else { "" });
            for cell in &cells {
                let part = cell.get(line).map_or("", String::as_str);
                // Writing to a String does not fail.
                let _ = write!(text, "  {part:WIDTH$}");
            }
            lines.push(text.trim_end().to_owned());
        }
    }
    lines.join("\n")
}

fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let full = lines
            .last()
            .is_some_and(|line| !line.is_empty() && line.len() + 1 + word.len() > WIDTH);
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_are_wrapped_beside_each_other() {
        let reason =
            "the replica on the premises is whole and Azure has run the VM for 12 seconds only";
        let rows = [(
            "because".to_owned(),
            vec![reason.to_owned(), "short".to_owned()],
        )];
        let text = render(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() > 1, "{text}");
        let left: Vec<&str> = lines
            .iter()
            .flat_map(|line| line.split_whitespace())
            .filter(|word| !["because", "short"].contains(word))
            .collect();
        assert_eq!(left.join(" "), reason);
        assert!(lines[0].ends_with("short"), "{text}");
        assert!(
            lines
                .iter()
                .all(|line| line.len() <= NAME_WIDTH + 2 * (WIDTH + 2)),
            "{text}"
        );
    }
}
