//! Writes what the corpus starts from: `cargo run -p ginnel-fuzz --example seeds`.
//!
//! It makes a service account and certificates afresh and throws the private keys away, so every run replaces the files of the targets
//! about identity. Inputs that fuzzing found have other names and stay.

mod texts;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use ginnel_core::audit::{Event, Text};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::InstanceId;
use ginnel_core::principal::Role;
use ginnel_core::stream::Frame;
use ginnel_enrol::{CertificateRequest, EmbeddedIssuer, Issuer as _};
use ginnel_fuzz::{AUDIENCE, EMAIL, NOW};
use ginnel_identity::{KeyPair, ServiceAccountKey};
use ginnel_ops::audit::AuditLog;
use ginnel_wire::frame::{Choice, Open, SessionFrame};
use ginnel_wire::hello::{Dial, Hello, RosterEntry};
use ginnel_wire::inner::{InnerHello, encode_welcome};
use ginnel_wire::v1;
use prost::Message as _;
use secrecy::ExposeSecret as _;

use self::texts::TEXTS;

/// Inputs of one target.
type Seeds = Vec<Vec<u8>>;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let write = |target: &str, seeds: Vec<Vec<u8>>| -> Outcome {
        let directory = corpus.join(target);
        std::fs::create_dir_all(&directory)?;
        for (number, seed) in seeds.into_iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{number:02}")), seed)?;
        }
        Ok(())
    };
    for (target, texts) in TEXTS {
        write(target, texts.iter().map(|text| text.as_bytes().to_vec()).collect())?;
    }
    for (target, role) in
        [("config_server", Role::Server), ("config_agent", Role::Agent), ("config_client", Role::Client)]
    {
        write(target, configurations(role))?;
    }
    let records = include_str!("../../../ginnel-core/src/audit/records.jsonl");
    let mut logs: Vec<Vec<u8>> = records.lines().map(|line| line.as_bytes().to_vec()).collect();
    logs.push(b"\n\nno record\n{\"v\":1}\n".to_vec());
    logs.push(records.replacen("started", "sta\\u001b[31mrted", 1).into_bytes());
    logs.push(records.replacen("acme.example", "acme\\n\\u202eexample", 1).into_bytes());
    write("audit_log", logs)?;
    write("audit_verify", sealed()?)?;
    write("socks", socks())?;
    write("balancer_header", balancer_headers())?;
    write("session_frame", frames()?)?;
    write("grpc_framing", framing()?)?;
    let (control, inner) = messages()?;
    write("control_messages", control)?;
    write("inner_hello", inner)?;
    for (target, seed) in [("stream", 1), ("relay", 2)] {
        write(target, scripts(seed))?;
    }
    write("hostile_frames", hostile())?;
    identity(&write)
}

/// A log of two chapters, and what may become of one.
fn sealed() -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    for boot in [1, 2] {
        let log = AuditLog::open(directory.path(), InstanceId::from_bytes(&[boot; 16])?)?;
        for policy in ["5f3a", "6a4b"] {
            drop(log.record(Event::Started { version: Text::new("0.1.0"), policy: Text::new(policy) })?);
        }
        log.close()?;
    }
    let whole = std::fs::read(directory.path().join("audit.jsonl"))?;
    let lines: Vec<_> = whole.split_inclusive(|&byte| byte == b'\n').collect();
    let edited = String::from_utf8(whole.clone())?.replacen("5f3a", "5f3b", 1).into_bytes();
    let torn = [&lines[..3].concat()[..], &lines[3][..40], b"\n", &lines[4..].concat()].concat();
    let reordered = [lines[0], lines[2], lines[1], lines[3]].concat();
    let seeds = [
        whole.clone(),
        lines[..2].concat(),
        lines[4..].concat(),
        whole[..whole.len() - 9].to_vec(),
        edited,
        torn,
        reordered,
    ];
    Ok(seeds.into())
}

