//! From the JSON of a certificate's configuration to a certificate.

use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ginnel_identity::hex;
use ginnel_identity::key::p256_point;
use ginnel_identity::pem;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose as Purpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::pem::SectionKind;
use serde_json::{Value, json};

use super::authority::Authority;
use super::http::{Answer, Request};
use super::{Fault, Signed, State, Tier, error};

/// How far the quota looks back.
const QUOTA_WINDOW: Duration = Duration::from_secs(1);

struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl State {
    /// Judges a request and signs, or gives what was signed under its id before.
    pub(super) fn sign(&mut self, name: &str, request: &Request, fault: Option<Fault>) -> Result<Value, Answer> {
        let Some((pool, authority)) = self.pools.get(name).cloned() else {
            return Err(error(404, "NOT_FOUND", &format!("Resource '{name}' was not found"), None));
        };
        if !pool.is_permitted {
            let message = format!("Permission 'privateca.certificates.create' denied on '{name}'");
            return Err(error(403, "PERMISSION_DENIED", &message, None));
        }
        let (request_id, id) = (request.query("requestId").to_owned(), request.query("certificateId").to_owned());
        let key = (name.to_owned(), request_id.clone());
        if let Some(known) = self.answers.get(&key).filter(|_| !request_id.is_empty()) {
            return Ok(known.clone());
        }
        let now = Instant::now();
        let recent = self.calls.iter().filter(|(asked, at)| asked == name && now.duration_since(*at) < QUOTA_WINDOW);
        if recent.count() > pool.quota {
            let after = Some(QUOTA_WINDOW);
            return Err(error(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Certificates'", after));
        }
        if pool.tier == Tier::Enterprise {
            if id.is_empty()
                || id.len() > 63
                || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            {
                return Err(error(400, "INVALID_ARGUMENT", "certificate_id is required in the Enterprise tier", None));
            }
            if self.signed.iter().any(|signed| signed.pool == name && signed.id == id) {
                return Err(error(409, "ALREADY_EXISTS", "a certificate of this name exists", None));
            }
        }
        let wanted = request.json().and_then(|body| Wanted::read(&body));
        let mut wanted =
            wanted.ok_or_else(|| error(400, "INVALID_ARGUMENT", "the certificate cannot be read", None))?;
        if let Some(passed) = &pool.extensions {
            wanted
                .extensions
                .retain(|extension| passed.iter().any(|oid| extension.oid_components().eq(oid.iter().copied())));
        }
        if wanted.lifetime > pool.lifetime_max || wanted.lifetime.is_zero() {
            return Err(error(
                400,
                "INVALID_ARGUMENT",
                "the lifetime exceeds the maximum lifetime of the CA pool",
                None,
            ));
        }
        if !wanted.uris.iter().all(|uri| uri.starts_with(&pool.uri_prefix)) {
            return Err(error(
                400,
                "INVALID_ARGUMENT",
                "the SANs do not satisfy the issuance policy's CEL expression",
                None,
            ));
        }
        let signed = wanted.sign(&authority, fault);
        let (serial, leaf, chain) = signed.ok_or_else(|| error(500, "INTERNAL", "cannot sign", None))?;
        let email = wanted.emails.first().cloned().unwrap_or_default();
        self.signed.push(Signed { pool: name.to_owned(), id, request_id, serial, email, pem: leaf.clone() });
        let answer = json!({
            "name": format!("{name}/certificates/{}", self.signed.len()), "lifetime": format!("{}s", wanted.lifetime.as_secs()),
            "pemCertificate": leaf, "pemCertificateChain": chain,
        });
        self.answers.insert(key, answer.clone());
        Ok(answer)
    }
}

/// What the configuration form asks for.
struct Wanted {
    lifetime: Duration,
    point: Vec<u8>,
    emails: Vec<String>,
    uris: Vec<String>,
    names: Vec<SanType>,
    purposes: Vec<Purpose>,
    extensions: Vec<CustomExtension>,
}

impl Wanted {
    fn read(body: &Value) -> Option<Self> {
        let config = &body["config"];
        let lifetime: u64 = body["lifetime"].as_str()?.strip_suffix('s')?.parse().ok()?;
        let public_key = &config["publicKey"];
        // Enumerations come as names or numbers (the JSON mapping of protocol buffers allows both).
        let is_pem = public_key["format"] == "PEM" || public_key["format"] == 1;
        let key = BASE64_STANDARD.decode(public_key["key"].as_str()?).ok().filter(|_| is_pem)?;
        let point = p256_point(&pem::decode_one(&key, SectionKind::PublicKey)?)?.to_vec();
        let alternative = &config["subjectConfig"]["subjectAltName"];
        let texts = |name: &str| -> Vec<String> {
            alternative[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let mut names: Vec<SanType> = Vec::new();
        for name in texts("dnsNames") {
            names.push(SanType::DnsName(Ia5String::try_from(name).ok()?));
        }
        for address in texts("ipAddresses") {
            names.push(SanType::IpAddress(address.parse().ok()?));
        }
        let usage = &config["x509Config"]["keyUsage"];
        if usage["baseKeyUsage"] != json!({"digitalSignature": true})
            || config["x509Config"]["caOptions"]["isCa"] != json!(false)
        {
            return None;
        }
        let mut purposes = Vec::new();
        for (name, purpose) in [("serverAuth", Purpose::ServerAuth), ("clientAuth", Purpose::ClientAuth)] {
            if usage["extendedKeyUsage"][name] == true {
                purposes.push(purpose);
            }
        }
        for unknown in usage["unknownExtendedKeyUsages"].as_array().into_iter().flatten() {
            let path = unknown["objectIdPath"].as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>()?;
            purposes.push(Purpose::Other(path));
        }
        let mut extensions = Vec::new();
        for extension in config["x509Config"]["additionalExtensions"].as_array().into_iter().flatten() {
            let oid = extension["objectId"]["objectIdPath"].as_array()?;
            let oid = oid.iter().map(Value::as_u64).collect::<Option<Vec<_>>>()?;
            // The mapping leaves a field out that has its default.
            let is_critical = extension["critical"].as_bool().unwrap_or(false);
            let mut read =
                CustomExtension::from_oid_content(&oid, BASE64_STANDARD.decode(extension["value"].as_str()?).ok()?);
            read.set_criticality(is_critical);
            extensions.push(read);
        }
        let (emails, uris) = (texts("emailAddresses"), texts("uris"));
        Some(Self { lifetime: Duration::from_secs(lifetime), point, emails, uris, names, purposes, extensions })
    }

    /// The serial number, the certificate and its chain.
    fn sign(&self, authority: &Authority, fault: Option<Fault>) -> Option<(String, String, Vec<String>)> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let ia5 = |text: &String| Ia5String::try_from(text.as_str()).ok();
        params.subject_alt_names.extend(self.emails.iter().filter_map(ia5).map(SanType::Rfc822Name));
        let uris = self.uris.iter().map(|uri| match fault {
            Some(Fault::OtherName) => format!("{uri}-2"),
            _ => uri.clone(),
        });
        params.subject_alt_names.extend(uris.filter_map(|uri| Ia5String::try_from(uri).ok()).map(SanType::URI));
        params.subject_alt_names.extend(self.names.iter().cloned());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.purposes.clone();
        if fault == Some(Fault::OtherPurposes) {
            params.extended_key_usages.push(Purpose::CodeSigning);
        }
        params.custom_extensions = self.extensions.clone();
        if fault == Some(Fault::OtherEvidence) {
            let other = |extension: &CustomExtension| {
                let mut content = extension.content().to_vec();
                if let Some(last) = content.last_mut() {
                    *last ^= 1;
                }
                CustomExtension::from_oid_content(&extension.oid_components().collect::<Vec<_>>(), content)
            };
            params.custom_extensions = self.extensions.iter().map(other).collect();
        }
        params.use_authority_key_identifier_extension = true;
        let now = SystemTime::now();
        let life = if fault == Some(Fault::OtherLife) { Duration::from_secs(3650 * 24 * 3600) } else { self.lifetime };
        (params.not_before, params.not_after) = (now.into(), (now + life).into());
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial).ok()?;
        serial[0] = serial[0] & 0x3f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let other;
        let authority = if fault == Some(Fault::OtherRoot) {
            other = Authority::new("other", false).ok()?;
            &other
        } else {
            authority
        };
        let certificate = if fault == Some(Fault::OtherKey) {
            params.signed_by(&KeyPair::generate().ok()?, authority.issuer())
        } else {
            params.signed_by(&Point(self.point.clone()), authority.issuer())
        };
        Some((hex(&serial), certificate.ok()?.pem(), authority.chain().to_vec()))
    }
}
