//! The command line.

pub(crate) mod check;
#[cfg(feature = "server")]
pub(crate) mod issuer;
pub(crate) mod operate;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use ginnel_core::audit::Timestamp;
use ginnel_ops::telemetry::{DEFAULT_FILTER, LogFormat};

/// A tunnel that lets a managed cloud service reach permitted hosts in a customer's private network.
#[derive(Parser)]
#[command(name = "ginnel", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,

    #[command(flatten)]
    pub(crate) log: Log,
}

/// How the process's own log is written, on standard error.
#[derive(ClapArgs)]
pub(crate) struct Log {
    /// Log as text for people (human) or as JSON lines (json)
    #[arg(long, global = true, value_name = "FORMAT", env = "GINNEL_LOG_FORMAT", default_value = "human")]
    pub(crate) log_format: LogFormat,

    /// What to log: a level, or levels by module, such as info,ginnel_net=debug
    #[arg(long = "log", global = true, value_name = "FILTER", env = "GINNEL_LOG")]
    pub(crate) log_filter: Option<String>,
}

impl Log {
    pub(crate) fn filter(&self, default: &'static str) -> &str {
        self.log_filter.as_deref().unwrap_or(default)
    }
}

/// What a daemon logs unless something else is asked for.
pub(crate) const DAEMON_FILTER: &str = DEFAULT_FILTER;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Try the whole tunnel in one process: nothing to prepare, nothing left behind
    #[cfg(all(feature = "server", feature = "agent", feature = "client"))]
    Demo(Demo),
    /// Run the tunnel server, in the vendor's cloud
    #[cfg(feature = "server")]
    Server(Daemon),
    /// Run enrolment alone, so that the server holds no right to issue certificates
    #[cfg(feature = "server")]
    Enrolment(Daemon),
    /// Run a tunnel agent, in the customer's network
    #[cfg(feature = "agent")]
    Agent(Daemon),
    /// Run a tunnel client, beside the application
    #[cfg(feature = "client")]
    Client(Daemon),
    /// Show an example, the schema, or every error of a configuration file
    #[command(subcommand)]
    Config(Config),
    /// Make service-account keys
    #[command(subcommand)]
    Credentials(Credentials),
    /// Change the roots of a server's embedded issuer, step by step
    #[cfg(feature = "server")]
    #[command(subcommand)]
    Issuer(issuer::Issuer),
    /// Read audit logs, and hold one against the other
    #[command(subcommand)]
    Audit(Audit),
    /// Find out why a role would not work: network, proxy, TLS, clock, key, certificate, target
    Check(check::Check),
    /// Show what a running process says of itself
    Status(operate::Status),
    /// Show or end sessions
    #[command(subcommand)]
    Sessions(operate::Sessions),
    /// Say what happened to one request, hop by hop, and what to do
    Explain(operate::Explain),
    /// Ask what the rules allow
    #[command(subcommand)]
    Policy(operate::Policy),
    /// Shut out an identity, a key, a certificate, a rule or a target, and end what depends on it
    Revoke(operate::Revoke),
    /// Make a running process read its configuration again
    Reload(operate::Reload),
    /// Carry standard input and output through the running client, for SSH's ProxyCommand
    #[cfg(feature = "client")]
    Connect(Connect),
}

impl Command {
    /// Whether it has TLS connections of its own.
    pub(crate) fn speaks_tls(&self) -> bool {
        match self {
            #[cfg(all(feature = "server", feature = "agent", feature = "client"))]
            Self::Demo(_) => true,
            #[cfg(feature = "server")]
            Self::Server(_) | Self::Enrolment(_) => true,
            #[cfg(feature = "server")]
            Self::Issuer(_) => false,
            #[cfg(feature = "agent")]
            Self::Agent(_) => true,
            #[cfg(feature = "client")]
            Self::Client(_) => true,
            Self::Check(_) => true,
            #[cfg(feature = "client")]
            Self::Connect(_) => false,
            Self::Config(_)
            | Self::Credentials(_)
            | Self::Audit(_)
            | Self::Status(_)
            | Self::Sessions(_)
            | Self::Explain(_)
            | Self::Policy(_)
            | Self::Revoke(_)
            | Self::Reload(_) => false,
        }
    }
}

#[cfg(all(feature = "server", feature = "agent", feature = "client"))]
#[derive(ClapArgs)]
pub(crate) struct Demo {
    /// Exit after one request, with 0 only if the bytes arrived right
    #[arg(long)]
    pub(crate) once: bool,

    /// Reach this host by HTTP instead of a small one of the demonstration's own; may be repeated
    #[arg(long = "target", value_name = "HOST:PORT")]
    pub(crate) targets: Vec<ginnel_core::target::Target>,
}

#[derive(ClapArgs)]
pub(crate) struct Daemon {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,

    /// Override one value of the file, such as server.address=203.0.113.7:443; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) overrides: Vec<String>,
}

#[derive(Subcommand)]
pub(crate) enum Config {
    /// Print a commented example
    Example {
        /// server, agent, client or enrolment
        #[arg(value_name = "ROLE")]
        daemon: ginnel_config::Daemon,
    },
    /// Report every error of a file at once; files that it names need not exist
    Check {
        /// server, agent, client or enrolment
        #[arg(value_name = "ROLE")]
        daemon: ginnel_config::Daemon,
        /// The file
        file: PathBuf,
    },
    /// Print the JSON Schema
    Schema {
        /// server, agent, client or enrolment
        #[arg(value_name = "ROLE")]
        daemon: ginnel_config::Daemon,
    },
}

