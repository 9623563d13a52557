//! The resources, as an API server keeps them: versions, finalizers, and answers that are refused when they come too early or late.

use std::collections::BTreeMap;

use homeward::api::{
    Approval, DataSyncRequest, FailoverPhase, FailoverSpec, FailoverStatus,
    ProtectedVirtualMachineStatus, Site, Verdict, VirtualMachineReference, Yes,
};
use homeward::domain::{Alternate, NewFailover};

#[derive(Clone, Debug)]
pub struct Spec {
    pub placement: Site,
    pub suspend: bool,
    pub cutover: Approval,
    pub commit: Approval,
    pub reverse_replication: Approval,
    pub data_sync: DataSyncRequest,
    pub alternate: Alternate,
    pub key: Key,
    /// The annotation of a person who has looked.
    pub seen_running: Option<String>,
}

/// The key certificate of encrypted data.
#[allow(dead_code, reason = "only a service's vault encrypts data")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// No Secret is named.
    None,
    /// One is named that cannot be used.
    Unusable,
    /// It opens.
    Usable,
}

/// Nothing asks a person.
pub fn spec(placement: Site) -> Spec {
    Spec {
        placement,
        suspend: false,
        cutover: Approval::Automatic,
        commit: Approval::Automatic,
        reverse_replication: Approval::Automatic,
        data_sync: DataSyncRequest::Auto,
        alternate: Alternate::default(),
        key: Key::None,
        seen_running: None,
    }
}

#[derive(Clone, Debug)]
pub struct Pvm {
    pub uid: String,
    pub version: u64,
    pub spec: Spec,
    pub status: ProtectedVirtualMachineStatus,
    pub deleting: bool,
}

#[derive(Clone, Debug)]
pub struct Failover {
    pub name: String,
    pub number: i64,
    pub uid: String,
    pub version: u64,
    pub spec: FailoverSpec,
    pub status: FailoverStatus,
    pub finalizer: bool,
    pub deleting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Start,
    Cutover,
    Commit,
    Rollback,
    ReverseReplicate,
    Cancel,
}

/// A write that came second.
#[derive(Debug)]
pub struct Conflict;

#[derive(Clone, Debug)]
pub struct Store {
    pub pvm: Option<Pvm>,
    pub failovers: BTreeMap<i64, Failover>,
    counter: u64,
    pub writes: u64,
}

