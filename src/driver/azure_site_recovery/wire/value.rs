//! Looking into a JSON value.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

/// A JSON object, or nothing: what is looked for in nothing is not there.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a>(Option<&'a Map<String, Value>>);

impl<'a> Object<'a> {
    /// The object of this value.
    #[must_use]
    pub fn of(value: &'a Value) -> Self {
        Self(value.as_object())
    }

    /// Whether there is one.
    #[must_use]
    pub const fn is_there(self) -> bool {
        self.0.is_some()
    }

    /// The member of this name, in whatever case it is spelled. Null is not there.
    #[must_use]
    pub fn get(self, name: &str) -> Option<&'a Value> {
        let map = self.0?;
        map.get(name)
            .or_else(|| {
                map.iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value)
            })
            .filter(|value| !value.is_null())
    }

    /// A member that is an object.
    #[must_use]
    pub fn object(self, name: &str) -> Self {
        Self(self.get(name).and_then(Value::as_object))
    }

    /// A member as text, numbers and truth values included; empty text is not there.
    #[must_use]
    pub fn text(self, name: &str) -> Option<String> {
        text(self.get(name)?)
    }

    /// A member that is a time, and not one of those that stand for none.
    #[must_use]
    pub fn time(self, name: &str) -> Option<Timestamp> {
        time(&self.text(name)?)
    }

    /// The elements of a list.
    #[must_use]
    pub fn list(self, name: &str) -> &'a [Value] {
        self.get(name)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
    }

    /// The objects of a list.
    pub fn objects(self, name: &str) -> impl Iterator<Item = Object<'a>> {
        self.list(name)
            .iter()
            .filter(|value| value.is_object())
            .map(Object::of)
    }

    /// The texts of a list.
    #[must_use]
    pub fn texts(self, name: &str) -> Vec<String> {
        self.list(name).iter().filter_map(text).collect()
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A time of the service, with or without its zone, which is UTC. `0001-01-01` and `1753-01-01` stand for no time.
#[must_use]
pub fn time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let time = text.parse::<Timestamp>().ok().or_else(|| {
        let civil: DateTime = text.parse().ok()?;
        civil
            .to_zoned(TimeZone::UTC)
            .ok()
            .map(|zoned| zoned.timestamp())
    })?;
    // No VM was moved by this service before 2000.
    (time.as_second() > 946_684_800).then_some(time)
}

/// Whether two ids name the same thing: the service varies their case.
#[must_use]
pub fn same_id(one: &str, other: &str) -> bool {
    one.trim_matches('/')
        .eq_ignore_ascii_case(other.trim_matches('/'))
}

/// The last part of an id.
#[must_use]
pub fn last_segment(id: &str) -> &str {
    let id = id.trim_end_matches('/');
    id.rsplit('/').next().unwrap_or(id)
}

/// The part of an id that follows the part of this name.
#[must_use]
pub fn segment_after<'a>(id: &'a str, name: &str) -> Option<&'a str> {
    let mut parts = id.split('/');
    parts.find(|part| part.eq_ignore_ascii_case(name))?;
    parts.next().filter(|part| !part.is_empty())
}
