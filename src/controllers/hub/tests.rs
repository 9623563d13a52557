use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::channel::mpsc::{UnboundedReceiver, unbounded};

use super::*;
use crate::domain::{
    BySite, Capabilities, Connection, DirectionCapabilities, Stage, Submission, WholePass,
};
use crate::domain::{Protection, ProtectionState};
use crate::driver::DriverError;

struct Silent(Capabilities);

#[async_trait]
impl ReplicationDriver for Silent {
    fn capabilities(&self) -> &Capabilities {
        &self.0
    }

    async fn observe(&self) -> Result<VaultObservation, DriverError> {
        Err(DriverError::ambiguous("not asked in these tests"))
    }

    async fn submit(&self, _: &str, _: &Submission) -> Result<(), DriverError> {
        Err(DriverError::ambiguous("not asked in these tests"))
    }
}

fn driver() -> Arc<dyn ReplicationDriver> {
    let direction = DirectionCapabilities {
        rollback: true,
        cancel_after_stop: true,
        pause_before_cutover: true,
        separate_stop: true,
        alternate_location: Ok(()),
        protects_after_commit: Ok(()),
    };
    Arc::new(Silent(Capabilities {
        registers: true,
        towards: BySite {
            on_premises: direction.clone(),
            azure: direction,
        },
    }))
}

fn vm(sent: u64) -> VmObservation {
    VmObservation {
        id: "id".into(),
        claims: BySite::from_fn(|_| Fact::Absent),
        stage: Fact::Known(Stage::Settled {
            site: crate::api::Site::Azure,
        }),
        marks: BySite::from_fn(|_| Fact::Absent),
        failovers: BySite::default(),
        power: BySite::from_fn(|_| Fact::Absent),
        protection: Fact::Known(Protection {
            from: crate::api::Site::Azure,
            state: ProtectionState::Replicating,
            failover: None,
            last_whole: Some(WholePass {
                point: jiff::Timestamp::UNIX_EPOCH,
                failover: None,
                bytes_on_wire: sent,
                bytes_changed: sent,
                bytes_per_second: None,
            }),
            progress: None,
            overdue: false,
        }),
        operations: Vec::new(),
        active_since: None,
        target_consistent: Fact::Known(true),
        replica_present: Fact::Known(true),
        written_since_start: Fact::Absent,
        pending_delta: Some(sent),
        disk_bytes: None,
        obstacles: Vec::new(),
        protection_obstacles: Vec::new(),
        host_silent: None,
        busy: None,
        full_download_obstacles: Vec::new(),
        protection_stale: None,
        down_because: None,
        encrypted: false,
        networks: Vec::new(),
        jobs: None,
        inconsistent_because: None,
        sync_ended: None,
        leaving: None,
        led_elsewhere: None,
        missing_job: None,
        perhaps_down: None,
    }
}

fn look(began: Instant, vms: &[(&str, VmObservation)]) -> Look {
    Look {
        began,
        seen: Ok(Arc::new(VaultObservation {
            missing_permissions: Vec::new(),
            sites: BySite::from_fn(|_| Connection::Connected),
            hosts: Vec::new(),
            vms: vms
                .iter()
                .map(|(name, vm)| ((*name).to_owned(), vm.clone()))
                .collect::<BTreeMap<_, _>>(),
            complete: Ok(()),
        })),
    }
}

struct Scene {
    hub: Arc<Hub>,
    vault: Key,
    driver: Arc<dyn ReplicationDriver>,
    woken: UnboundedReceiver<Key>,
    _vaults: UnboundedReceiver<Key>,
}

impl Scene {
    fn new() -> Self {
        let (wake_vm, woken) = unbounded();
        let (wake_vault, vaults) = unbounded();
        let hub = Hub::new(wake_vm, wake_vault, Duration::from_mins(1));
        let (vault, driver) = (Key::new("ns", "vault"), driver());
        hub.install(&vault, driver.clone());
        for name in ["a", "b"] {
            hub.interest(&vault, &Key::new("ns", name), name);
        }
        Self {
            hub,
            vault,
            driver,
            woken,
            _vaults: vaults,
        }
    }

    fn publish(&mut self, look: Look) -> Vec<String> {
        self.hub.publish(&self.vault, &self.driver, look, None);
        self.woken()
    }

    fn publish_some(&mut self, names: &[&str], look: Look) -> Vec<String> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.hub
            .publish(&self.vault, &self.driver, look, Some(&names));
        self.woken()
    }

    fn woken(&mut self) -> Vec<String> {
        let mut woken = Vec::new();
        while let Ok(key) = self.woken.try_recv() {
            woken.push(key.name);
        }
        woken.sort();
        woken
    }

    /// What is pending of a VM in the look that counts for it.
    fn figure(&self, name: &str) -> Option<u64> {
        match self.hub.sight(&self.vault, name, Instant::now()) {
            Sight::Seen { observation, .. } => observation.vms[name].pending_delta,
            Sight::NotYet => panic!("no look yet"),
            Sight::Nothing(why) | Sight::Nobody(why) => panic!("{why}"),
        }
    }

    fn known(&self, name: &str) -> bool {
        match self.hub.sight(&self.vault, name, Instant::now()) {
            Sight::Seen { vm_unknown, .. } => vm_unknown.is_none(),
            Sight::NotYet => panic!("no look yet"),
            Sight::Nothing(why) | Sight::Nobody(why) => panic!("{why}"),
        }
    }
}