fn configurations(role: Role) -> Vec<Vec<u8>> {
    let example = ginnel_config::example(role);
    let bare: String =
        example.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect();
    let half = bare.len() / 2;
    let broken = [
        bare[..half].to_owned(),
        bare.replacen(": ", ":", 3),
        bare.replacen("  ", "\t", 1),
        format!("{bare}\n{bare}"),
        format!("{bare}---\n{bare}"),
        format!("a: &a [x]\nb: *a\n{bare}"),
        format!("<<: {{x: 1}}\n{bare}"),
        format!("!!binary x: y\n{bare}"),
        "[".repeat(100),
        "{a: ".repeat(100),
        "\"\\uD800\": \u{feff}x\r\n\u{85}y: 'z".to_owned(),
        "- - - - 1\n- ? a\n  : b\n".to_owned(),
        String::new(),
        format!("{bare}routes: [{{targets: ['*.a.internal:1-9', 'x'], agents: [a, A]}}, {{}}]\n"),
    ];
    [example, bare].into_iter().chain(broken).map(String::into_bytes).collect()
}

/// Headers of the PROXY protocol with right and wrong parts; one of the checksums is right.
fn balancer_headers() -> Seeds {
    let header = |command: u8, family: u8, length: u8, rest: &[u8]| {
        [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family, 0, length], rest].concat()
    };
    let v4 = [203, 0, 113, 9, 10, 0, 0, 1, 0x9c, 0x40, 1, 0xbb];
    let v6 = [&[0xfd; 16][..], &[1; 16], &[0x9c, 0x40, 1, 0xbb]].concat();
    let with = |fields: &[u8]| [&v4[..], fields].concat();
    vec![
        header(0x21, 0x11, 12, &v4),
        header(0x21, 0x21, 36, &v6),
        header(0x20, 0x00, 0, &[]),
        header(0x20, 0x31, 12, &v4),
        header(0x21, 0x31, 12, &v4),
        header(0x21, 0x00, 0, &[]),
        header(0x21, 0x12, 12, &v4),
        header(0x21, 0x11, 11, &v4[..11]),
        header(0x31, 0x11, 12, &v4),
        header(0x22, 0x11, 12, &v4),
        header(0x21, 0x11, 200, &v4),
        header(0x21, 0x11, 17, &with(&[1, 0, 2, b'h', b'2'])),
        header(0x21, 0x11, 16, &with(&[1, 0, 2, b'h'])),
        header(0x21, 0x11, 19, &with(&[3, 0, 4, 0x3a, 0xdf, 0x90, 0xbc])),
        header(0x21, 0x11, 19, &with(&[3, 0, 4, 0, 0, 0, 0])),
        header(0x21, 0x11, 26, &with(&[3, 0, 4, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0])),
        b"PROXY TCP4 203.0.113.9 10.0.0.1 40000 443\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
    ]
}

fn socks() -> Vec<Vec<u8>> {
    let named = |name: &[u8]| [&[5, 1, 0, 3, u8::try_from(name.len()).unwrap_or(255)], name, &[1, 187]].concat();
    let v6 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
    vec![
        vec![5, 1, 0],
        vec![5, 2, 2, 0],
        vec![5, 0],
        vec![4, 1, 0, 22, 10, 0, 0, 7, 0],
        [&[5, 255][..], &[7; 255]].concat(),
        vec![5, 1, 0, 1, 10, 0, 0, 7, 0, 22],
        vec![5, 2, 0, 1, 10, 0, 0, 7, 0, 22],
        vec![5, 1, 0, 1, 10, 0, 0, 7, 0, 0],
        [&[5, 1, 0, 4][..], &v6, &[0, 22]].concat(),
        [&[5, 1, 0, 4][..], &mapped, &[0, 22]].concat(),
        named(b"GitLab.Acme.internal."),
        named(b"127.1"),
        named(b"a\r\nb"),
        named(b""),
        named(&[b'a'; 255]),
        named(&[0xff, 0xfe]),
    ]
}

