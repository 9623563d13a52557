//! The tasks of a plan's job: groups in order, the VMs of a group side by side.

use crate::jobs::scenarios::Maker;
use crate::jobs::{Effect, FailbackOptions, Scenario, Task, TaskKind};
use crate::world::Site;

impl Maker<'_> {
    fn vm(
        &mut self,
        (name, friendly): (&str, &str),
        (item, job): &(String, usize),
        effects: Vec<Effect>,
    ) -> Task {
        let mut task = self.group(
            TaskKind::VirtualMachine,
            (name, friendly),
            false,
            Vec::new(),
        );
        task.millis = self.timings.of(name);
        task.effects = effects;
        task.item = Some(item.clone());
        task.child_job = Some(*job);
        task.needs_host = true;
        task
    }

    /// The tasks of a plan's job: groups in order, the VMs of a group side by side.
    pub(crate) fn plan(
        &mut self,
        scenario: Scenario,
        failback: &FailbackOptions,
        groups: &[Vec<(String, usize)>],
    ) -> Vec<Task> {
        let all: Vec<(String, usize)> = groups.iter().flatten().cloned().collect();
        let mut tasks = vec![self.task(("RpSrsPrerequisitesCheck", "Prerequisites check"), vec![])];
        if scenario == Scenario::Failback {
            tasks.extend(self.plan_failback(failback, &all));
        }
        if matches!(
            scenario,
            Scenario::PlannedFailover | Scenario::UnplannedFailover
        ) {
            let stop = if scenario == Scenario::PlannedFailover {
                Effect::Stop(Site::OnPremises)
            } else {
                Effect::StopIfReachable
            };
            let names = ("ShutdownAllActionGroup", "All groups shutdown");
            tasks.push(self.each(
                TaskKind::ShutdownGroup,
                names,
                "VmShutdownVmOnPrimary",
                &all,
                &[stop],
            ));
            let names = ("FailoverAllActionGroup", "All groups failover");
            tasks.push(self.each(
                TaskKind::Group,
                names,
                "VmFailover",
                &all,
                &[Effect::MakeAzure],
            ));
        }
        for (number, group) in groups.iter().enumerate() {
            let (verb, task, effects) = match scenario {
                Scenario::PlannedFailover | Scenario::UnplannedFailover => (
                    "Start",
                    "VmFoStartVmOnSecondary",
                    vec![
                        Effect::Start(Site::Azure),
                        Effect::FailedOver {
                            planned: scenario == Scenario::PlannedFailover,
                        },
                    ],
                ),
                Scenario::Failback => (
                    "Start",
                    "StartVmOnPrimary",
                    vec![Effect::Start(Site::OnPremises), Effect::FailedBack],
                ),
                Scenario::FinalizeFailback => (
                    "Commit",
                    "FinalizeRestoreOnPrimary",
                    vec![Effect::Finalized],
                ),
                Scenario::Reprotect => (
                    "Reverse replicate",
                    "VmStartInitialReplication",
                    vec![Effect::Replicating],
                ),
                _ => ("Commit", "VmCommit", vec![Effect::Committed]),
            };
            let name = format!("Group{}", number + 1);
            let friendly = format!("Group {}: {verb} ({})", number + 1, group.len());
            tasks.push(self.each(TaskKind::Group, (&name, &friendly), task, group, &effects));
        }
        tasks.push(self.task(
            ("EndRecoveryPlanTask", "Finalize the recovery plan"),
            vec![],
        ));
        tasks
    }

    fn each(
        &mut self,
        kind: TaskKind,
        names: (&str, &str),
        task: &str,
        members: &[(String, usize)],
        effects: &[Effect],
    ) -> Task {
        let children = members
            .iter()
            .map(|member| self.vm((task, names.1), member, effects.to_vec()))
            .collect();
        self.group(kind, names, true, children)
    }

    fn plan_failback(&mut self, options: &FailbackOptions, all: &[(String, usize)]) -> Vec<Task> {
        let names = (
            "PrepareVmOnPremForFailback",
            "Prepare the on-premises virtual machines",
        );
        let mut prepare = self.each(
            TaskKind::Group,
            names,
            "PrepareVmOnPremForFailback",
            all,
            &[Effect::PrepareOnPremises],
        );
        for child in &mut prepare.children {
            child.needs_vm = true;
        }
        let names = ("DataSyncAllActionGroup", "All groups data synchronization");
        let (sync, wait) = if options.full_download {
            (
                self.skipped(names),
                self.skipped(("WaitForUserInputForFailback", "Waiting for user input")),
            )
        } else {
            (
                self.each(
                    TaskKind::Group,
                    names,
                    "MonitorDataSync",
                    all,
                    &[Effect::BeginSync, Effect::DataIsIn],
                ),
                self.waiting(),
            )
        };
        let stop = self.each(
            TaskKind::ShutdownGroup,
            ("ShutdownAllActionGroup", "All groups shutdown"),
            "ShutdownVmOnAzure",
            all,
            &[Effect::Stop(Site::Azure)],
        );
        let move_all = self.each(
            TaskKind::Group,
            ("FailoverAllActionGroup", "All groups failover"),
            "MonitorDataSync",
            all,
            &[Effect::BeginSync, Effect::DataIsIn, Effect::FinishSync],
        );
        vec![prepare, sync, wait, stop, move_all]
    }
}
