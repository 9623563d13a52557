//! The tasks of each scenario, in the order in which the service shows them.

use crate::ids::Ids;
use crate::jobs::{Effect, FailbackOptions, Scenario, Task, TaskKind, TaskState};
use crate::settings::Timings;
use crate::world::Site;

/// Makes tasks.
pub(crate) struct Maker<'a> {
    pub(crate) ids: &'a mut Ids,
    pub(crate) timings: &'a Timings,
}

/// Names and friendly names of tasks, as pairs.
type Names = (&'static str, &'static str);

impl Maker<'_> {
    pub(crate) fn task(&mut self, (name, friendly): Names, effects: Vec<Effect>) -> Task {
        Task {
            id: self.ids.next(),
            name: name.into(),
            friendly: friendly.into(),
            kind: TaskKind::Plain,
            state: TaskState::NotStarted,
            start: None,
            end: None,
            millis: self.timings.of(name),
            effects,
            item: None,
            needs_host: false,
            needs_vm: false,
            waits: false,
            parallel: false,
            children: Vec::new(),
            child_job: None,
            error: None,
        }
    }

    fn on_host(&mut self, names: Names, effects: Vec<Effect>) -> Task {
        Task {
            needs_host: true,
            ..self.task(names, effects)
        }
    }

    pub(crate) fn skipped(&mut self, names: Names) -> Task {
        Task {
            state: TaskState::Skipped,
            ..self.task(names, Vec::new())
        }
    }

    pub(crate) fn waiting(&mut self) -> Task {
        Task {
            waits: true,
            ..self.task(
                ("WaitForUserInputForFailback", "Waiting for user input"),
                Vec::new(),
            )
        }
    }

    pub(crate) fn group(
        &mut self,
        kind: TaskKind,
        (name, friendly): (&str, &str),
        parallel: bool,
        children: Vec<Task>,
    ) -> Task {
        let mut task = self.task(("", ""), Vec::new());
        task.kind = kind;
        task.name = name.into();
        task.friendly = friendly.into();
        task.parallel = parallel;
        task.children = children;
        task
    }

    /// The tasks of a job about one item.
    pub(crate) fn item(
        &mut self,
        scenario: Scenario,
        failback: &FailbackOptions,
        unplanned_stops: bool,
        point: Option<&str>,
    ) -> Vec<Task> {
        match scenario {
            Scenario::PlannedFailover => vec![
                self.on_host(
                    (
                        "VmPfoPrerequisitesCheck",
                        "Prerequisites check for planned failover",
                    ),
                    vec![],
                ),
                self.on_host(
                    ("VmShutdownVmOnPrimary", "Shut down the virtual machine"),
                    vec![Effect::Stop(Site::OnPremises)],
                ),
                self.on_host(("VmPrepareForFailover", "Preparing for failover"), vec![]),
                self.task(("VmFailover", "Start failover"), vec![Effect::MakeAzure]),
                self.task(
                    (
                        "VmFoStartVmOnSecondary",
                        "Start the replica virtual machine",
                    ),
                    vec![
                        Effect::Start(Site::Azure),
                        Effect::FailedOver { planned: true },
                    ],
                ),
            ],
            Scenario::UnplannedFailover => vec![
                self.task(
                    (
                        "VmUfoPrerequisitesCheck",
                        "Prerequisites check for failover",
                    ),
                    vec![],
                ),
                if unplanned_stops {
                    self.task(
                        ("VmShutdownVmOnPrimary", "Shut down the virtual machine"),
                        vec![Effect::StopIfReachable],
                    )
                } else {
                    self.skipped(("VmShutdownVmOnPrimary", "Shut down the virtual machine"))
                },
                if unplanned_stops {
                    self.task(
                        (
                            "VmPrepareForUnPlannedFailover",
                            "Synchronize the latest changes",
                        ),
                        vec![],
                    )
                } else {
                    self.skipped((
                        "VmPrepareForUnPlannedFailover",
                        "Synchronize the latest changes",
                    ))
                },
                self.task(("VmFailover", "Start failover"), vec![Effect::MakeAzure]),
                self.task(
                    (
                        "VmFoStartVmOnSecondary",
                        "Start the replica virtual machine",
                    ),
                    [
                        Effect::Start(Site::Azure),
                        Effect::FailedOver { planned: false },
                    ]
                    .into_iter()
                    .chain(point.map(|point| Effect::PointChanged(point.into())))
                    .collect(),
                ),
            ],
            Scenario::Failback => self.failback(failback),
            Scenario::CommitFailover => vec![
                self.task(
                    (
                        "VmCommitPrerequisitesCheck",
                        "Prerequisites check for commit",
                    ),
                    vec![],
                ),
                self.task(("VmCommit", "Commit"), vec![Effect::Committed]),
            ],
            Scenario::FinalizeFailback => vec![
                self.task(
                    (
                        "FinalizeRestoreOnRecovery",
                        "Clean up the virtual machine in Azure",
                    ),
                    vec![],
                ),
                self.on_host(
                    ("FinalizeRestoreOnPrimary", "Finalize on the primary site"),
                    vec![Effect::Finalized],
                ),
            ],
            Scenario::Reprotect => vec![
                self.on_host(("CreateProtectionTarget", "Creating the replica"), vec![]),
                self.on_host(("EnableProtection", "Enabling replication"), vec![]),
                self.on_host(
                    ("VmStartInitialReplication", "Start initial replication"),
                    vec![Effect::Replicating],
                ),
            ],
            Scenario::IrCompletion => vec![
                self.task(
                    ("CompleteInitialReplication", "Complete initial replication"),
                    vec![Effect::FirstPointPending],
                ),
                self.task(
                    (
                        "FailWorkflowOnIRFailureTask",
                        "Check the initial replication",
                    ),
                    vec![Effect::Finalizing],
                ),
                self.task(("ReplicaConfiguration", "Configure the replica"), vec![]),
                self.task(
                    ("UpdateDraState", "Update the provider's states"),
                    vec![Effect::Protected],
                ),
            ],
            Scenario::RestoreCompletion => vec![
                self.task(
                    ("CompleteRestorePrerequisites", "Prerequisites check"),
                    vec![],
                ),
                self.task(("CompleteRestore", "Complete data synchronization"), vec![]),
            ],
            Scenario::TestFailover => vec![
                self.task(
                    (
                        "VmTfoPrerequisitesCheck",
                        "Prerequisites check for test failover",
                    ),
                    vec![],
                ),
                self.task(("VmTfoInitiateFailover", "Start test failover"), vec![]),
                self.task(
                    ("VmTfoPrepareTestVm", "Create test virtual machine"),
                    vec![],
                ),
                self.task(
                    ("VmTfoBootTestVm", "Start the test virtual machine"),
                    vec![Effect::TestStarted],
                ),
            ],
            Scenario::TestFailoverCleanup => vec![
                self.task(
                    ("VmTfoCleanupPreflightsCheck", "Prerequisites check"),
                    vec![],
                ),
                self.task(("VmTfoEndFailover", "End test failover"), vec![]),
                self.task(
                    ("VmTfoDeleteTestVm", "Delete the test virtual machine"),
                    vec![Effect::TestEnded],
                ),
            ],
            Scenario::RepairReplication => vec![self.on_host(
                ("RepairVmReplicationTask", "Resynchronize"),
                vec![Effect::Repaired],
            )],
            Scenario::ChangePit => vec![
                self.task(("ChangePitPreflightCheck", "Prerequisites check"), vec![]),
                self.task(
                    (
                        "ShutdownVmRecovery",
                        "Shut down the virtual machine in Azure",
                    ),
                    vec![Effect::Stop(Site::Azure)],
                ),
                self.task(("CancelFailoverRecovery", "Discard the failover"), vec![]),
                self.task(("VmFailover", "Start failover"), vec![Effect::MakeAzure]),
                self.task(
                    (
                        "VmFoStartVmOnSecondary",
                        "Start the replica virtual machine",
                    ),
                    vec![
                        Effect::PointChanged(point.unwrap_or_default().into()),
                        Effect::Start(Site::Azure),
                    ],
                ),
            ],
            Scenario::DisableDr => vec![
                self.on_host(
                    ("DisableProtectionOnPrimary", "Disable on the primary site"),
                    vec![],
                ),
                self.task(
                    (
                        "DisableProtectionOnSecondary",
                        "Disable on the recovery site",
                    ),
                    vec![],
                ),
                self.task(
                    ("UpdateDraState", "Update the provider's states"),
                    vec![Effect::Removed],
                ),
            ],
            Scenario::RefreshFabric => vec![self.on_host(
                ("RefreshFabricLayoutTask", "Refresh the server"),
                vec![Effect::Refreshed],
            )],
        }
    }

    fn prepare(&mut self) -> Task {
        Task {
            needs_vm: true,
            ..self.on_host(
                (
                    "PrepareVmOnPremForFailback",
                    "Prepare the on-premises virtual machine",
                ),
                vec![Effect::PrepareOnPremises],
            )
        }
    }

    fn data_sync(&mut self) -> [Task; 2] {
        [
            self.on_host(
                ("InitiateDataSync", "Start data synchronization"),
                vec![Effect::BeginSync],
            ),
            self.on_host(
                ("MonitorDataSync", "Data synchronization"),
                vec![Effect::DataIsIn],
            ),
        ]
    }

    fn failback(&mut self, options: &FailbackOptions) -> Vec<Task> {
        let mut tasks = vec![
            self.on_host(
                (
                    "AzureVmFailbackPrerequisitesCheck",
                    "Prerequisites check for failback",
                ),
                vec![],
            ),
            self.prepare(),
        ];
        if options.full_download {
            tasks.push(self.skipped(("InitiateDataSync", "Start data synchronization")));
            tasks.push(self.skipped(("MonitorDataSync", "Data synchronization")));
            tasks.push(self.skipped(("WaitForUserInputForFailback", "Waiting for user input")));
        } else {
            tasks.extend(self.data_sync());
            tasks.push(self.waiting());
        }
        let mut inner = vec![
            self.on_host(
                (
                    "AzureVmFailbackPrerequisitesCheck",
                    "Prerequisites check for failback",
                ),
                vec![],
            ),
            self.task(
                (
                    "ShutdownVmOnAzure",
                    "Shut down the virtual machine in Azure",
                ),
                vec![Effect::Stop(Site::Azure)],
            ),
        ];
        inner.extend(self.data_sync());
        inner.push(self.on_host(
            ("PrepareForFinalizeRestore", "Prepare to finalize"),
            vec![Effect::FinishSync],
        ));
        inner.push(self.on_host(
            ("StartVmOnPrimary", "Start the on-premises virtual machine"),
            vec![Effect::Start(Site::OnPremises), Effect::FailedBack],
        ));
        tasks.push(self.group(
            TaskKind::Inline,
            ("StartAzureVmFailback", "Failback"),
            false,
            inner,
        ));
        tasks
    }
}
