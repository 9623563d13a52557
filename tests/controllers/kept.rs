//! VMs of a service that keeps no registers: what is asked of it stands in the resource first, and so does what it answered (S18, S19).

use homeward::api::{KeptRequest, ProtectedVirtualMachine, Site};
use homeward::domain::{ActionKind, ErrorClass};
use homeward::driver::DriverError;
use serde_json::json;

use crate::common::fake_service::FakeService;
use crate::common::{Bench, Running, until};
use crate::{protected, succeeded};

async fn at_rest(bench: &Bench) -> (FakeService, Running) {
    let service = FakeService::new("web");
    let running = bench.run(service.clone());
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(bench, "web").await;
    (service, running)
}

fn request(vm: &ProtectedVirtualMachine, kind: ActionKind) -> Option<KeptRequest> {
    let register = vm.status.as_ref()?.register.as_ref()?;
    let request = register.request.clone()?;
    (request.action == kind.as_str()).then_some(request)
}

async fn on_record(bench: &Bench, kind: ActionKind) -> KeptRequest {
    let vm = bench
        .vm_is("web", &format!("{kind} on record"), |vm| {
            request(vm, kind).is_some()
        })
        .await;
    request(&vm, kind).unwrap()
}

/// Looks that began after this are over.
async fn looked_again(service: &FakeService) {
    let before = service.looks();
    until("it is looked at again", || async {
        (service.looks() > before + 3).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s18_a_request_is_on_record_before_it_is_sent() {
    let bench = Bench::new("kept-record").await;
    let (service, running) = at_rest(&bench).await;
    service.hold();
    bench.place("web", Site::Azure).await;
    for kind in [ActionKind::CompleteFailover, ActionKind::Commit] {
        until(&format!("{kind} is asked for"), || async {
            (service.heard(kind) == 1).then_some(())
        })
        .await;
        // As the API server has it while the service has not even answered.
        let vm = bench.get::<ProtectedVirtualMachine>("web").await.unwrap();
        let request = request(&vm, kind);
        let request = request.unwrap_or_else(|| panic!("{kind} was sent and is not on record"));
        assert_eq!((request.attempt, request.accepted), (1, false));
        service.answer_one();
        let heard = service.state.lock().unwrap().heard.last().cloned().unwrap();
        let sent = heard.attempt.unwrap();
        // As precise as it is stored.
        let microseconds = |time: jiff::Timestamp| time.as_microsecond();
        assert_eq!(
            microseconds(sent.send_before),
            microseconds(request.send_before.0)
        );
        assert_eq!(sent.jobs_before, request.jobs_before);
    }
    bench.failover_is("web-1", "succeeded", succeeded).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s18_a_request_without_an_answer_is_not_followed_by_another() {
    let bench = Bench::new("kept-lost").await;
    let (service, running) = at_rest(&bench).await;
    let lost = DriverError::ambiguous("the connection broke");
    service.state.lock().unwrap().answers.push_back(lost);
    bench.place("web", Site::Azure).await;
    bench
        .failover_is("web-1", "waits for what came of it", |failover| {
            crate::waiting_for(failover).contains("no answer came")
        })
        .await;
    looked_again(&service).await;
    let kept = on_record(&bench, ActionKind::CompleteFailover).await;
    assert_eq!((kept.attempt, kept.outcome), (1, None));
    assert_eq!(service.heard(ActionKind::CompleteFailover), 1);
    // It was on its way all the while.
    let late = service.state.lock().unwrap().heard[0].action.clone();
    service.arrives(&late);
    bench.failover_is("web-1", "succeeded", succeeded).await;
    assert_eq!(service.heard(ActionKind::CompleteFailover), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s19_an_answer_that_nothing_was_done_is_on_record_and_another_attempt_follows() {
    let bench = Bench::new("kept-refused").await;
    let (service, running) = at_rest(&bench).await;
    let busy = DriverError::refused(ErrorClass::Throttled, "too many requests");
    service.state.lock().unwrap().answers.push_back(busy);
    service.hold();
    bench.place("web", Site::Azure).await;
    // Nothing goes on while the service has not answered.
    for attempt in [1, 2] {
        let heard = usize::try_from(attempt).unwrap();
        until(&format!("attempt {attempt} is heard"), || async {
            (service.heard(ActionKind::CompleteFailover) == heard).then_some(())
        })
        .await;
        let kept = on_record(&bench, ActionKind::CompleteFailover).await;
        assert_eq!(
            (kept.attempt, kept.accepted, kept.outcome),
            (attempt, false, None)
        );
        service.answer_one();
    }
    // The commit.
    service.answer_one();
    bench.failover_is("web-1", "succeeded", succeeded).await;
    assert_eq!(service.heard(ActionKind::CompleteFailover), 2);
    running.end().await;
}
