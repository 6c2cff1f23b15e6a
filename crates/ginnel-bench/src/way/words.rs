//! What the ways are called, and what the document says about each.

use crate::way::Way;

/// Programs that people use for the same and that are not measured, with the reason.
pub(crate) const NOT_TO_BE_HAD: [(&str, &str); 3] = [
    ("chisel", "a Go program, which the machine's module proxy did not have"),
    ("frp", "a Go program, which the machine's module proxy did not have"),
    ("Konnectivity", "a Go program, which the machine's module proxy did not have"),
];

impl Way {
    /// What `--way` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay2 => "relay-2",
            Self::Relay3 => "relay-3",
            Self::TlsPerSession => "tls-per-session",
            Self::TunnelOuter => "tunnel-outer",
            Self::Tunnel => "tunnel",
            Self::Rathole => "rathole",
            Self::SshR => "ssh-r",
            Self::SshLR => "ssh-l-r",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Stunnel => "stunnel",
        }
    }

    /// What the document calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct TCP",
            Self::Relay2 => "plain relay, 2 hops",
            Self::Relay3 => "plain relay, 3 hops",
            Self::TlsPerSession => "one TLS connection per session",
            Self::TunnelOuter => "tunnel, without end-to-end",
            Self::Tunnel => "tunnel, end-to-end",
            Self::Rathole => "rathole, TLS",
            Self::SshR => "ssh -R",
            Self::SshLR => "ssh -L + ssh -R",
            Self::Haproxy => "HAProxy chain",
            Self::Nginx => "nginx chain",
            Self::Stunnel => "stunnel chain",
        }
    }

    /// How many processes and encrypted legs it has, and what is set other than by default.
    pub(crate) fn configuration(self) -> &'static str {
        match self {
            Self::Direct => "the driver connects to the target",
            Self::Relay2 => {
                "2 processes of the bench, no TLS; copies with 64 KiB buffers, one thread per core, TCP_NODELAY"
            }
            Self::Relay3 => "3 processes of the bench, otherwise as with 2",
            Self::TlsPerSession => {
                "3 processes of the bench, 2 legs: client → server → agent, of which the agent dials out and keeps 64 connections ready, each used for one \
                 session; mutual TLS 1.3 with rustls and aws-lc-rs, AES-256-GCM, X25519, P-256 certificates, no resumption; copies with 64 KiB buffers"
            }
            Self::TunnelOuter => {
                "3 processes, 2 legs: client → server → agent, all settings as they come, except `dangerDisableInnerTls` at client and agent; policy \
                 is asked and the audit log written"
            }
            Self::Tunnel => {
                "the same with all settings as they come: every byte is encrypted from client to agent as well"
            }
            Self::Rathole => {
                "2 processes, 1 leg: there is no client, the server listens for applications; TLS 1.3 with OpenSSL, without client certificates; settings \
                 as they come"
            }
            Self::SshR => {
                "2 programs, 1 leg: `sshd` listens for applications; one connection, aes128-gcm, Ed25519 keys"
            }
            Self::SshLR => {
                "3 programs, 2 legs: a client with `-L` to the same `sshd`; one connection on each leg, aes128-gcm, Ed25519 keys"
            }
            Self::Haproxy => {
                "3 processes, 2 legs, each dialled for each session from entry to last: plain → TLS, TLS → TLS, TLS → plain, `mode tcp`; mutual TLS 1.3, \
                 AES-256-GCM, P-256 certificates; 2 threads, buffers and session cache as they come"
            }
            Self::Nginx => {
                "3 processes with 2 workers each, stream module, otherwise the same chain; `proxy_buffer_size 64k`, session reuse as it comes"
            }
            Self::Stunnel => {
                "3 processes, a thread for each connection, otherwise the same chain; the middle is two services joined by a Unix socket, because a service \
                 has TLS on one side only, and so has four descriptors for each session"
            }
        }
    }
}