#[test]
fn s07_a_look_that_began_before_the_last_action_ended_tells_nothing_of_the_vm() {
    let mut scene = Scene::new();
    let early = Instant::now();
    scene.publish(look(early, &[("a", vm(1)), ("b", vm(1))]));
    assert!(scene.known("a"));
    let acting = scene.hub.acting(&scene.vault, "a");
    assert!(!scene.known("a"), "while it is asked for");
    assert!(scene.known("b"), "others are not concerned");
    let during = Instant::now();
    drop(acting);
    scene.publish(look(during, &[("a", vm(1)), ("b", vm(1))]));
    assert!(!scene.known("a"), "the look began before the answer");
    let after = Instant::now();
    let woken = scene.publish(look(after, &[("a", vm(1)), ("b", vm(1))]));
    assert!(scene.known("a"));
    assert_eq!(woken, ["a"], "it asked, though nothing else is new");
}

#[test]
fn only_those_are_woken_for_whom_a_look_is_news() {
    let mut scene = Scene::new();
    let now = Instant::now();
    assert_eq!(
        scene.publish(look(now, &[("a", vm(1)), ("b", vm(1))])),
        ["a", "b"]
    );
    assert!(
        scene
            .publish(look(now, &[("a", vm(2)), ("b", vm(2))]))
            .is_empty(),
        "figures are no news to who does not move"
    );
    scene.hub.wish(
        &scene.vault,
        &Key::new("ns", "a"),
        Wish {
            vm_name: "a".into(),
            pace: Pace::Busy,
            figures: true,
        },
    );
    assert_eq!(
        scene.publish(look(now, &[("a", vm(3)), ("b", vm(3))])),
        ["a"]
    );
    assert_eq!(scene.publish(look(now, &[("a", vm(3))])), ["b"]);
    assert_eq!(scene.hub.wanted(&scene.vault).pace, Pace::Busy);
    scene.hub.forget(&Key::new("ns", "a"));
    assert_eq!(scene.hub.wanted(&scene.vault).pace, Pace::Steady);
}

#[test]
fn an_old_look_and_a_look_of_an_old_driver_tell_nothing() {
    let mut scene = Scene::new();
    let now = Instant::now();
    scene.publish(look(now, &[("a", vm(1))]));
    let late = now + Duration::from_secs(61);
    assert!(matches!(
        scene.hub.sight(&scene.vault, "a", late),
        Sight::Nothing(_)
    ));
    let old = scene.driver.clone();
    scene.hub.install(&scene.vault, driver());
    scene.hub.publish(&scene.vault, &old, look(now, &[]), None);
    assert!(scene.hub.last(&scene.vault).is_none());
    // What was said last stands until the new one has looked, and not for ever.
    let sight = |at| scene.hub.sight(&scene.vault, "a", at);
    assert!(matches!(sight(Instant::now()), Sight::NotYet));
    assert!(matches!(
        sight(Instant::now() + Duration::from_secs(61)),
        Sight::Nothing(_)
    ));
}

#[test]
fn s07_a_look_at_some_vms_tells_of_them_alone_until_the_next_whole_one() {
    let mut scene = Scene::new();
    let early = Instant::now();
    scene.publish(look(early, &[("a", vm(1)), ("b", vm(1))]));
    drop(scene.hub.acting(&scene.vault, "a"));
    drop(scene.hub.acting(&scene.vault, "b"));
    assert_eq!(
        scene.hub.wanted(&scene.vault).hurried,
        ["a", "b"].map(str::to_owned).into()
    );
    // It began after both actions and shows one of them.
    let after = Instant::now();
    assert_eq!(
        scene.publish_some(&["a"], look(after, &[("a", vm(2))])),
        ["a"]
    );
    assert!(scene.known("a") && !scene.known("b"));
    assert_eq!((scene.figure("a"), scene.figure("b")), (Some(2), Some(1)));
    // The next shows the other: what was seen of the first stays.
    assert_eq!(
        scene.publish_some(&["b"], look(Instant::now(), &[("b", vm(3))])),
        ["b"]
    );
    assert_eq!((scene.figure("a"), scene.figure("b")), (Some(2), Some(3)));
    assert!(scene.known("a") && scene.known("b"));
    assert!(scene.hub.wanted(&scene.vault).hurried.is_empty());
    // A whole look counts for all again.
    scene.publish(look(Instant::now(), &[("a", vm(4)), ("b", vm(4))]));
    assert_eq!((scene.figure("a"), scene.figure("b")), (Some(4), Some(4)));
}
