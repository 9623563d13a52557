//! A page of a list: its elements are read one by one, so that a page of thousands is never held as it came.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;

/// Something that a list of the service holds.
pub trait Element: Sized {
    /// Reads it; none when the value has nothing to go by.
    fn read(value: &Value) -> Option<Self>;
}

/// One page.
#[derive(Debug)]
pub struct Page<T> {
    /// Its elements. An empty page may still be followed by another.
    pub elements: Vec<T>,
    /// Where the next one is.
    pub next: Option<String>,
}

impl<T: Element> Page<T> {
    /// Reads a page.
    ///
    /// # Errors
    /// When it is not a JSON object at all.
    pub fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

impl<'de, T: Element> Deserialize<'de> for Page<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PageVisitor(PhantomData))
    }
}

struct PageVisitor<T>(PhantomData<T>);

impl<'de, T: Element> Visitor<'de> for PageVisitor<T> {
    type Value = Page<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page of a list")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut page = Page {
            elements: Vec::new(),
            next: None,
        };
        while let Some(key) = map.next_key::<String>()? {
            if key.eq_ignore_ascii_case("value") {
                page.elements = map.next_value::<Elements<T>>()?.0;
            } else if key.eq_ignore_ascii_case("nextLink") {
                page.next = match map.next_value::<Value>()? {
                    Value::String(next) if !next.is_empty() => Some(next),
                    _ => None,
                };
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(page)
    }
}

struct Elements<T>(Vec<T>);

impl<'de, T: Element> Deserialize<'de> for Elements<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementsVisitor(PhantomData))
    }
}

struct ElementsVisitor<T>(PhantomData<T>);

impl<'de, T: Element> Visitor<'de> for ElementsVisitor<T> {
    type Value = Elements<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, or null")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Elements(Vec::new()))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Self::Value, S::Error> {
        let mut elements = Vec::new();
        while let Some(value) = list.next_element::<Value>()? {
            elements.extend(T::read(&value));
        }
        Ok(Elements(elements))
    }
}