fn session_frames() -> Result<Vec<SessionFrame>, Box<dyn Error>> {
    use ginnel_core::id::{InstanceId, RequestId, SessionId};
    let open = |target: &str, agent| -> Result<SessionFrame, Box<dyn Error>> {
        let request = RequestId::from_bytes(&[1; 16])?;
        Ok(SessionFrame::Open(Open { request, target: target.to_owned(), agent, inner_tls: true }))
    };
    let choice =
        Choice { principal: "spiffe://acme.example/agent/acme".parse()?, instance: InstanceId::from_bytes(&[2; 16])? };
    Ok(vec![
        open("gitlab.acme.internal:443", Some(choice))?,
        open("evil\r\n:0", None)?,
        SessionFrame::Opened("[fd00::7]:443".parse()?),
        SessionFrame::Refused(Refusal::new(Hop::Agent, Cause::NotOnAllowList)),
        SessionFrame::Take(SessionId::from_bytes(&[3; 16])?),
        SessionFrame::Stream(Frame::Data { offset: 7, bytes: Bytes::from_static(b"bytes") }),
        SessionFrame::Stream(Frame::Data { offset: u64::MAX, bytes: Bytes::new() }),
        SessionFrame::Stream(Frame::Credit { consumed: 1, limit: 262_144 }),
        SessionFrame::Stream(Frame::Fin { offset: 7 }),
        SessionFrame::Stream(Frame::Reset { cause: Cause::Reset, hop: None }),
        SessionFrame::Stream(Frame::Reset { cause: Cause::EndedByOperator, hop: Some(Hop::Agent) }),
    ])
}

fn frames() -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    use v1::frame::Kind;
    let mut seeds: Vec<Vec<u8>> =
        session_frames()?.into_iter().map(|frame| v1::Frame::from(frame).encode_to_vec()).collect();
    let lies = [Kind::Reset(v1::Reset { cause: 1, hop: 0 }), Kind::Refused(v1::Refused { cause: 1, hop: 4 })];
    seeds.extend(lies.map(|kind| v1::Frame { kind: Some(kind) }.encode_to_vec()));
    seeds.push(vec![]);
    seeds.push(vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    Ok(seeds)
}

fn framing() -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let mut body = BytesMut::new();
    for frame in session_frames()? {
        frame.encode(&mut body);
    }
    let mut seeds: Vec<Vec<u8>> = [1, 2, 5, 7, 200].map(|cut| [&[cut][..], &body].concat()).to_vec();
    seeds.push(vec![1, 1, 0, 0, 0, 0]);
    seeds.push(vec![3, 0, 0xff, 0xff, 0xff, 0xff]);
    seeds.push(vec![3, 0, 0, 0, 1, 1]);
    seeds.push(vec![1, 0, 0, 0, 0, 2, 0x12, 0xff]);
    seeds.push([&[4, 0, 0, 0, 1, 0][..], &[0x12, 0xfd, 0x01], &[9; 253], &[0, 0, 0, 0, 0]].concat());
    Ok(seeds)
}

