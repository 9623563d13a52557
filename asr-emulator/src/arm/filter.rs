//! `$filter`: equalities joined by `and`, and by `or` where they ask for one member's values.

use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use regex::Regex;

use crate::arm::Call;
use crate::arm::errors::{ArmError, bad_parameter};
use crate::jobs::view::names;
use crate::jobs::{Job, Target};

static EQUALITY: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(\w+)\s+eq\s+'([^']*)'").ok());

fn pairs(call: &Call) -> Result<Vec<(String, String)>, ArmError> {
    let Some(filter) = call
        .request
        .parameter("$filter")
        .filter(|text| !text.trim().is_empty())
    else {
        return Ok(Vec::new());
    };
    let found: Vec<(String, String)> = (EQUALITY.iter())
        .flat_map(|equality| equality.captures_iter(&filter))
        .map(|found| (found[1].to_ascii_lowercase(), found[2].to_owned()))
        .collect();
    if found.is_empty() {
        return Err(bad_parameter(&format!(
            "The filter '{filter}' is not valid."
        )));
    }
    Ok(found)
}

/// The plan whose items are asked for.
pub(crate) fn plan(call: &Call) -> Result<Option<String>, ArmError> {
    Ok((pairs(call)?.into_iter())
        .find(|(name, _)| name == "recoveryplanname")
        .map(|(_, value)| value))
}

/// What a list of jobs is narrowed to.
#[derive(Default)]
pub(crate) struct JobFilter {
    states: Vec<String>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    name: Option<String>,
    kinds: Vec<String>,
}

fn time(text: &str) -> Result<Timestamp, ArmError> {
    let plain = text.trim().trim_end_matches('Z').replace(' ', "T");
    text.parse::<Timestamp>()
        .ok()
        .or_else(|| {
            let time: DateTime = plain.parse().ok()?;
            Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
        })
        .ok_or_else(|| bad_parameter(&format!("The time '{text}' is not valid.")))
}

impl JobFilter {
    pub(crate) fn of(call: &Call) -> Result<Self, ArmError> {
        let mut filter = Self::default();
        for (name, value) in pairs(call)? {
            match name.as_str() {
                "jobstatus" => filter.states.push(value),
                "starttime" => filter.from = Some(time(&value)?),
                "endtime" => filter.until = Some(time(&value)?),
                "jobname" => filter.name = Some(value),
                "affectedobjecttypes" | "affectedobjecttype" => filter.kinds.push(value),
                "fabricid" => {}
                other => {
                    return Err(bad_parameter(&format!(
                        "Jobs cannot be filtered by '{other}'."
                    )));
                }
            }
        }
        Ok(filter)
    }

    pub(crate) fn keeps(&self, job: &Job) -> bool {
        let among = |words: &[String], word: &str| {
            words.is_empty() || words.iter().any(|wanted| wanted.eq_ignore_ascii_case(word))
        };
        let begun = job.start.unwrap_or(job.created);
        let kind = match job.target {
            Target::Item(_) => "ProtectionEntity",
            Target::Plan(_) => "RecoveryPlan",
            Target::Provider(..) => "Server",
        };
        among(&self.states, job.state.word())
            && among(&self.kinds, kind)
            && self.from.is_none_or(|from| begun >= from)
            && self.until.is_none_or(|until| begun <= until)
            && self.name.as_ref().is_none_or(|name| {
                name.eq_ignore_ascii_case(&job.name) || name.eq_ignore_ascii_case(names(job).0)
            })
    }
}
