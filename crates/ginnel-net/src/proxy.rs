//! Asks an HTTP proxy for a way to the server (RFC 9110, CONNECT), over TCP or over TLS with the proxy itself.
//!
//! The proxy is not believed: whatever it connects to, the server behind it has to prove itself as if nobody stood between.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ginnel_core::limits::{CONNECT_DEADLINE, SILENCE_MAX};
use ginnel_core::proxy::{ProxyLocation, ProxySettings};
use ginnel_identity::file::{self, FileError};
use ginnel_identity::tls::{TlsError, proxy_client, server_name};
use ginnel_identity::trust::{Roots, TrustError};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::line::{Line, tcp};
use crate::live::Live;

mod answer;

pub use answer::Answer;

/// The proxy's answer. Less than a whole attempt may take, so that a silent proxy is named and not taken for a silent server.
const ANSWER_WAIT: Duration = Duration::from_secs(7);

const _: () = assert!(ANSWER_WAIT.as_secs() < CONNECT_DEADLINE.as_secs());

/// Longest password; what is longer is the wrong file.
const PASSWORD_BYTES_MAX: usize = 1024;

/// A proxy with everything that is needed to use it. Cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    location: ProxyLocation,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    authorization: Option<Arc<SecretString>>,
}

ginnel_identity::never_implements!(Proxy: fmt::Display);

