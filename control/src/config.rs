// SPDX-License-Identifier: Apache-2.0
//! The control plane's own settings: flags, each with its environment variable and default. What the mesh does is not here but in
//! the resources of the store.
//!
//! Invariant: parsed once, in `main`; no other module reads the environment or the command line.

mod store_url;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

pub use store_url::{InvalidStoreUrl, StoreUrl};

use crate::kubernetes::Membership;

/// Version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Version and commit of this build.
pub const RELEASE: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("NODEMESH_COMMIT"),
    ")"
);

/// The control plane of nodemesh: keeps the resources of a mesh, and pushes them to its nodes over xDS.
///
/// One on a machine is enough for a mesh (`--store embedded://...`); several share an etcd (`--store etcd://...`) and serve the
/// same. It ends on SIGTERM or SIGINT; nodes go on with what they have.
#[derive(Clone, Debug, Parser)]
#[command(name = "nodemesh-control", version = RELEASE, args_conflicts_with_subcommands = true)]
pub struct ControlConfig {
    /// Something else than to serve.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Address of the gRPC API and of xDS. May be repeated.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_LISTEN",
        value_name = "IP:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:15010"
    )]
    pub listen: Vec<SocketAddr>,

    /// Address of /metrics, /healthz and /readyz.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_HTTP",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:9465"
    )]
    pub http: SocketAddr,

    /// How often nodes report status and load.
    #[arg(long, env = "NODEMESH_CONTROL_REPORT_INTERVAL", value_name = "TIME", default_value = "5s",
          value_parser = report_interval)]
    pub report_interval: Duration,

    /// Filter of the log, in the syntax of `tracing-subscriber`.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log: String,

    /// Form of the log.
    #[arg(long, env = "NODEMESH_CONTROL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Where the store of resources is, and how to get into it.
    #[command(flatten)]
    pub store: StoreConfig,

    /// What a cluster comes down to.
    #[command(flatten)]
    pub kubernetes: KubernetesConfig,

    /// Virtual addresses and registration.
    #[command(flatten)]
    pub registry: RegistryConfig,

    /// Names.
    #[command(flatten)]
    pub dns: DnsConfig,

    /// Who may connect.
    #[command(flatten)]
    pub security: SecurityConfig,

    /// How much clients may ask for.
    #[command(flatten)]
    pub limits: LimitConfig,
}

/// What the control plane does besides serving.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Command {
    /// Print the custom resource definitions (JSON), for `kubectl apply -f -`.
    Crds,
}

/// The store.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub struct StoreConfig {
    /// The store: `embedded:///PATH` for a file that this process has alone, `etcd://HOST:PORT[,HOST:PORT][?prefix=PREFIX]`
    /// for an etcd that several control planes share, or `kubernetes[://CONTEXT]` for the objects of a cluster, which then is the
    /// only source: the one that this process runs in, or that of the kubeconfig.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_STORE",
        value_name = "URL",
        default_value = "embedded:///var/lib/nodemesh-control/store.redb"
    )]
    pub store: StoreUrl,

    /// CA certificates (PEM) that etcd's certificate must come from; with it etcd is spoken to over TLS.
    #[arg(long, env = "NODEMESH_CONTROL_ETCD_CA", value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,

    /// Certificate (PEM) to show to etcd.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_ETCD_CERT",
        value_name = "FILE",
        requires = "etcd_ca",
        requires = "etcd_key"
    )]
    pub etcd_cert: Option<PathBuf>,

    /// Private key (PEM) of that certificate.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_ETCD_KEY",
        value_name = "FILE",
        requires = "etcd_cert"
    )]
    pub etcd_key: Option<PathBuf>,
}

/// The cluster as the store.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesConfig {
    /// Which Services are in the mesh: those that are labelled `nodemesh.io/mesh: enabled`, or whose namespace is; or all that do not
    /// say `disabled`.
    #[arg(long, env = "NODEMESH_CONTROL_KUBERNETES_SERVICES", value_enum, default_value_t = Membership::OptIn)]
    pub kubernetes_services: Membership,

    /// Trust domain of the identities of service accounts: `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_TRUST_DOMAIN",
        value_name = "DOMAIN",
        default_value = "cluster.local"
    )]
    pub trust_domain: String,
}

/// Virtual addresses and leases.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Registry")]
pub struct RegistryConfig {
    /// Range from which services without addresses get theirs, such as 10.96.0.0/16. May be repeated, once per family.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_ADDRESS_RANGE",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub address_range: Vec<IpNet>,