impl Store {
    pub fn new(spec: Spec) -> Self {
        let mut store = Self {
            pvm: None,
            failovers: BTreeMap::new(),
            counter: 0,
            writes: 0,
        };
        store.apply(spec);
        store
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// `kubectl apply`: makes the resource or changes its spec.
    pub fn apply(&mut self, spec: Spec) {
        let number = self.next();
        match &mut self.pvm {
            Some(pvm) => {
                pvm.spec = spec;
                pvm.version = number;
            }
            None => {
                self.pvm = Some(Pvm {
                    uid: format!("pvm-{number}"),
                    version: number,
                    spec,
                    status: ProtectedVirtualMachineStatus::default(),
                    deleting: false,
                });
            }
        }
    }

    pub fn change(&mut self, change: impl FnOnce(&mut Spec)) {
        let number = self.next();
        if let Some(pvm) = &mut self.pvm {
            change(&mut pvm.spec);
            pvm.version = number;
        }
    }

    pub fn delete_pvm(&mut self) {
        let number = self.next();
        if let Some(pvm) = &mut self.pvm {
            pvm.deleting = true;
            pvm.version = number;
        }
    }

    /// The resource and its Failovers are gone all at once: an etcd restored from nothing.
    pub fn lose_everything(&mut self) {
        self.pvm = None;
        self.failovers.clear();
    }

    /// The Failover that the VM's status names, if it exists with that UID.
    pub fn current(&self) -> Option<&Failover> {
        let named = self.pvm.as_ref()?.status.current_failover.as_ref()?;
        self.failovers
            .values()
            .find(|failover| failover.name == named.name && failover.uid == named.uid)
    }

    fn current_number(&self) -> Option<i64> {
        self.current().map(|failover| failover.number)
    }

    /// A person answers on the Failover under way, as far as the API server lets them.
    pub fn answer(&mut self, answer: Answer) -> bool {
        let Some(number) = self.current_number() else {
            return false;
        };
        let version = self.next();
        let Some(failover) = self.failovers.get_mut(&number) else {
            return false;
        };
        use FailoverPhase as P;
        let phase = failover.status.phase;
        let commit_open = matches!(
            phase,
            Some(
                P::AwaitingCommit
                    | P::Committing
                    | P::AwaitingReverseReplication
                    | P::ReverseReplicating
                    | P::Succeeded
                    | P::RollingBack
                    | P::RolledBack
                    | P::Failed
            )
        );
        let cancel_late = matches!(
            phase,
            Some(
                P::AwaitingCommit
                    | P::Committing
                    | P::AwaitingReverseReplication
                    | P::ReverseReplicating
            )
        );
        let spec = &mut failover.spec;
        match answer {
            Answer::Start => spec.start = Some(Yes::Approved),
            Answer::Cutover => spec.cutover = Some(Yes::Approved),
            Answer::ReverseReplicate => spec.reverse_replicate = Some(Yes::Approved),
            Answer::Commit if commit_open && spec.commit.is_none() => {
                spec.commit = Some(Verdict::Approved);
            }
            Answer::Rollback if commit_open && spec.commit.is_none() => {
                spec.commit = Some(Verdict::Rollback);
            }
            Answer::Cancel if !cancel_late => spec.cancel = Some(true),
            Answer::Commit | Answer::Rollback | Answer::Cancel => return false,
        }
        failover.version = version;
        true
    }

    /// Rollback was answered where the driver cannot roll back. Today's definitions know no such driver and take no answer back; whoever
    /// brings one has to let this through.
    pub fn commit_instead_of_rollback(&mut self) {
        let version = self.next();
        let number = self.current_number();
        if let Some(failover) = number.and_then(|number| self.failovers.get_mut(&number)) {
            failover.spec.commit = Some(Verdict::Approved);
            failover.version = version;
        }
    }

    /// A person deletes the Failover under way; its finalizer holds it.
    pub fn delete_current(&mut self) {
        if let Some(number) = self.current_number() {
            self.delete_failover(number);
        }
    }

    /// The Failover under way is gone, finalizer or not.
    pub fn lose_current(&mut self) {
        if let Some(number) = self.current_number() {
            self.failovers.remove(&number);
        }
    }

    pub fn delete_failover(&mut self, number: i64) {
        let version = self.next();
        if let Some(failover) = self.failovers.get_mut(&number) {
            if failover.finalizer {
                failover.deleting = true;
                failover.version = version;
            } else {
                self.failovers.remove(&number);
            }
        }
    }

    pub fn release_failover(&mut self, name: &str) {
        let version = self.next();
        let number = self
            .failovers
            .values()
            .find(|failover| failover.name == name)
            .map(|failover| failover.number);
        let Some(number) = number else { return };
        if let Some(failover) = self.failovers.get_mut(&number) {
            failover.finalizer = false;
            failover.version = version;
            if failover.deleting {
                self.failovers.remove(&number);
            }
        }
        self.writes += 1;
    }

    pub fn release_pvm(&mut self) {
        self.pvm.take_if(|pvm| pvm.deleting);
        self.writes += 1;
    }

    /// Makes a Failover; where the name is taken, the next number is.
    pub fn create_failover(&mut self, uid: &str, new: &NewFailover) -> (i64, String, String) {
        let mut number = new.number;
        while self.failovers.contains_key(&number) {
            number += 1;
        }
        let version = self.next();
        let name = format!("vm-{number}");
        let failover = Failover {
            name: name.clone(),
            number,
            uid: format!("fo-{version}"),
            version,
            spec: FailoverSpec {
                virtual_machine: VirtualMachineReference {
                    name: "vm".into(),
                    uid: uid.into(),
                },
                from: new.from,
                to: new.to,
                data_sync: new.data_sync,
                host: new.alternate.host.clone(),
                create_if_missing: new.alternate.create_if_missing.then_some(true),
                start: None,
                cutover: None,
                commit: None,
                reverse_replicate: None,
                cancel: None,
            },
            status: FailoverStatus::default(),
            finalizer: true,
            deleting: false,
        };
        let uid = failover.uid.clone();
        self.failovers.insert(number, failover);
        self.writes += 1;
        (number, name, uid)
    }

    pub fn write_failover(
        &mut self,
        seen: &Failover,
        status: FailoverStatus,
    ) -> Result<u64, Conflict> {
        let version = self.next();
        let failover = self
            .failovers
            .get_mut(&seen.number)
            .filter(|now| now.uid == seen.uid && now.version == seen.version)
            .ok_or(Conflict)?;
        failover.status = status;
        failover.version = version;
        self.writes += 1;
        Ok(version)
    }

    pub fn write_pvm(
        &mut self,
        seen: &Pvm,
        status: ProtectedVirtualMachineStatus,
    ) -> Result<(), Conflict> {
        if status == seen.status {
            return Ok(());
        }
        let version = self.next();
        let pvm = self
            .pvm
            .as_mut()
            .filter(|now| now.uid == seen.uid && now.version == seen.version)
            .ok_or(Conflict)?;
        pvm.status = status;
        pvm.version = version;
        self.writes += 1;
        Ok(())
    }
}
