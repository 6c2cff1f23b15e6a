//! An agent or client that the test plays itself, down to the HTTP/2 frames that no well-behaved program would send.
//!
//! It proves who it is like everybody else: with a key file of the world, an enrolment and a certificate.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use ginnel_core::id::InstanceId;
use ginnel_core::limits::SMALL_FRAMES_BUDGET;
use ginnel_core::stream::Frame;
use ginnel_identity::certificate::Identity;
use ginnel_identity::credential::ServiceAccountKey;
use ginnel_identity::key::KeyPair;
use ginnel_identity::random::SystemRandom;
use ginnel_identity::tls::{outer_client, server_name};
use ginnel_identity::trust::Roots;
use ginnel_wire::frame::{SessionFrame, reset_from_code};
use ginnel_wire::grpc::{Decoder, encode};
use ginnel_wire::hello::{Hello, INNER_TLS};
use ginnel_wire::{path, v1};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::Request;
use prost::Message;
use rustls_pki_types::CertificateDer;
use secrecy::ExposeSecret;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConnection;

use crate::wait::{SOON, within};
use crate::world::{ENROLMENT_NAME, SERVER_NAME, World};

mod enrolment;
mod valve;

pub use enrolment::Enrolment;
use valve::{Valve, Valved};

/// Longest message that a peer reads.
const MESSAGE_MAX: usize = 1 << 20;

/// A connection to the server of a world.
pub struct Peer {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<()>,
    valve: Arc<Valve>,
}

/// One call on a connection.
pub struct Call {
    send: SendStream<Bytes>,
    answer: Option<ResponseFuture>,
    received: Option<RecvStream>,
    decoder: Decoder,
}

/// The first bytes of a TLS handshake with a server of a world.
///
/// # Errors
/// If TLS cannot be set up.
pub fn client_hello(world: &World) -> Result<Vec<u8>> {
    let roots = Roots::read(&world.directory().join("ca/server-root.pem"))?;
    let mut connection = ClientConnection::new(outer_client(&roots, None)?, server_name(SERVER_NAME)?)?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello)?;
    Ok(hello)
}

/// A new key and the request for its certificate.
///
/// # Errors
/// If the key file cannot be used.
pub fn enrolment(world: &World, key_file: &str) -> Result<(KeyPair, v1::EnrolRequest)> {
    let credential = ServiceAccountKey::read(&world.directory().join(key_file))?;
    let key = KeyPair::generate()?;
    let audience = format!("https://{SERVER_NAME}/enrol");
    let token = credential.sign_token(&audience, key.spki_sha256(), SystemTime::now())?;
    let certificate_signing_request = key.csr()?;
    let token = token.expose_secret().to_owned();
    Ok((key, v1::EnrolRequest { token, certificate_signing_request, renews_until: 0 }))
}

/// Enrols with a key file such as `agent.json` or `client.json` of the world's directory.
///
/// # Errors
/// If the server refuses, or a message is not what it should be.
pub async fn enrol(world: &World, key_file: &str) -> Result<Identity> {
    let (key, request) = enrolment(world, key_file)?;
    enrol_on(&Peer::connect(world, None).await?, key, &request).await
}

/// Enrols on a connection without a certificate.
///
/// # Errors
/// If that is refused, or a message is not what it should be.
pub async fn enrol_on(peer: &Peer, key: KeyPair, request: &v1::EnrolRequest) -> Result<Identity> {
    let mut call = peer.call(path::ENROL).await?;
    call.say(request)?;
    call.end()?;
    let answer: v1::EnrolResponse = call.hear().await.context("enrolling")?;
    let chain = answer.certificate_chain.into_iter().map(CertificateDer::from).collect();
    Ok(Identity::new(chain, key)?)
}

/// What the server says to a token and a certificate request, in gRPC's words: all trailers and headers of the answer but the date.
///
/// # Errors
/// If there is no answer, or the server issues a certificate.
pub async fn refused_enrolment(world: &World, token: &str, key: &KeyPair) -> Result<String> {
    let request =
        v1::EnrolRequest { token: token.to_owned(), certificate_signing_request: key.csr()?, renews_until: 0 };
    let peer = Peer::connect(world, None).await?;
    let mut call = peer.call(path::ENROL).await?;
    call.say(&request)?;
    call.end()?;
    let answer = call.answer.take().context("no answer")?.await?;
    let mut said: Vec<_> = answer.headers().iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
    said.retain(|line| !line.starts_with("date:"));
    let mut body = answer.into_body();
    while let Some(data) = body.data().await {
        said.push(format!("{:?}", data?));
    }
    if let Some(trailers) = body.trailers().await? {
        said.extend(trailers.iter().map(|(name, value)| format!("{name}: {value:?}")));
    }
    ensure!(said.iter().any(|line| line == "grpc-status: \"16\""), "not refused: {said:?}");
    Ok(said.join("\n"))
}