/// Why what the configuration names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProxyFileError {
    /// Configuration: the password has characters that no header may have.
    #[error("{} holds no password: one line without control characters", .0.display())]
    Password(PathBuf),
    /// The environment: the password's file cannot be used.
    #[error("reading the proxy's password")]
    File(#[from] FileError),
    /// Configuration: the roots that sign the proxy's certificate cannot be used.
    #[error("reading the proxy's roots")]
    Trust(#[from] TrustError),
    /// Configuration: TLS with the proxy cannot be set up.
    #[error("setting up TLS with the proxy")]
    Tls(#[from] TlsError),
}

/// Why there is no way through the proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The proxy wants a user and password, or others (configuration).
    #[error("the proxy at {proxy} wants {}a user and password (407; it offers {})", if *.given { "other credentials: it refused " } else { "" }, offers(.offered))]
    Credentials {
        /// The proxy.
        proxy: String,
        /// Whether some were sent.
        given: bool,
        /// The ways that it offers.
        offered: Vec<String>,
    },
    /// The connection to the proxy broke before it answered (environment).
    #[error("the connection to the proxy at {proxy} broke before it answered")]
    Broken {
        /// The proxy.
        proxy: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came back is no answer to CONNECT (peer).
    #[error("what the proxy at {proxy} answered is not HTTP: {problem}")]
    Malformed {
        /// The proxy.
        proxy: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The proxy said no (peer).
    #[error("the proxy at {proxy} answered {status}{}{reason}", if .reason.is_empty() { "" } else { " " })]
    Refused {
        /// The proxy.
        proxy: String,
        /// Its status.
        status: u16,
        /// Its words, without control characters.
        reason: String,
    },
    /// Nothing came back (peer, environment).
    #[error("the proxy at {proxy} did not answer within {} s", ANSWER_WAIT.as_secs())]
    Silent {
        /// The proxy.
        proxy: String,
    },
    /// TLS with the proxy itself failed (configuration, peer).
    #[error("TLS with the proxy at {proxy} failed; check server.proxy.trust")]
    Tls {
        /// The proxy.
        proxy: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody answers there (environment).
    #[error("could not connect to the proxy at {proxy}")]
    Unreachable {
        /// The proxy.
        proxy: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn offers(schemes: &[String]) -> String {
    if schemes.is_empty() { "nothing".to_owned() } else { schemes.join(", ") }
}

impl Proxy {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// [`ProxyFileError`], which names the file and never holds content.
    pub fn read(settings: &ProxySettings) -> Result<Self, ProxyFileError> {
        let location = settings.location.clone();
        let tls = match &settings.trust {
            Some(path) if location.tls => Some((proxy_client(&Roots::read(path)?)?, server_name(&location.host)?)),
            Some(_) | None => None,
        };
        let mut authorization = None;
        if let Some(credentials) = &settings.credentials {
            let path = &credentials.password_file;
            let password = file::read_private(path, PASSWORD_BYTES_MAX)?;
            let text = std::str::from_utf8(&password).ok().map(|text| text.trim_end_matches(['\r', '\n']));
            let text = text.filter(|text| !text.is_empty() && !text.chars().any(char::is_control));
            let text = text.ok_or_else(|| ProxyFileError::Password(path.clone()))?;
            authorization = Some(Arc::new(basic(&credentials.username, text)));
        }
        Ok(Self { location, tls, authorization })
    }

    /// Where it is.
    pub fn location(&self) -> &ProxyLocation {
        &self.location
    }

    /// Connects to the proxy itself, and speaks TLS with it if it is an https proxy.
    ///
    /// # Errors
    /// [`ProxyError::Unreachable`] or [`ProxyError::Tls`].
    pub async fn reach(&self) -> Result<Line, ProxyError> {
        let proxy = self.location.authority();
        let connected = tcp(&self.location.host, self.location.port).await;
        let connected = connected.map_err(|source| ProxyError::Unreachable { proxy: proxy.clone(), source })?;
        let live = Live::new(connected, SILENCE_MAX);
        match &self.tls {
            None => Ok(Line::Plain(live)),
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name.clone(), live).await;
                let stream = stream.map_err(|source| ProxyError::Tls { proxy, source })?;
                Ok(Line::ThroughTls(Box::new(stream)))
            }
        }
    }

    /// Asks, on a line to the proxy, for a way to `target`, a host and port as in a URL.
    ///
    /// # Errors
    /// [`ProxyError`] unless the answer is 2xx; it comes within a bounded time.
    pub async fn ask<S>(&self, line: &mut S, target: &str) -> Result<Answer, ProxyError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let proxy = self.location.authority();
        let request = self.request(target);
        let answer = timeout(ANSWER_WAIT, answer::exchange(line, request.as_bytes())).await;
        let answer = match answer {
            Err(_) => return Err(ProxyError::Silent { proxy }),
            Ok(Err(answer::AnswerError::Io(source))) => return Err(ProxyError::Broken { proxy, source }),
            Ok(Err(answer::AnswerError::Malformed(problem))) => return Err(ProxyError::Malformed { proxy, problem }),
            Ok(Ok(answer)) => answer,
        };
        match answer.status {
            200..=299 if answer.is_exact => Ok(answer),
            200..=299 => Err(ProxyError::Malformed {
                proxy,
                problem: "bytes came after the head, before anything was asked of the server",
            }),
            407 => Err(ProxyError::Credentials { proxy, given: self.authorization.is_some(), offered: answer.schemes }),
            status => Err(ProxyError::Refused { proxy, status, reason: answer.reason }),
        }
    }

    fn request(&self, target: &str) -> Zeroizing<String> {
        let authorization = self.authorization.as_ref().map_or("", |value| value.expose_secret());
        let mut request = Zeroizing::new(String::with_capacity(2 * target.len() + authorization.len() + 128));
        for part in ["CONNECT ", target, " HTTP/1.1\r\nHost: ", target, "\r\nUser-Agent: ginnel\r\n"] {
            request.push_str(part);
        }
        if !authorization.is_empty() {
            for part in ["Proxy-Authorization: ", authorization, "\r\n"] {
                request.push_str(part);
            }
        }
        request.push_str("\r\n");
        request
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("location", &self.location).finish_non_exhaustive()
    }
}

fn basic(username: &str, password: &str) -> SecretString {
    let pair = Zeroizing::new(format!("{username}:{password}"));
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
    SecretString::from(format!("Basic {}", *encoded))
}

impl Answer {
    /// What the proxy believes the time is, if it said so.
    pub fn date(&self) -> Option<SystemTime> {
        self.date
    }
}

#[cfg(test)]
mod tests;
