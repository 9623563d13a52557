//! Error bodies.

use serde_json::Value;

use super::value::Object;

/// The longest that is taken over of what the service says.
const LONGEST: usize = 1024;

/// What an error answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// The most exact code that there is.
    pub code: Option<String>,
    /// In words: message, possible causes, recommended action.
    pub words: String,
}

impl Problem {
    /// Reads an error body; a body that is none gives none of its content away.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            return Self::default();
        };
        let error = Object::of(&value).object("error");
        let detail = error
            .objects("details")
            .find(|detail| detail.text("code").is_some() || detail.text("message").is_some());
        let code = detail
            .and_then(|detail| detail.text("code"))
            .or_else(|| error.text("code"));
        let mut words = detail
            .and_then(|detail| detail.text("message"))
            .or_else(|| error.text("message"))
            .unwrap_or_default();
        if let Some(detail) = detail {
            if let Some(causes) = detail.text("possibleCauses") {
                words.push_str(" Possible causes: ");
                words.push_str(&causes);
            }
            if let Some(recommended) = detail.text("recommendedAction") {
                words.push_str(" Recommended: ");
                words.push_str(&recommended);
            }
        }
        Self {
            code,
            words: one_line(&words),
        }
    }

    /// Code and words together.
    #[must_use]
    pub fn text(&self) -> String {
        match (&self.code, self.words.is_empty()) {
            (Some(code), false) => format!("{code}: {}", self.words),
            (Some(code), true) => code.clone(),
            (None, _) => self.words.clone(),
        }
    }
}

/// Text from outside in one line, without control characters, and not too long.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        if line.len() + word.len() + 1 > LONGEST {
            line.push_str(" …");
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}
