//! The commands that ask a running process.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs, Subcommand};
use ginnel_core::id::RequestId;
use ginnel_ops::admin::client::Door;

/// Where a running process is asked
#[derive(ClapArgs)]
pub(crate) struct Ask {
    /// The process's admin listener
    #[arg(long, value_name = "ADDRESS", env = "GINNEL_ASK", default_value = "127.0.0.1:50051")]
    pub(crate) admin: SocketAddr,

    /// The process's admin socket, instead of the listener
    #[arg(long, value_name = "PATH", env = "GINNEL_ASK_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
}

impl Ask {
    pub(crate) fn door(&self) -> Door {
        self.socket.clone().map_or(Door::Address(self.admin), Door::Socket)
    }
}

#[derive(ClapArgs)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) ask: Ask,

    /// Print what the process says as it is, in JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Only say whether a session could be carried now; the exit code says it as well
    #[arg(long, conflicts_with = "json")]
    pub(crate) ready: bool,
}

#[derive(Subcommand)]
pub(crate) enum Sessions {
    /// Show the sessions that are carried now
    List(List),
    /// End sessions: both sides see a reset
    End(End),
}

/// Which sessions
#[derive(ClapArgs)]
pub(crate) struct Chosen {
    /// Only of this client: its name or principal
    #[arg(long, value_name = "WHO")]
    pub(crate) client: Option<String>,

    /// Only through this agent: its name, principal or instance
    #[arg(long, value_name = "WHO")]
    pub(crate) agent: Option<String>,

    /// Only to this target, as host:port or host
    #[arg(long, value_name = "TARGET")]
    pub(crate) target: Option<String>,

    /// Only what this rule allowed
    #[arg(long, value_name = "NAME")]
    pub(crate) rule: Option<String>,
}

#[derive(ClapArgs)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) ask: Ask,

    #[command(flatten)]
    pub(crate) chosen: Chosen,

    /// Print them as they are, in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(ClapArgs)]
#[command(group = ArgGroup::new("which").args(["request", "client", "agent", "target", "rule", "all"]).multiple(true).required(true))]
pub(crate) struct End {
    /// The session of this request
    #[arg(value_name = "REQUEST-ID")]
    pub(crate) request: Option<RequestId>,

    #[command(flatten)]
    pub(crate) chosen: Chosen,

    /// Every session
    #[arg(long, conflicts_with_all = ["request", "client", "agent", "target", "rule"])]
    pub(crate) all: bool,

    /// The process's admin socket
    #[arg(long, value_name = "PATH", env = "GINNEL_ASK_SOCKET")]
    pub(crate) socket: PathBuf,
}

#[derive(ClapArgs)]
#[command(group = ArgGroup::new("what").args(["who", "key", "serial", "rule", "target", "all", "list"]).required(true))]
pub(crate) struct Revoke {
    /// Everybody with this identity: ROLE/NAME, the whole principal, or the e-mail of the service account
    #[arg(value_name = "WHO")]
    pub(crate) who: Option<String>,

    /// Every certificate for this key, and every enrolment that it signed: SHA-256 of its SubjectPublicKeyInfo in hexadecimal digits
    #[arg(long, value_name = "HASH")]
    pub(crate) key: Option<String>,

    /// The certificate with this serial number, in hexadecimal digits
    #[arg(long, value_name = "NUMBER")]
    pub(crate) serial: Option<String>,

    /// What this rule of the server allows
    #[arg(long, value_name = "NAME")]
    pub(crate) rule: Option<String>,

    /// These targets of the agent, as its allow-list names them
    #[arg(long, value_name = "PATTERN")]
    pub(crate) target: Option<String>,

    /// Everything: the agent carries nothing until this is undone
    #[arg(long)]
    pub(crate) all: bool,

    /// Show what is revoked
    #[arg(long, conflicts_with_all = ["undo", "reason"])]
    pub(crate) list: bool,

    /// Take the revocation back: what the configuration allows is allowed again
    #[arg(long)]
    pub(crate) undo: bool,

    /// Why, for the record and for whoever lists it: a sentence, or the number of a ticket
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,

    /// Print the answer as it is, in JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// The admin socket of the server or agent
    #[arg(long, value_name = "PATH", env = "GINNEL_ASK_SOCKET")]
    pub(crate) socket: PathBuf,
}

#[derive(ClapArgs)]
pub(crate) struct Reload {
    /// The process's admin socket
    #[arg(long, value_name = "PATH", env = "GINNEL_ASK_SOCKET")]
    pub(crate) socket: PathBuf,
}

#[derive(ClapArgs)]
pub(crate) struct Explain {
    /// The request, as answers and logs name it
    #[arg(value_name = "REQUEST-ID")]
    pub(crate) request: RequestId,

    /// Audit logs, directories that hold one, and logs of processes
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Ask this admin listener as well; may be repeated. Without it and without files: 127.0.0.1:50051
    #[arg(long, value_name = "ADDRESS", env = "GINNEL_ASK", value_delimiter = ',')]
    pub(crate) admin: Vec<SocketAddr>,

    /// Print what was found and the conclusion in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum Policy {
    /// Say whether a client may reach a target: 0 yes, 1 no
    Test(PolicyTest),
}

#[derive(ClapArgs)]
#[command(group = ArgGroup::new("what").args(["client", "all"]).required(true))]
pub(crate) struct PolicyTest {
    /// Name of the client
    #[arg(requires = "target")]
    pub(crate) client: Option<String>,

    /// What it wants to reach, as host:port
    pub(crate) target: Option<String>,

    /// Print everything that is allowed
    #[arg(long)]
    pub(crate) all: bool,

    /// Address that the client comes from; without it, rules count wherever they want it to come from
    #[arg(long, value_name = "ADDRESS", conflicts_with = "all")]
    pub(crate) from: Option<IpAddr>,

    /// Ask this configuration of a server instead of a running one
    #[cfg(feature = "server")]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket"])]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) ask: Ask,

    /// Print the verdict as it is, in JSON
    #[arg(long)]
    pub(crate) json: bool,
}
