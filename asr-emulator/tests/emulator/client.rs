//! A client of the bare service, with a clock in its hand.

use homeward_asr_emulator::{
    Button, FabricKind, Machine, Request, Response, Seed, Service, Settings, Site,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

pub(crate) const VERSION: &str = "2025-08-01";

/// The service and its client.
pub(crate) struct Client {
    pub(crate) service: Service,
    pub(crate) now: Timestamp,
    token: String,
    pub(crate) version: &'static str,
}

pub(crate) fn start() -> Timestamp {
    "2026-03-01T08:00:00.1234567Z".parse().unwrap()
}

pub(crate) fn to_azure() -> Value {
    json!({ "properties": {
        "failoverDirection": "PrimaryToRecovery",
        "providerSpecificDetails": { "instanceType": "HyperVReplicaAzure" },
    } })
}

pub(crate) fn to_premises(sync: &str, create: &str) -> Value {
    json!({ "properties": {
        "failoverDirection": "RecoveryToPrimary",
        "providerSpecificDetails": {
            "instanceType": "HyperVReplicaAzureFailback",
            "dataSyncOption": sync,
            "recoveryVmCreationOption": create,
        },
    } })
}

impl Client {
    pub(crate) fn new() -> Self {
        Self::with(&Seed::of(FabricKind::HyperVSite, 2), Settings::default())
    }

    pub(crate) fn with(seed: &Seed, settings: Settings) -> Self {
        Self::around(Service::new(seed, settings, start()), start())
    }

    pub(crate) fn around(service: Service, now: Timestamp) -> Self {
        let mut client = Self {
            service,
            now,
            token: String::new(),
            version: VERSION,
        };
        client.renew();
        client
    }

    /// Gets a token.
    pub(crate) fn renew(&mut self) {
        let response = self.ask_token("client_secret=emulated-secret");
        assert_eq!(response.status, 200, "{}", response.value());
        self.token = response.value()["access_token"].as_str().unwrap().into();
    }

    pub(crate) fn ask_token(&mut self, proof: &str) -> Response {
        let mut request = Request::new(
            "POST",
            &format!("/{}/oauth2/v2.0/token", self.service.tenant()),
        );
        request.body = format!(
            "grant_type=client_credentials&client_id=0c1e0a4e-aaaa-4bbb-8ccc-1dddd2eeee3f&scope=https%3A%2F%2Fmanagement.azure.com%2F.default&{proof}"
        )
        .into_bytes();
        self.service.handle(&request, self.now)
    }

    /// A request with a token; `target` begins below the vault, or at its id.
    pub(crate) fn request(&self, method: &str, target: &str) -> Request {
        let path = if target.to_ascii_lowercase().starts_with("/subscriptions") {
            target.to_owned()
        } else {
            format!("{}{target}", self.service.vault().path())
        };
        let mark = if path.contains('?') { '&' } else { '?' };
        let path = if path.contains("api-version") {
            path
        } else {
            format!("{path}{mark}api-version={}", self.version)
        };
        Request::new(method, &path)
            .header("authorization", &format!("Bearer {}", self.token))
            .header("host", "asr.example.test")
    }

    pub(crate) fn send(&mut self, request: &Request) -> Response {
        self.service.handle(request, self.now)
    }

    pub(crate) fn get(&mut self, target: &str) -> Value {
        let response = self.send(&self.request("GET", target));
        assert_eq!(response.status, 200, "{target}: {}", response.value());
        response.value()
    }

    pub(crate) fn post(&mut self, target: &str, body: &Value) -> Response {
        let request = self.request("POST", target);
        let request = if body.is_null() {
            request
        } else {
            request.json(body)
        };
        self.send(&request)
    }

    pub(crate) fn item(&mut self, vm: &str) -> Value {
        let id = self.service.item_id(vm).unwrap();
        self.get(&id)["properties"].clone()
    }

    /// Asks something of an item; the operation's id is the answer.
    pub(crate) fn act(&mut self, vm: &str, verb: &str, body: &Value) -> String {
        let id = self.service.item_id(vm).unwrap();
        let response = self.post(&format!("{id}/{verb}"), body);
        assert_eq!(response.status, 202, "{verb}: {}", response.value());
        operation(&response)
    }

    pub(crate) fn job(&mut self, name: &str) -> Value {
        self.get(&format!("/replicationJobs/{name}"))["properties"].clone()
    }

    pub(crate) fn pass(&mut self, millis: i64) {
        self.now += SignedDuration::from_millis(millis);
        self.service.advance(self.now);
    }

    /// Lets a minute pass: any job without a pause is over by then.
    pub(crate) fn settle(&mut self) {
        self.pass(60_000);
    }

    /// Does it and waits for the end; the job's properties are the answer.
    pub(crate) fn finish(&mut self, vm: &str, verb: &str, body: &Value) -> Value {
        let job = self.act(vm, verb, body);
        self.settle();
        self.job(&job)
    }

    /// Moves a VM to Azure, committed.
    pub(crate) fn move_to_azure(&mut self, vm: &str) {
        assert_eq!(
            self.finish(vm, "plannedFailover", &to_azure())["state"],
            "Succeeded"
        );
        assert_eq!(
            self.finish(vm, "failoverCommit", &Value::Null)["state"],
            "Succeeded"
        );
    }

    pub(crate) fn machine(&self, vm: &str) -> &Machine {
        self.service.machine(vm).unwrap()
    }

    pub(crate) fn press(&mut self, button: &Button) -> Option<String> {
        self.service.press(button, self.now).unwrap()
    }

    /// Where the VM runs.
    pub(crate) fn runs(&self, vm: &str) -> (bool, bool) {
        let machine = self.machine(vm);
        (machine.runs(Site::OnPremises), machine.runs(Site::Azure))
    }
}

/// The id in an accepted request's answer.
pub(crate) fn operation(response: &Response) -> String {
    let address = response.get("azure-asyncoperation").unwrap();
    let id = address.split('?').next().unwrap();
    id.rsplit('/').next().unwrap().to_owned()
}

pub(crate) fn words(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect()
}

pub(crate) fn task<'a>(job: &'a Value, name: &str) -> &'a Value {
    job["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|task| task["name"] == name)
        .unwrap()
}