fn messages() -> Result<(Seeds, Seeds), Box<dyn Error>> {
    use ginnel_core::id::{InstanceId, RequestId, SessionId};
    let hello = v1::Hello::from(Hello::new(InstanceId::from_bytes(&[5; 16])?, 3));
    let dial = Dial {
        session: SessionId::from_bytes(&[1; 16])?,
        request: RequestId::from_bytes(&[2; 16])?,
        target: "gitlab.acme.internal:22".parse()?,
        client: "spiffe://acme.example/client/frontend".parse()?,
        inner_tls: true,
        early: Bytes::from_static(b"ClientHello"),
    };
    let entry = RosterEntry {
        agent: "spiffe://acme.example/agent/acme".parse()?,
        targets: vec!["*.acme.internal:443".parse()?, "[fd00::/8]:1-65535".parse()?],
        instances: vec![(InstanceId::from_bytes(&[1; 16])?, false), (InstanceId::from_bytes(&[2; 16])?, true)],
    };
    let control = vec![
        hello.encode_to_vec(),
        v1::Hello { protocol_version: u32::MAX, ..hello.clone() }.encode_to_vec(),
        v1::Hello { software_version: "1\u{1b}[31m".into(), ..hello.clone() }.encode_to_vec(),
        v1::Hello { capabilities: vec![String::new(); 65], ..hello.clone() }.encode_to_vec(),
        v1::Dial::from(dial).encode_to_vec(),
        v1::RosterEntry::from(entry).encode_to_vec(),
        vec![],
        vec![0x0a, 0x80],
        v1::Hello { lane: 16, ..hello }.encode_to_vec(),
    ];
    let inner = InnerHello { request: RequestId::from_bytes(&[9; 16])?, target: "[fd00::1]:65535".parse()? };
    let inner = vec![
        inner.encode()[2..].to_vec(),
        encode_welcome()[2..].to_vec(),
        vec![],
        vec![0xff],
        vec![8, 1],
        vec![8, 0, 8, 2],
    ];
    Ok((control, inner))
}

/// Bytes from a seed, the same on every machine.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let step = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    });
    step.take(length).collect()
}

fn scripts(seed: u64) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..6).map(|number| noise(seed * 100 + number, 800)).collect();
    let (write, read, send, pass, deliver) = (0, 6, 10, 14, 18);
    // Everything that the credit allows, then nothing is read; then all of it.
    let full: Vec<u8> = [[write, 15], [send, 15], [pass, 15], [deliver, 15]].concat().repeat(12);
    let drained: Vec<u8> =
        [full.clone(), [[read + 1, 15], [send + 1, 15], [pass + 1, 15], [deliver, 15]].concat().repeat(12)].concat();
    let finish = vec![20, 0, 21, 0];
    seeds.push(full.clone());
    seeds.push(drained.clone());
    seeds.push([&drained[..], &finish].concat());
    // A clean end, a reset and a cut with bytes under way.
    seeds.push([&full[..], &finish[..2], &[22, 0, 23, 255]].concat());
    seeds.push([&full[..16], &[22, 1], &[send, 15, pass, 15]].concat());
    seeds.push([&full[..16], &[22, 255, 21, 0]].concat());
    seeds
}

fn hostile() -> Vec<Vec<u8>> {
    let at_zero = 8 << 3;
    let (data, credit, fin, reset) = (0, 1, 2, 3);
    let mut seeds: Vec<Vec<u8>> = (0..4).map(|number| noise(300 + number, 160)).collect();
    for frames in [
        vec![[2, data, at_zero, 5], [2, data, at_zero, 5]],
        vec![[2, data, at_zero, 0]],
        vec![[2, data, at_zero, 255]],
        vec![[2, data, at_zero, 5], [3, fin, at_zero | 1, 0], [2, fin, at_zero, 0]],
        vec![[2, fin, at_zero, 0], [2, fin, at_zero, 0], [3, reset, 0, 0]],
        vec![[2, credit, at_zero | 3, 0], [2, credit, at_zero | 2, 0]],
        vec![[2, credit, at_zero | 6, 255]],
        vec![[2, reset, 0, 0], [3, data, at_zero, 1]],
    ] {
        seeds.push(frames.concat());
    }
    seeds
}

