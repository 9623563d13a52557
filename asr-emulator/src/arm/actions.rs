//! The name of the permission that a request needs.

/// The type of what the path names, without the names.
pub(crate) fn kind(path: &[String]) -> String {
    let words: Vec<&str> = path.iter().step_by(2).map(String::as_str).collect();
    words.join("/")
}

/// The permission for that method on that path below the vault.
pub(crate) fn action(method: &str, path: &[String]) -> String {
    let kind = kind(path);
    let verb = match method {
        "GET" | "HEAD" => "read",
        "DELETE" => "delete",
        "POST" => "action",
        _ => "write",
    };
    if kind.is_empty() {
        format!("Microsoft.RecoveryServices/vaults/{verb}")
    } else {
        format!("Microsoft.RecoveryServices/vaults/{kind}/{verb}")
    }
}

#[cfg(test)]
mod tests {
    use super::action;

    #[test]
    fn an_action_is_named_without_the_names_of_resources() {
        let path = |text: &str| -> Vec<String> { text.split('/').map(str::to_owned).collect() };
        assert_eq!(
            action(
                "POST",
                &path(
                    "replicationFabrics/f/replicationProtectionContainers/c/replicationProtectedItems/i/plannedFailover"
                )
            ),
            "Microsoft.RecoveryServices/vaults/replicationFabrics/replicationProtectionContainers/replicationProtectedItems/plannedFailover/action"
        );
        assert_eq!(
            action("GET", &path("replicationJobs/j")),
            "Microsoft.RecoveryServices/vaults/replicationJobs/read"
        );
    }
}