impl Peer {
    /// Connects to the server with `identity`, or without a certificate.
    ///
    /// # Errors
    /// If the server does not accept the connection.
    pub async fn connect(world: &World, identity: Option<&Identity>) -> Result<Self> {
        Self::connect_to(world, (world.server_addr(), SERVER_NAME), identity).await
    }

    /// The same to a server whose root is in a file.
    ///
    /// # Errors
    /// If the server does not accept the connection.
    pub async fn connect_at(server: SocketAddr, root: &Path, identity: Option<&Identity>) -> Result<Self> {
        let roots = Roots::read(root)?;
        within("a connection to the server", SOON, Self::attempt((server, SERVER_NAME), &roots, identity)).await?
    }

    /// Connects to the process that enrols apart from the server.
    ///
    /// # Errors
    /// If there is none, or it does not accept the connection.
    pub async fn connect_to_enrolment(world: &World, identity: Option<&Identity>) -> Result<Self> {
        Self::connect_to(world, (world.enrolment_addr()?, ENROLMENT_NAME), identity).await
    }

    /// Connects to an address, where somebody must be that the world's root certifies for this name.
    ///
    /// # Errors
    /// If that is not so, or the connection is not accepted.
    pub async fn connect_to(world: &World, to: (SocketAddr, &str), identity: Option<&Identity>) -> Result<Self> {
        let roots = Roots::read(&world.directory().join("ca/server-root.pem"))?;
        within("a connection to the server", SOON, Self::attempt(to, &roots, identity)).await?
    }

    /// Connects to the server from this address of the machine, and says `preface` before TLS begins.
    ///
    /// # Errors
    /// If the server does not accept the connection.
    pub async fn connect_from(
        world: &World,
        from: IpAddr,
        preface: &[u8],
        identity: Option<&Identity>,
    ) -> Result<Self> {
        let roots = Roots::read(&world.directory().join("ca/server-root.pem"))?;
        let attempt = async {
            let mut tcp = tcp_from(from, world.server_addr()).await?;
            tcp.write_all(preface).await?;
            Self::over(tcp, SERVER_NAME, &roots, identity).await
        };
        within("a connection to the server", SOON, attempt).await?
    }

    async fn attempt((address, name): (SocketAddr, &str), roots: &Roots, identity: Option<&Identity>) -> Result<Self> {
        Self::over(TcpStream::connect(address).await?, name, roots, identity).await
    }

    async fn over(tcp: TcpStream, name: &str, roots: &Roots, identity: Option<&Identity>) -> Result<Self> {
        let tls = outer_client(roots, identity)?;
        tcp.set_nodelay(true)?;
        let valve = Arc::<Valve>::default();
        let tcp = Valved { tcp, valve: Arc::clone(&valve) };
        let stream = TlsConnector::from(tls).connect(server_name(name)?, tcp).await?;
        // Frames of sessions that the test has not read yet are no fault of the server.
        let mut builder = h2::client::Builder::new();
        builder.data_frame_budget(SMALL_FRAMES_BUDGET);
        let (requests, connection) = builder.handshake(stream).await?;
        let connection = tokio::spawn(async move { connection.await.unwrap_or_default() });
        Ok(Self { requests, connection, valve })
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }

    /// Reads nothing more of what the server sends, and goes on sending.
    pub fn stop_reading(&self) {
        self.valve.is_shut.store(true, Ordering::Relaxed);
    }

    /// Begins a call.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn call(&self, path: &str) -> Result<Call> {
        self.call_with(path, &[]).await
    }

    /// Begins a call with these headers beside the usual ones.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn call_with(&self, path: &str, headers: &[(&str, &str)]) -> Result<Call> {
        let mut request = Request::post(format!("https://{SERVER_NAME}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(())?;
        let (answer, send) = self.requests.clone().ready().await?.send_request(request, false)?;
        Ok(Call { send, answer: Some(answer), received: None, decoder: Decoder::new(MESSAGE_MAX) })
    }

    /// Waits until the connection has ended.
    pub async fn closed(&mut self) {
        // However it ended.
        let _ = (&mut self.connection).await;
    }

    /// The first message of a standing stream, as the process `instance` of software from before `earlyBytes`, so that a session's first bytes
    /// come on its own stream.
    pub fn hello(instance: InstanceId) -> v1::Hello {
        Hello { capabilities: vec![INNER_TLS.to_owned()], ..Hello::new(instance, 0) }.into()
    }

    /// A fresh id for [`Self::hello`].
    pub fn instance() -> InstanceId {
        InstanceId::random(&mut SystemRandom)
    }
}

