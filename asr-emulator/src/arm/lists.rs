//! Pages of lists, and the spelling of older versions.

use serde_json::{Value, json};

use crate::arm::Call;
use crate::identity::base_of;
use crate::settings::Settings;
use crate::wire::{Response, encoded};

/// One page of a list whose keys come in order; the token names the last key of the page before.
pub(crate) fn page<'a>(
    call: &Call,
    settings: &Settings,
    vault: &str,
    keys: impl Iterator<Item = &'a String>,
    view: impl Fn(&str) -> Value,
) -> Value {
    let token =
        (call.request.parameter("$skipToken")).or_else(|| call.request.parameter("skipToken"));
    let size = settings.page_size.max(1);
    let mut rest = keys.skip_while(|key| token.as_ref().is_some_and(|token| *key <= token));
    let mut value = Vec::new();
    let mut last = None;
    for key in rest.by_ref().take(size) {
        value.push(view(key));
        last = Some(key);
    }
    let more = rest.next().is_some();
    let next = last
        .filter(|_| more || settings.empty_last_page)
        .map(|last| {
            let filter = call
                .request
                .parameter("$filter")
                .map(|filter| format!("&$filter={}", encoded(&filter)))
                .unwrap_or_default();
            format!(
                "{}{vault}/{}?api-version={}{filter}&$skipToken={}",
                base_of(call.request),
                call.path.join("/"),
                call.version,
                encoded(last)
            )
        });
    json!({ "value": value, "nextLink": next })
}

/// Names that the versions of 2016 wrote in another way.
const LEGACY: [(&str, &str); 3] = [
    ("azureVmDiskDetails", "azureVMDiskDetails"),
    ("recoveryAzureVmName", "recoveryAzureVMName"),
    ("healthErrors", "replicationHealthErrors"),
];

fn rename(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (new, old) in LEGACY {
                if let Some(member) = members.remove(new) {
                    members.insert(old.into(), member);
                }
            }
            members.values_mut().for_each(rename);
        }
        Value::Array(members) => members.iter_mut().for_each(rename),
        _ => {}
    }
}

/// Writes an answer in the older spelling.
pub(crate) fn legacy(response: &mut Response) {
    if let Ok(mut value) = serde_json::from_slice::<Value>(&response.body) {
        rename(&mut value);
        response.body = value.to_string().into_bytes();
    }
}
