//! `homeward run`: the operator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use super::stop_on_signal;
use crate::controllers::{LeaseSettings, Operator, Paces, Settings, Timeouts};
use crate::domain::kept::Limits;
use crate::telemetry::{self, Health, LogFormat, Metrics};

/// What `homeward run` takes. Every value can also be set in the environment.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Namespace to watch; can be given several times or with commas. All namespaces when absent.
    #[arg(
        long = "namespace",
        env = "HOMEWARD_NAMESPACES",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    namespaces: Vec<String>,
    /// Address on which /metrics, /livez and /readyz are served.
    #[arg(long, env = "HOMEWARD_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// How many resources of a kind are worked on at once.
    #[arg(long, env = "HOMEWARD_WORKERS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    workers: u16,
    /// Name of the Lease that decides which replica acts. Operators that are confined to different namespaces need a Lease each.
    #[arg(long, env = "HOMEWARD_LEASE_NAME", default_value = "homeward")]
    lease_name: String,
    /// Namespace of the Lease; that of the pod, or `default`, when absent.
    #[arg(long, env = "HOMEWARD_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// Name of this replica in the Lease; the host name when absent. A random part is added.
    #[arg(long, env = "HOMEWARD_LEASE_IDENTITY")]
    lease_identity: Option<String>,
    /// How long the others wait until they take over from a replica that does not renew the Lease. Whole seconds.
    #[arg(long, env = "HOMEWARD_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    lease_duration: Duration,
    /// How often the Lease is renewed.
    #[arg(long, env = "HOMEWARD_LEASE_RENEW", default_value = "5s", value_parser = duration)]
    lease_renew: Duration,
    /// How soon a failed attempt at the Lease is repeated.
    #[arg(long, env = "HOMEWARD_LEASE_RETRY", default_value = "2s", value_parser = duration)]
    lease_retry: Duration,
    /// How often a vault is looked at while none of its VMs moves.
    #[arg(long, env = "HOMEWARD_POLL_STEADY", default_value = "10s", value_parser = duration)]
    poll_steady: Duration,
    /// How often a vault is looked at while data of one of its VMs is copied.
    #[arg(long, env = "HOMEWARD_POLL_BUSY", default_value = "1s", value_parser = duration)]
    poll_busy: Duration,
    /// How often a vault is looked at while one of its VMs is down.
    #[arg(long, env = "HOMEWARD_POLL_URGENT", default_value = "200ms", value_parser = duration)]
    poll_urgent: Duration,
    /// How soon after one look at a vault in Azure the next may come, however urgent it is: Azure counts requests.
    #[arg(long, env = "HOMEWARD_POLL_SERVICE", default_value = "5s", value_parser = duration)]
    poll_service: Duration,
    /// For how long after it was decided a request to a vault in Azure may be sent.
    #[arg(long, env = "HOMEWARD_SERVICE_SEND_WITHIN", default_value = "30s", value_parser = duration)]
    service_send_within: Duration,
    /// The longest that a request to a vault in Azure can take to have an effect once it was sent. One that was not answered is repeated only after
    /// that: with a shorter time than the service's own, something could be done twice.
    #[arg(long, env = "HOMEWARD_SERVICE_REQUEST_LIFE", default_value = "180s", value_parser = duration)]
    service_request_life: Duration,
    /// How often the Secrets of a vault are read again.
    #[arg(long, env = "HOMEWARD_POLL_SECRETS", default_value = "60s", value_parser = duration)]
    poll_secrets: Duration,
    /// How long the API server gets for an answer.
    #[arg(long, env = "HOMEWARD_API_TIMEOUT", default_value = "10s", value_parser = duration)]
    api_timeout: Duration,
    /// How long a vault gets to be looked at.
    #[arg(long, env = "HOMEWARD_LOOK_TIMEOUT", default_value = "30s", value_parser = duration)]
    look_timeout: Duration,
    /// How long a vault gets to accept an action.
    #[arg(long, env = "HOMEWARD_SUBMIT_TIMEOUT", default_value = "30s", value_parser = duration)]
    submit_timeout: Duration,
    /// How log lines look: text or json.
    #[arg(long, env = "HOMEWARD_LOG_FORMAT", default_value = "text", value_parser = super::log_format)]
    log_format: LogFormat,
    /// Which log lines are written, for example `info` or `info,homeward=debug`.
    #[arg(long, env = "HOMEWARD_LOG", default_value = "info")]
    log: String,
}

/// A time as it stands in resources: `200ms`, `10s`, `5m`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: kube::core::Duration = text
        .parse()
        .map_err(|error| format!("{error}; write for example 200ms, 10s or 5m"))?;
    if parsed.is_negative() || Duration::from(parsed).is_zero() {
        return Err("must be longer than zero, for example 200ms, 10s or 5m".into());
    }
    Ok(parsed.into())
}

/// What is too long to be written down is for ever.
fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

impl Arguments {
    fn settings(&self, own_namespace: &str, host: &str) -> Settings {
        Settings {
            // An empty variable of the environment names no namespace.
            namespaces: self
                .namespaces
                .iter()
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect(),
            workers: self.workers,
            paces: Paces {
                steady: self.poll_steady,
                busy: self.poll_busy,
                urgent: self.poll_urgent,
            },
            timeouts: Timeouts {
                api: self.api_timeout,
                look: self.look_timeout,
                submit: self.submit_timeout,
            },
            secrets_every: self.poll_secrets,
            service: Limits {
                send_within: signed(self.service_send_within),
                longest_life: signed(self.service_request_life),
            },
            lease: LeaseSettings {
                name: self.lease_name.clone(),
                namespace: self
                    .lease_namespace
                    .clone()
                    .unwrap_or_else(|| own_namespace.to_owned()),
                identity: self
                    .lease_identity
                    .clone()
                    .unwrap_or_else(|| host.to_owned()),
                duration: self.lease_duration,
                renew_every: self.lease_renew,
                retry_every: self.lease_retry,
            },
        }
    }
}

/// Runs the operator until it is told to stop.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    telemetry::start_log(arguments.log_format, &arguments.log)?;
    let config = kube::Config::infer().await.map_err(|error| {
        anyhow::anyhow!(
            "cannot find out how to reach the API server: set KUBECONFIG to a file, or run in a pod with a service account ({error})"
        )
    })?;
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let settings = arguments.settings(&config.default_namespace, &host);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), api_server = %config.cluster_url, listen = %arguments.listen, ?settings, "begins with this configuration");
    let (health, metrics) = (Arc::<Health>::default(), Arc::<Metrics>::default());
    let telling = CancellationToken::new();
    telemetry::serve(
        arguments.listen,
        health.clone(),
        metrics.clone(),
        telling.clone(),
    )
    .await?;
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    let operator = Operator {
        config,
        settings,
        factory: Arc::new(super::drivers::Drivers {
            service_pause: arguments.poll_service,
        }),
        health,
        metrics,
    };
    operator.run(stop).await?;
    telling.cancel();
    tracing::info!("ended as asked");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_in_resources() {
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
        for bad in ["", "5", "-3s", "0s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
