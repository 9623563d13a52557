//! What goes over the wire, and what is refused there.

use uuid::Uuid;

use super::check::check_name;
use super::*;

fn order(command: Command) -> Order {
    Order {
        vm: Uuid::nil(),
        epoch: 1,
        step: 1,
        claim: None,
        failover: None,
        command,
    }
}

#[test]
fn orders_read_as_written() {
    let text = r#"{"vm":"00000000-0000-0000-0000-000000000000","epoch":2,"step":7,
        "claim":{"cluster":"c","pvm":"p"},"failover":"f","command":{"kind":"Stop","target":"az01","force":true}}"#;
    let read: Order = serde_json::from_str(text).unwrap();
    assert_eq!(
        read.command,
        Command::Stop {
            target: "az01".into(),
            force: true
        }
    );
    let again: Order = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
    assert_eq!(again, read);
}

#[test]
fn requests_refuse_unknown_fields() {
    for text in [
        r#"{"vm":"00000000-0000-0000-0000-000000000000","epoch":2,"step":7,"command":{"kind":"Commit"},"x":1}"#,
        r#"{"vm":"00000000-0000-0000-0000-000000000000","epoch":2,"step":7,"command":{"kind":"Commit","x":1}}"#,
        r#"{"vm":"00000000-0000-0000-0000-000000000000","epoch":2,"step":7,"command":{"kind":"Explode"}}"#,
    ] {
        assert!(serde_json::from_str::<Order>(text).is_err(), "{text}");
    }
}

#[test]
fn names_stay_in_their_folder() {
    for bad in [
        "",
        "..",
        "../x",
        "a/b",
        "-rf",
        "a\nb",
        &"x".repeat(MAX_NAME + 1),
    ] {
        assert!(check_name("f", bad).is_err(), "{bad}");
    }
    assert!(check_name("f", "disk-0_a.b").is_ok());
}

#[test]
fn peers_need_a_port() {
    let peer = |data: &str| PeerAddress {
        host: "az01".into(),
        control: String::new(),
        data: data.into(),
    };
    let replicate = |data| {
        order(Command::Replicate {
            peer: peer(data),
            interval_seconds: 5,
            immediate: false,
        })
    };
    assert!(replicate("127.0.0.1:7444").validate().is_ok());
    assert!(replicate("[::1]:7444").validate().is_ok());
    for bad in ["127.0.0.1", ":7444", "host:", "host:99999", "host:0"] {
        assert!(replicate(bad).validate().is_err(), "{bad}");
    }
}

#[test]
fn roots_are_hexadecimal() {
    let root = Root([0xab; 32]);
    assert_eq!(root.to_string().parse::<Root>().unwrap(), root);
    assert!("ab".parse::<Root>().is_err());
    assert!("é".repeat(32).parse::<Root>().is_err());
}
