//! Where spans go, if anywhere.

use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;
use http::uri::Scheme;

/// Where a collector takes spans when its address has no path, by OTLP's specification.
const TRACES: &str = "/v1/traces";

/// The address of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Collector {
    traces_url: String,
    /// Whether it is on this machine as far as its address says so.
    pub(super) is_local: bool,
}

/// Why a text is no address of a collector. The text may hold a password and is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotACollector {
    /// It wants TLS.
    #[error("spans go to a collector beside this process, over http://; the collector can send them on over https://")]
    Encrypted,
    /// It is no URL of a host.
    #[error("a collector's address is written http://127.0.0.1:4318")]
    Malformed,
    /// It has a user or a password.
    #[error("a collector's address holds no user and no password, because the connection is not encrypted")]
    Secret,
}

impl Collector {
    /// Where the collector takes spans.
    #[cfg_attr(not(feature = "otel"), expect(dead_code, reason = "nothing is sent without the feature"))]
    pub(super) fn traces_url(&self) -> &str {
        &self.traces_url
    }
}

impl FromStr for Collector {
    type Err = NotACollector;

    fn from_str(text: &str) -> Result<Self, NotACollector> {
        let url: Uri = text.parse().map_err(|_| NotACollector::Malformed)?;
        let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else {
            return Err(NotACollector::Malformed);
        };
        if *scheme == Scheme::HTTPS {
            return Err(NotACollector::Encrypted);
        }
        if *scheme != Scheme::HTTP || url.query().is_some() || authority.host().is_empty() {
            return Err(NotACollector::Malformed);
        }
        if authority.as_str().contains('@') {
            return Err(NotACollector::Secret);
        }
        let path = if url.path() == "/" { TRACES } else { url.path() };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        Ok(Self { traces_url: format!("http://{authority}{path}"), is_local })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_address_and_adds_the_usual_path() {
        let cases = [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces", true),
            ("http://[::1]:4318/", "http://[::1]:4318/v1/traces", true),
            ("http://localhost/otel/traces", "http://localhost/otel/traces", true),
            ("http://collector.monitoring:4318", "http://collector.monitoring:4318/v1/traces", false),
        ];
        for (text, traces_url, is_local) in cases {
            let expected = Collector { traces_url: traces_url.to_owned(), is_local };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong_without_repeating_it() {
        let cases = [
            ("https://127.0.0.1:4318", NotACollector::Encrypted),
            ("http://user:hunter2@127.0.0.1", NotACollector::Secret),
            ("127.0.0.1:4318", NotACollector::Malformed),
            ("unix:/run/otel.sock", NotACollector::Malformed),
            ("ftp://127.0.0.1", NotACollector::Malformed),
            ("http://127.0.0.1?token=hunter2", NotACollector::Malformed),
            ("", NotACollector::Malformed),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<Collector>(), Err(why), "{text}");
            assert!(!why.to_string().contains("hunter2"));
        }
    }
}