/// A connection from one address of the machine to another.
///
/// # Errors
/// If there is no such address, or nobody takes the connection.
pub async fn tcp_from(from: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = if from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(from, 0))?;
    Ok(socket.connect(to).await?)
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Call {
    /// Says a message.
    ///
    /// # Errors
    /// If the stream is closed.
    pub fn say(&mut self, message: &impl Message) -> Result<()> {
        send_message(&mut self.send, message)
    }

    /// Says an agent's hello with texts in it under numbers of fields that no version has.
    ///
    /// # Errors
    /// If the stream is closed.
    pub fn say_hello_with(&mut self, hello: &v1::Hello, fields: &[(u32, &str)]) -> Result<()> {
        let mut inside = hello.encode_to_vec();
        for (number, text) in fields {
            prost::encoding::string::encode(*number, &(*text).to_owned(), &mut inside);
        }
        let mut message = Vec::new();
        prost::encoding::bytes::encode(1, &inside, &mut message);
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len())?.to_be_bytes());
        framed.extend(message);
        self.say_bytes(framed)
    }

    /// Says a frame of a session.
    ///
    /// # Errors
    /// If the stream is closed.
    pub fn say_frame(&mut self, frame: SessionFrame) -> Result<()> {
        self.say(&v1::Frame::from(frame))
    }

    /// Says bytes that are no message.
    ///
    /// # Errors
    /// If the stream is closed.
    pub fn say_bytes(&mut self, bytes: impl Into<Bytes>) -> Result<()> {
        Ok(self.send.send_data(bytes.into(), false)?)
    }

    /// Ends this side of the HTTP/2 stream, with whatever has been said.
    ///
    /// # Errors
    /// If the stream is closed.
    pub fn end(&mut self) -> Result<()> {
        Ok(self.send.send_data(Bytes::new(), true)?)
    }

    /// Resets the HTTP/2 stream with this code.
    pub fn reset(&mut self, code: u32) {
        self.send.send_reset(Reason::from(code));
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// If the stream breaks or ends, or does not say `M`.
    pub async fn hear<M: Message + Default>(&mut self) -> Result<M> {
        within("a message", SOON, self.read()).await?
    }

    /// Waits for the next frame of a session.
    ///
    /// # Errors
    /// If the stream breaks or ends, or says something else.
    pub async fn hear_frame(&mut self) -> Result<SessionFrame> {
        Ok(self.hear::<v1::Frame>().await?.try_into()?)
    }

    /// Waits for the end of a call that gets no answer: the refusal that the server's reset names, if it names one.
    ///
    /// # Errors
    /// If the call is answered, or goes on.
    pub async fn turned_away(&mut self) -> Result<Option<SessionFrame>> {
        let read = async {
            loop {
                match self.read::<v1::Frame>().await {
                    Ok(frame) => match SessionFrame::try_from(frame)? {
                        SessionFrame::Stream(Frame::Credit { .. }) => {}
                        reset @ (SessionFrame::Stream(Frame::Reset { .. }) | SessionFrame::Refused(_)) => {
                            return Ok(Some(reset));
                        }
                        other @ (SessionFrame::Open(_)
                        | SessionFrame::Opened(_)
                        | SessionFrame::Stream(Frame::Data { .. } | Frame::Fin { .. })
                        | SessionFrame::Take(_)) => bail!("heard {other:?}"),
                    },
                    Err(error) => {
                        let code = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
                        return Ok(code.and_then(|code| reset_from_code(code.into())));
                    }
                }
            }
        };
        within("the end of a call", SOON, read).await?
    }

    /// Waits for the status that a call ends with, 0 for success; what is said before is dropped.
    ///
    /// # Errors
    /// If the stream breaks.
    pub async fn status(&mut self) -> Result<u32> {
        let read = async {
            let in_head = self.answered().await?;
            if let Some(status) = in_head {
                return Ok(status);
            }
            let received = self.received.as_mut().context("answered")?;
            while let Some(bytes) = received.data().await {
                let length = bytes?.len();
                received.flow_control().release_capacity(length)?;
            }
            let trailers = received.trailers().await?.context("no trailers")?;
            status_in(&trailers).context("no grpc-status")
        };
        within("the status of a call", SOON, read).await?
    }

    async fn answered(&mut self) -> Result<Option<u32>> {
        let Some(answer) = self.answer.take() else { return Ok(None) };
        let (head, body) = answer.await?.into_parts();
        ensure!(head.status == http::StatusCode::OK, "HTTP status {}", head.status);
        self.received = Some(body);
        Ok(status_in(&head.headers))
    }

    async fn read<M: Message + Default>(&mut self) -> Result<M> {
        let status = self.answered().await?;
        ensure!(status.is_none_or(|status| status == 0), "the call ended with status {status:?}");
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            let received = self.received.as_mut().context("answered")?;
            let bytes = received.data().await.context("the stream ended")??;
            received.flow_control().release_capacity(bytes.len())?;
            self.decoder.put(bytes);
        }
    }
}

fn status_in(headers: &http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Sends a message in the framing of gRPC, for either side of a call.
pub(crate) fn send_message(send: &mut SendStream<Bytes>, message: &impl Message) -> Result<()> {
    let mut body = BytesMut::new();
    encode(message, &mut body);
    Ok(send.send_data(body.freeze(), false)?)
}