fn identity(write: &dyn Fn(&str, Seeds) -> Outcome) -> Outcome {
    let directory = tempfile::tempdir()?;
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    let path: PathBuf = directory.path().join("account.json");
    let public = ServiceAccountKey::create(EMAIL, &path)?;
    let account = ServiceAccountKey::read(&path)?;
    let (key, other) = (KeyPair::generate()?, KeyPair::generate()?);
    let (csr, others) = (key.csr()?, other.csr()?);
    let token = |audience: &str, at: SystemTime| -> Result<Vec<u8>, Box<dyn Error>> {
        Ok(account.sign_token(audience, key.spki_sha256(), at)?.expose_secret().as_bytes().to_vec())
    };
    let good = token(AUDIENCE, now)?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    std::fs::write(sources.join("account.pub.pem"), &public)?;
    std::fs::write(sources.join("account.token"), &good)?;

    let with = |token: &[u8], csr: &[u8]| [token, b"\n", csr].concat();
    let unsigned = [&b"eyJhbGciOiJub25lIn0"[..], &good[good.iter().position(|&b| b == b'.').unwrap_or(0)..]].concat();
    write(
        "enrolment",
        vec![
            with(&good, &csr),
            with(&good, &others),
            with(&good, b""),
            with(&token("https://other.example/enrol", now)?, &csr),
            with(&token(AUDIENCE, now - Duration::from_secs(3600))?, &csr),
            with(&token(AUDIENCE, now + Duration::from_secs(3600))?, &csr),
            with(&unsigned, &csr),
            with(&[&good[..], b"="].concat(), &csr),
            with(b"..", b""),
            with(b"e30.e30.e30", &csr),
        ],
    )?;
    let mut wrong_proof = csr.clone();
    if let Some(last) = wrong_proof.last_mut() {
        *last ^= 1;
    }
    write("csr", vec![csr.clone(), others, wrong_proof, [&csr[..], &[0]].concat(), csr[..40].to_vec(), vec![]])?;

    certificates(write, directory.path(), &key, &public)
}

/// Certificates of all roles, their roots, and public keys.
fn certificates(write: &dyn Fn(&str, Seeds) -> Outcome, directory: &Path, key: &KeyPair, public: &str) -> Outcome {
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    let authorities = directory.join("ca");
    let issuer = EmbeddedIssuer::open(&authorities, &"acme.example".parse()?, Duration::from_secs(86_400), now)?;
    let leaf = |role: Role, names: &[&str]| -> Result<Vec<u8>, Box<dyn Error>> {
        let request = CertificateRequest {
            evidence: None,
            renews: None,
            principal: format!("spiffe://acme.example/{role}/one").parse()?,
            email: EMAIL.to_owned(),
            spki_der: key.spki_der().to_vec(),
            server_names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        Ok(issuer.sign(&request, now)?.chain.first().ok_or("a chain")?.to_vec())
    };
    let roots: Vec<_> = [Role::Server, Role::Agent, Role::Client].map(|role| issuer.roots(role)).into_iter().collect();
    let root = roots.first().and_then(|roots| roots.certificates().first()).ok_or("a root")?.to_vec();
    let agent = leaf(Role::Agent, &[])?;
    write(
        "certificate",
        vec![
            leaf(Role::Server, &["tunnel.acme.example", "127.0.0.1", "fd00::1"])?,
            leaf(Role::Client, &[])?,
            [&agent[..], &[0]].concat(),
            agent[..agent.len() / 2].to_vec(),
            root,
            agent.clone(),
            vec![],
        ],
    )?;
    let all: String = roots.iter().map(ginnel_identity::Roots::to_pem).collect();
    let one = roots.first().map(ginnel_identity::Roots::to_pem).unwrap_or_default();
    let leaf_pem = ginnel_identity::pem::encode("CERTIFICATE", &agent).to_string();
    let hidden = format!("{one}-----BEGIN SOMETHING-----\nAAAA\n-----END SOMETHING-----\n");
    let pems = [all, one.clone(), leaf_pem, hidden, one.replace('\n', "\r\n"), one.repeat(17), String::new()];
    write("roots", pems.into_iter().map(String::into_bytes).collect())?;
    let p256 = ginnel_identity::pem::encode("PUBLIC KEY", key.spki_der()).to_string();
    let keys = [
        public.to_owned(),
        public.repeat(2),
        p256,
        public.replace("PUBLIC", "RSA PUBLIC"),
        format!("comment\n{public}"),
        "-----BEGIN PUBLIC KEY-----\nAAAA".to_owned(),
    ];
    write("public_key", keys.into_iter().map(String::into_bytes).collect())
}