#[derive(Subcommand)]
pub(crate) enum Credentials {
    /// Write a new service-account key file; its public half goes to standard output, for the server's publicKeys
    Create {
        /// E-mail of the service account
        email: String,
        /// Where to write the key; must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Subcommand)]
pub(crate) enum Audit {
    /// Show records, all or those that fit
    Show(Show),
    /// Prove that a log is whole, or name the first record that was changed
    Verify(Verify),
    /// Hold the log of the vendor's server against those of the customer's agents: 0 they agree, 1 they do not
    Compare(Compare),
}

#[derive(ClapArgs)]
pub(crate) struct Show {
    /// Audit logs, or directories that hold one
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Print the records as they are, one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,

    /// Only this event, such as allowed, connected, ended, refused
    #[arg(long, value_name = "WORD")]
    pub(crate) event: Option<String>,

    /// Only this request id
    #[arg(long, value_name = "ID")]
    pub(crate) request: Option<String>,

    /// Only this client: its name, principal or e-mail
    #[arg(long, value_name = "WHO")]
    pub(crate) client: Option<String>,

    /// Only this agent: its name, principal, e-mail or instance
    #[arg(long, value_name = "WHO")]
    pub(crate) agent: Option<String>,

    /// Only this target, as host:port or host
    #[arg(long, value_name = "TARGET")]
    pub(crate) target: Option<String>,

    /// Only this cause, such as notAllowed
    #[arg(long, value_name = "WORD")]
    pub(crate) cause: Option<String>,

    /// Not before this time, as 2026-11-22T10:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Timestamp>,

    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Timestamp>,
}

#[derive(ClapArgs)]
pub(crate) struct Verify {
    /// Directories that hold a log, each verified by itself; or files of one log, the oldest first
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Secret key of the log, moved from chain.key: proves every record
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,

    /// Public key of the log, copied from chain.pub: proves what is signed
    #[arg(long, value_name = "FILE")]
    pub(crate) public_key: Option<PathBuf>,

    /// Records of the log that were kept elsewhere, or answers of ginnel status --json: the log must have them; may be repeated
    #[arg(long = "anchor", value_name = "FILE")]
    pub(crate) anchors: Vec<PathBuf>,

    /// Number of a record that the log must have got to
    #[arg(long, value_name = "SEQ")]
    pub(crate) expect_at_least: Option<u64>,

    /// Print one JSON object for each log
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(ClapArgs)]
pub(crate) struct Compare {
    /// The log of one side, or the directory that holds it
    #[arg(value_name = "FILE")]
    pub(crate) one: PathBuf,

    /// The logs of the other side: one for each of its agents
    #[arg(value_name = "FILE", required = true)]
    pub(crate) other: Vec<PathBuf>,

    /// Print the comparison in JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Only sessions through this agent: its name or principal. Without it: the agents that the customer's logs are about
    #[arg(long, value_name = "WHO")]
    pub(crate) agent: Option<String>,

    /// How many seconds the times of the two may lie apart, for what an opening takes and for clocks that differ
    #[arg(long, value_name = "SECONDS", default_value_t = ginnel_core::audit::compare::APART.as_secs())]
    pub(crate) apart: u64,

    /// Not before this time, as 2026-11-22T10:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Timestamp>,

    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Timestamp>,
}

#[cfg(feature = "client")]
#[derive(ClapArgs)]
pub(crate) struct Connect {
    /// Host to reach: SSH's %h
    pub(crate) host: String,

    /// Port to reach: SSH's %p
    pub(crate) port: String,

    /// The running client's proxy listener
    #[arg(long, value_name = "ADDRESS", env = "GINNEL_PROXY", default_value = "127.0.0.1:3128")]
    pub(crate) proxy: String,
}

#[cfg(test)]
#[cfg(all(feature = "server", feature = "agent", feature = "client"))]
mod tests {
    use std::path::Path;

    use super::*;

    /// The words of a line of shell, which quotes with double quotes alone.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut is_quoted = false;
        for c in line.chars() {
            match c {
                '"' => is_quoted = !is_quoted,
                ' ' if !is_quoted => words.push(String::new()),
                c => words.last_mut().unwrap().push(c),
            }
        }
        assert!(!is_quoted, "{line}");
        words
    }

    /// Lines of the shell blocks of a page.
    fn shell(page: &str) -> Vec<&str> {
        let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
        blocks.flat_map(str::lines).filter(|line| !line.is_empty()).collect()
    }

    #[test]
    fn every_command_of_the_runbooks_is_one_that_the_program_has() {
        for (page, least) in [("incident.md", 8), ("agent-owner.md", 2)] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operate").join(page);
            let page = std::fs::read_to_string(path).unwrap();
            let mut revocations = 0;
            for line in shell(&page) {
                if line.starts_with("export GINNEL_ASK_SOCKET=") {
                    continue;
                }
                let mut words = words(line);
                assert_eq!(words[0], "ginnel", "{line}");
                // What the variable of the block before gives.
                let ends_sessions = words[1..].iter().take(2).eq(["sessions", "end"]);
                if ["revoke", "reload"].contains(&words[1].as_str()) || ends_sessions {
                    words.extend(["--socket".to_owned(), "admin.sock".to_owned()]);
                }
                let parsed = Args::try_parse_from(&words);
                assert!(parsed.is_ok(), "{line}: {}", parsed.err().unwrap());
                revocations += u64::from(words[1] == "revoke");
            }
            assert!(revocations >= least, "{revocations} revocations");
        }
    }
}
