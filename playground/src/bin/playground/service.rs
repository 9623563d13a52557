//! The playground with Azure Site Recovery, or rather with what answers like it.

use anyhow::Result;
use homeward_asr_emulator::FabricKind;
use homeward_playground::{
    narrator::Narrator,
    tools::{self, Tool},
    world::{ServiceOptions, ServiceWorld},
};

/// Starts it with so many VMs, all taken on.
pub async fn start(vms: u16, narrator: &Narrator, place: &mut Option<ServiceWorld>) -> Result<()> {
    let mut options = ServiceOptions::new(FabricKind::HyperVSite, usize::from(vms));
    // Slow enough to look on, and to cancel.
    options.speed = 1;
    let step = narrator.step("Starting a cluster and the emulator of Azure Site Recovery");
    let world = ServiceWorld::start_with(options, |at| step.now(at)).await?;
    step.done(format!("everything is in {}", world.folder().display()));
    let world = place.insert(world);
    for number in 1..=vms {
        let name = format!("vm-{number}");
        let step = narrator.step(format!("Taking on {name}"));
        world.keep(&name, |_| {}).await?;
        step.done("");
    }
    narrator.print(commands(world)?);
    Ok(())
}

fn commands(world: &ServiceWorld) -> Result<String> {
    let processes: Vec<String> = world
        .processes()
        .into_iter()
        .map(|(name, id)| format!("    {id:<8} {name}"))
        .collect();
    Ok(format!(
        r#"
The playground is running. In another terminal:

  export KUBECONFIG={kubeconfig}
  alias kubectl={kubectl}

  kubectl get rv,pvm,fo                      what there is
  kubectl get fo -w -o wide                  watch moves
  kubectl get fo vm-1-1 -o yaml              a move with the service's jobs and their steps

  kubectl patch pvm vm-1 --type merge -p '{{"spec":{{"placement":"Azure"}}}}'         move it
  kubectl patch pvm vm-1 --type merge -p '{{"spec":{{"placement":"OnPremises"}}}}'    and home

  kubectl patch pvm vm-1 --type merge -p '{{"spec":{{"cutover":{{"approval":"Manual"}},"commit":{{"approval":"Manual"}}}}}}'
                                             from now on, ask before cutover and commit; change the placement again, and then:
  fo() {{ kubectl get pvm vm-1 -o jsonpath='{{.status.currentFailover.name}}'; }}       the move under way
  kubectl patch fo $(fo) --type merge -p '{{"spec":{{"cutover":"Approved"}}}}'        stop it here, start it there
  kubectl patch fo $(fo) --type merge -p '{{"spec":{{"commit":"Approved"}}}}'         accept
  kubectl patch fo $(fo) --type merge -p '{{"spec":{{"cancel":true}}}}'               cancel a failback that synchronises, or waits
  kubectl patch fo $(fo) --type merge -p '{{"spec":{{"start":"Approved"}}}}'          begin, where it waits for that: after a cancel

  The service itself, as people and accidents see it:

  asr() {{ curl -s --cacert {ca} "{url}/_emulator/$@"; echo; }}
  asr machines                               where each VM runs in truth
  asr violations                             what must never be: empty
  asr requests                               every request that came
  asr portal/commit -d '{{"item":"vm-1"}}'     press a button of the portal: plannedFailover, failback, commit, reprotect, ...
  asr faults -d '{{"method":"POST","path":"failoverCommit","fault":{{"kind":"dropAfter"}}}}'
                                             the next commit is done, and its answer is lost

  tail -f {folder}/cluster/operator-0.log

  kill -9 PID                                 it is started again, and moves go on:
{processes}

Ctrl-C ends everything, and leaves nothing behind."#,
        kubeconfig = world.cluster.plane.kubeconfig().display(),
        kubectl = tools::find(Tool::Kubectl)?.display(),
        ca = world.emulator.ca().display(),
        url = world.emulator.url(),
        folder = world.folder().display(),
        processes = processes.join("\n"),
    ))
}
