//! Vaults in Azure.

use serde_json::{Value, json};

use super::cases::{Case, Kind, changed, made};

/// Good ones and wrong ones.
pub fn cases() -> Vec<Case> {
    use Kind::{Service, Vault};
    let at = |field: &str| -> &'static str {
        Box::leak(format!("/spec/azureSiteRecovery/{field}").into_boxed_str())
    };
    let custom = json!({
        "endpoint": "https://management.example.com", "audience": "https://management.example.com",
        "authority": "https://login.example.com", "caBundle": "-----BEGIN CERTIFICATE-----",
    });
    let one = |field: &str, value: Value, refused| made(Service, &[(at(field), value)], refused);
    let of_custom = |field: &str, value: &str, refused| {
        let mut custom = custom.clone();
        custom[field] = json!(value);
        made(
            Service,
            &[(at("cloud"), json!("Custom")), (at("custom"), custom)],
            refused,
        )
    };
    let credentials = |value: Value, refused| one("credentials", value, refused);
    vec![
        made(Service, &[], None),
        made(
            Vault,
            &[("/spec/agents", json!(null))],
            Some("spec must have exactly one of agents and azureSiteRecovery"),
        ),
        made(
            Service,
            &[("/spec/agents", Vault.good()["spec"]["agents"].clone())],
            Some("spec must have exactly one of agents and azureSiteRecovery"),
        ),
        changed(
            Service,
            &[],
            json!({"azureSiteRecovery": null, "agents": Vault.good()["spec"]["agents"]}),
            Some("are immutable as a choice"),
        ),
        changed(
            Service,
            &[],
            json!({"azureSiteRecovery": {"vaultName": "another"}}),
            Some("subscriptionId, resourceGroup and vaultName are immutable"),
        ),
        changed(
            Service,
            &[],
            json!({"azureSiteRecovery": {"fabricName": "site-2"}}),
            None,
        ),
        one(
            "subscriptionId",
            json!("mine"),
            Some("subscriptionId must be a UUID"),
        ),
        one(
            "resourceGroup",
            json!("a b"),
            Some("resourceGroup must be letters"),
        ),
        one(
            "resourceGroup",
            json!("ends."),
            Some("resourceGroup must be letters"),
        ),
        one(
            "vaultName",
            json!("1vault"),
            Some("vaultName must begin with a letter"),
        ),
        one("cloud", json!("China"), None),
        one("cloud", json!("Mars"), Some("spec.azureSiteRecovery.cloud")),
        one(
            "cloud",
            json!("Custom"),
            Some("custom is given with cloud: Custom"),
        ),
        one(
            "custom",
            custom.clone(),
            Some("custom is given with cloud: Custom"),
        ),
        of_custom("audience", "https://management.example.com", None),
        of_custom(
            "endpoint",
            "http://management.example.com",
            Some("custom.endpoint must be an https URL"),
        ),
        of_custom(
            "authority",
            "login.example.com",
            Some("custom.authority must be an https URL"),
        ),
        of_custom("caBundle", "not PEM", Some("caBundle must be PEM text")),
        credentials(json!({"workloadIdentity": {}}), None),
        credentials(
            json!({"managedIdentity": {}, "clientId": "user-assigned"}),
            None,
        ),
        credentials(
            json!({"tenantId": "t", "clientId": "c", "clientCertificateRef": {"name": "s"}}),
            None,
        ),
        credentials(
            json!({"tenantId": "t", "clientId": "c"}),
            Some("credentials must have exactly one of"),
        ),
        credentials(
            json!({"workloadIdentity": {}, "managedIdentity": {}}),
            Some("credentials must have exactly one of"),
        ),
        credentials(
            json!({"clientSecretRef": {"name": "s"}}),
            Some("tenantId and clientId are needed"),
        ),
        credentials(
            json!({"managedIdentity": {}, "tenantId": "t"}),
            Some("tenantId is not given with managedIdentity"),
        ),
        credentials(
            json!({"workloadIdentity": {}, "tenantId": "a/b"}),
            Some("tenantId must be a UUID or a domain"),
        ),
    ]
}
