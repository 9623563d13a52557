//! Room on the hosts: what has none is told so, what was promised to one is not given to another, and the last of it is left alone.

use homeward::agent::api::{Command, OperationErrorKind, RefusalKind};

use crate::site::{MIB, Sites, VM};

#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_space_or_network_says_what_is_missing() {
    let sites = Sites::new();
    let mut definition = sites.definition().await;
    definition.disks[0].size_bytes = Some(1 << 45);
    let enroll = |definition| Command::Enroll {
        definition: Box::new(definition),
        owner: sites.hv.address(),
    };
    let refused = sites
        .az
        .give(sites.order(1, enroll(definition.clone())))
        .await
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::NoSpace);
    assert!(refused.needed.unwrap() > 1 << 44 && refused.available.unwrap() > 0);
    definition.disks[0].size_bytes = Some(4096);
    definition.networks[0].name = "dmz".into();
    let refused = sites
        .az
        .give(sites.order(1, enroll(definition)))
        .await
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::NoNetwork);
    assert!(refused.message.contains("dmz"));
    assert!(
        sites
            .az
            .state()
            .await
            .vms
            .iter()
            .all(|vm| vm.register.is_none()),
        "a refusal leaves nothing"
    );
}

/// Each would fit, both do not, and nothing has arrived of the first when the second comes.
#[tokio::test(flavor = "multi_thread")]
async fn room_that_one_replica_was_promised_is_not_given_to_another() {
    let mut sites = Sites::prepare();
    let _storage = SmallStorage::mount(&sites.az.folder.join("storage"));
    sites.hv.start();
    sites.az.start();
    let enroll = async |vm: u128, size: usize| {
        let mut definition = sites.definition().await;
        definition.uuid = uuid::Uuid::from_u128(vm);
        definition.name = format!("vm-{vm}");
        definition.disks.truncate(1);
        definition.disks[0].size_bytes = Some(size as u64);
        let order = homeward::agent::api::Order {
            vm: definition.uuid,
            ..sites.order(
                1,
                Command::Enroll {
                    definition: Box::new(definition),
                    owner: sites.hv.address(),
                },
            )
        };
        sites.az.give(order).await
    };
    // At the same moment, and one after the other.
    let both = tokio::join!(enroll(1, 40 * MIB), enroll(2, 40 * MIB));
    let (taken, refused) = match both {
        (Ok(_), Err(refused)) => (1, refused),
        (Err(refused), Ok(_)) => (2, refused),
        other => panic!("{other:?}"),
    };
    let later = enroll(3, 30 * MIB).await.unwrap_err();
    for refused in [refused, later] {
        assert_eq!(refused.kind, RefusalKind::NoSpace, "{}", refused.message);
        assert!(
            refused.message.contains("still arriving"),
            "{}",
            refused.message
        );
        assert!(refused.available.unwrap() < 24 * MIB as u64);
    }
    // What was promised is not counted against the VM that it was promised to.
    enroll(taken, 40 * MIB).await.unwrap();
    enroll(4, 10 * MIB).await.unwrap();
}

/// A small file system of its own; gone with the value.
struct SmallStorage(std::path::PathBuf);

impl SmallStorage {
    fn mount(folder: &std::path::Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let options = c"size=64m";
        rustix::mount::mount(
            "tmpfs",
            folder,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            options,
        )
        .unwrap();
        Self(folder.to_owned())
    }

    fn fill(&self, leave: usize) {
        std::fs::write(self.0.join("filler"), vec![0; 64 * MIB - leave]).unwrap();
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallStorage {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s15_points_in_time_leave_the_last_room_to_the_guests() {
    let mut sites = Sites::prepare();
    let storage = SmallStorage::mount(&sites.hv.folder.join("storage"));
    sites.hv.change_config(
        "storageDir",
        "bandwidthLimitBytesPerSecond: 524288\nstorageDir",
    );
    sites.hv.start();
    sites.az.start();
    sites.protect().await;
    let hv = &sites.hv;
    let replicate = || Command::Replicate {
        peer: sites.az.address(),
        interval_seconds: 3600,
        immediate: true,
    };
    let refused = async |what: &str| {
        let failed = hv
            .until(what, |vm| vm.replication.as_ref()?.last_error.clone())
            .await;
        assert_eq!(
            failed.kind,
            OperationErrorKind::NoSpace,
            "{}",
            failed.message
        );
        assert!(failed.message.contains("make room"), "{}", failed.message);
        assert!(hv.fake.running(VM));
    };
    // In the middle of a pass of several seconds.
    hv.fake.write(VM, "root", 0, &vec![9; 4 * MIB]);
    hv.ok(sites.order(1, replicate())).await;
    hv.until("the pass is under way", |vm| {
        let pass = vm.replication.as_ref()?.pass.as_ref()?;
        (pass.progress.bytes_done > 0).then_some(())
    })
    .await;
    storage.fill(MIB);
    refused("the pass is cut short").await;
    // Before the next; and it goes on by itself.
    hv.ok(sites.order(1, replicate())).await;
    refused("no pass begins").await;
    storage.empty();
    sites.replicate(hv, &sites.az, 1).await;
    sites.same_disks();
    sites.hv.end();
}
