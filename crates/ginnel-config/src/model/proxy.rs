//! `server.proxy` of agents and clients.

use ginnel_core::proxy::{ProxyCredentials, ProxyLocation, ProxySettings};

use crate::shape::{self, Fields, Text, located};

pub(crate) fn declaration(fields: &mut Fields<'_, '_>) -> Option<ProxySettings> {
    let url = fields
        .field(
            "url",
            "Where the proxy is: http://host:port, or https://host:port if TLS is spoken with the proxy itself.",
        )
        .example_off("https://proxy.acme.internal:3128")
        .required(located(location()));
    let trust = fields
        .field("trust", "PEM file of the roots that sign the proxy's own certificate. Needed for https, and only then.")
        .example_off("proxy-root.pem")
        .optional(shape::file());
    let username = fields
        .field("username", "User for the proxy (HTTP Basic); then passwordFile is needed as well.")
        .example_off("ginnel")
        .optional(user());
    let password_file = fields
        .field(
            "passwordFile",
            "File with the password, readable by its owner only. Over http the proxy's network can read it.",
        )
        .example_off("proxy-password")
        .optional(shape::file());
    let bypass = fields
        .field(
            "noProxy",
            "Hosts that are reached without the proxy: names, .name for everything below, addresses and networks. They are \
             compared with server.address as it is written.",
        )
        .example_off(vec!["10.0.0.0/8", ".acme.internal"])
        .optional(shape::list(shape::parsed()));

    let (has_user, has_password) = (fields.has("username"), fields.has("passwordFile"));
    if has_user != has_password {
        let missing = if has_user { "passwordFile" } else { "username" };
        fields.report(format!("needs {missing} as well"), "username and passwordFile belong together".to_owned());
    }
    let has_trust = fields.has("trust");
    fields.check(|findings| {
        let Some(url) = &url else { return };
        if url.value.tls && !has_trust {
            let hint = "trust: proxy-root.pem beside it; the system's own roots are never used".to_owned();
            url.report(findings, "an https proxy needs trust, the roots of its certificate", hint);
        }
        if !url.value.tls && has_trust {
            let hint = "write https:// if the proxy speaks TLS itself, or remove trust".to_owned();
            url.report(findings, "an http proxy shows no certificate, so that trust would mean nothing", hint);
        }
    });

    let credentials = username.zip(password_file);
    Some(ProxySettings {
        location: url?.value,
        trust,
        credentials: credentials.map(|(username, password_file)| ProxyCredentials { username, password_file }),
        bypass: bypass.unwrap_or_default(),
    })
}

/// Where a proxy is. People write their password into it, so that a finding must not repeat it.
fn location() -> Text<ProxyLocation> {
    shape::parsed().unquoted()
}

/// RFC 7617: the user ends at the first colon.
fn user() -> Text<String> {
    shape::text_with(|text| match text {
        "" => Err("a user is not empty".to_owned()),
        _ if text.contains(':') || text.chars().any(char::is_control) => {
            Err("a user has no colon and no control characters".to_owned())
        }
        _ => Ok(text.to_owned()),
    })
}
