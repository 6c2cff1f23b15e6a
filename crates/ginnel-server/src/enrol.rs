//! Tokens for certificates. The caller hears one and the same refusal whatever was wrong; the audit log has the reason.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ginnel_core::audit::{Event, Text, Timestamp};
use ginnel_core::report::Chain;
use ginnel_enrol::{CertificateRequest, Issued};
use ginnel_wire::v1::enrolment_server::Enrolment;
use ginnel_wire::v1::{EnrolRequest, EnrolResponse};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::broker::Broker;

/// The enrolment service of one connection.
#[derive(Clone)]
pub(crate) struct Enrol {
    pub(crate) broker: Arc<Broker>,
    pub(crate) peer: SocketAddr,
    /// Cancelled when a request is admitted, so that the connection stays for the answer.
    pub(crate) admitted: CancellationToken,
}

#[tonic::async_trait]
impl Enrolment for Enrol {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let request = request.into_inner();
        let now = SystemTime::now();
        let broker = &self.broker;
        let rules = broker.rules.now();
        let admitted = rules.enroller.verdict(&request.token, &request.certificate_signing_request, now);
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(denied) => {
                let reason = Text::new(denied.as_str());
                tracing::warn!(%reason, "enrolment refused");
                // What an unverified token claims is nobody's word, and stays out of the record.
                broker.enrolment(Err(denied));
                broker.note(Event::EnrolmentRefused { reason, email: None, peer: self.peer });
                return Err(Status::unauthenticated("enrolment refused"));
            }
        };
        self.admitted.cancel();
        let wanted = CertificateRequest {
            principal: admitted.principal,
            email: admitted.email,
            spki_der: admitted.spki_der,
            server_names: Vec::new(),
            renews: renews(request.renews_until),
        };
        // Once an issuer was asked, what it signs goes on record, whether or not the caller waits for it.
        let certified = self.clone().certify(wanted, admitted.spki_sha256, now);
        broker.tasks.spawn(certified).await.unwrap_or_else(|_| Err(not_now(None)))
    }
}

impl Enrol {
    /// Has a certificate signed and recorded. It ends within the time that the issuer takes at most.
    async fn certify(
        self,
        wanted: CertificateRequest,
        spki_sha256: [u8; 32],
        now: SystemTime,
    ) -> Result<Response<EnrolResponse>, Status> {
        let Self { broker, peer, admitted: _ } = self;
        let issued = broker.issuer.issue(&wanted, now).await.map_err(|error| {
            tracing::error!(error = %Chain(&error), "could not issue a certificate");
            broker.enrolment_failed(error.reason());
            let (reason, email) = (Text::new(error.reason()), Some(Text::new(wanted.email.clone())));
            broker.note(Event::EnrolmentRefused { reason, email, peer });
            not_now(error.retry_after())
        })?;
        let Issued { chain, not_after, serial } = issued;
        let event = Event::Enrolled {
            principal: wanted.principal,
            email: Text::new(wanted.email),
            serial: Text::new(serial),
            not_after: Timestamp::from(not_after),
            peer,
            spki_sha256: Some(Text::hex(&spki_sha256)),
        };
        let recorded = async { broker.audit.record(event)?.await };
        recorded.await.map_err(|error| {
            tracing::error!(error = %Chain(&error), "could not record an enrolment");
            not_now(None)
        })?;
        broker.enrolment(Ok(()));
        let certificate_chain = chain.into_iter().map(|certificate| certificate.to_vec()).collect();
        Ok(Response::new(EnrolResponse { certificate_chain }))
    }
}

/// The end of the certificate that is renewed, as the caller says.
fn renews(until: u64) -> Option<SystemTime> {
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(until));
    end.filter(|_| until > 0)
}

/// The answer to a caller who gets no certificate through no fault of its own, with gRPC's own word for when to ask again.
fn not_now(retry_after: Option<Duration>) -> Status {
    let mut status = Status::unavailable("no certificate can be issued now");
    if let Some(after) = retry_after {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        status.metadata_mut().insert("grpc-retry-pushback-ms", after_ms.into());
    }
    status
}