    /// How long an address of these ranges is kept back after its service is gone, so that no client reaches another service by it.
    #[arg(long, env = "NODEMESH_CONTROL_ADDRESS_GRACE", value_name = "TIME", default_value = "10m",
          value_parser = humantime::parse_duration)]
    pub address_grace: Duration,

    /// How long a registered server stays without a renewal, if it does not ask for another time.
    #[arg(long, env = "NODEMESH_CONTROL_LEASE_TTL", value_name = "TIME", default_value = "10s",
          value_parser = lease_ttl)]
    pub lease_ttl: Duration,

    /// Shortest such time that a server gets.
    #[arg(long, env = "NODEMESH_CONTROL_LEASE_TTL_MIN", value_name = "TIME", default_value = "2s",
          value_parser = lease_ttl)]
    pub lease_ttl_min: Duration,

    /// Longest such time that a server gets.
    #[arg(long, env = "NODEMESH_CONTROL_LEASE_TTL_MAX", value_name = "TIME", default_value = "1h",
          value_parser = lease_ttl)]
    pub lease_ttl_max: Duration,
}

/// DNS.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Names")]
pub struct DnsConfig {
    /// Answer DNS queries for `SERVICE.NAMESPACE.ZONE` on this address, over UDP and TCP. Without it there is no DNS.
    #[arg(long, env = "NODEMESH_CONTROL_DNS", value_name = "IP:PORT")]
    pub dns: Option<SocketAddr>,

    /// The zone that these names are in.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_DNS_ZONE",
        value_name = "NAME",
        default_value = "mesh.internal"
    )]
    pub dns_zone: String,
}

/// TLS and access.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Security")]
pub struct SecurityConfig {
    /// Certificate chain (PEM) of this server; all listeners then speak TLS. Read again when it changes.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,

    /// Private key (PEM) of that certificate. Read again when it changes.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,

    /// CA certificates (PEM) that certificates of clients must come from. Clients may then identify themselves by certificate
    /// instead of by token. Read again when it changes.
    #[arg(
        long,
        env = "NODEMESH_CONTROL_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_client_ca: Option<PathBuf>,

    /// YAML file with the roles of tokens and of certificates. Read again when it changes; a bad one keeps the old.
    ///
    /// Roles: admin (everything), editor (reads, applies and deletes resources), registrar (reads, and registers servers), agent
    /// (reads, and takes xDS and reports), viewer (reads).
    ///
    /// `tokens: [{name: ci, role: editor, sha256: HEX}]`, where HEX is what `printf %s "$TOKEN" | sha256sum` prints.
    ///
    /// `identities: [{uri: "spiffe://mesh/agent/*", role: agent}, {cn: ops, role: admin}]`: URI of a certificate, where a `*` at
    /// the end stands for anything, or its common name.
    #[arg(long, env = "NODEMESH_CONTROL_ACCESS", value_name = "FILE")]
    pub access: Option<PathBuf>,

    /// Allow listeners that others can reach without TLS, and everybody who reaches one to do everything if there is no
    /// --access.
    #[arg(long, env = "NODEMESH_CONTROL_INSECURE")]
    pub insecure: bool,
}

/// Limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub struct LimitConfig {
    /// Most xDS streams at once; each node has one.
    #[arg(long, env = "NODEMESH_CONTROL_MAX_NODES", value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_nodes: u32,

    /// Longest message of a client, bytes; four times as much for requests of xDS, which may list all that a node has.
    #[arg(long, env = "NODEMESH_CONTROL_MAX_REQUEST_BYTES", value_name = "BYTES", default_value_t = 4 << 20,
          value_parser = clap::value_parser!(u32).range(1024..=256 << 20))]
    pub max_request_bytes: u32,

    /// Most open connections.
    #[arg(long, env = "NODEMESH_CONTROL_MAX_CONNECTIONS", value_name = "N", default_value_t = 50_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Most calls at once on one connection.
    #[arg(long, env = "NODEMESH_CONTROL_MAX_STREAMS", value_name = "N", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_streams: u32,

    /// Most calls per second from one address.
    #[arg(long, env = "NODEMESH_CONTROL_MAX_REQUEST_RATE", value_name = "N", default_value_t = 5_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub max_request_rate: u32,

    /// Longest a call that is no stream may take.
    #[arg(long, env = "NODEMESH_CONTROL_REQUEST_TIMEOUT", value_name = "TIME", default_value = "30s",
          value_parser = humantime::parse_duration)]
    pub request_timeout: Duration,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

fn lease_ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = crate::registry::LEASE_TTL_S;
    if ttl.subsec_nanos() == 0 && allowed.contains(&ttl.as_secs()) {
        return Ok(ttl);
    }
    let (least, most) = (allowed.start(), allowed.end());
    Err(format!("use whole seconds, {least}s to {most}s"))
}

fn report_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval.subsec_nanos() == 0 && (1..=3600).contains(&interval.as_secs()) {
        return Ok(interval);
    }
    Err("use whole seconds, 1s to 1h".to_owned())
}

#[cfg(test)]
mod tests;
