//! Tokens for certificates. The caller hears one and the same refusal whatever was wrong; the audit log has the reason.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ginnel_core::audit::{Event, Text, Timestamp};
use ginnel_core::report::Chain;
use ginnel_enrol::{CertificateRequest, Issued};
use ginnel_wire::v1::enrolment_server::Enrolment;
use ginnel_wire::v1::{EnrolRequest, EnrolResponse};
use tonic::{Request, Response, Status};

use crate::broker::Broker;

/// The enrolment service of one connection.
#[derive(Clone)]
pub(crate) struct Enrol {
    pub(crate) broker: Arc<Broker>,
    pub(crate) peer: SocketAddr,
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
        let wanted = CertificateRequest {
            principal: admitted.principal.clone(),
            email: admitted.email.clone(),
            spki_der: admitted.spki_der.clone(),
            server_names: Vec::new(),
        };
        let issued = broker.issuer.issue(&wanted, now).await.map_err(|error| {
            tracing::error!(error = %Chain(&error), "could not issue a certificate");
            not_now(error.retry_after())
        })?;
        let Issued { chain, not_after, serial } = issued;
        let event = Event::Enrolled {
            principal: admitted.principal,
            email: Text::new(admitted.email),
            serial: Text::new(serial),
            not_after: Timestamp::from(not_after),
            peer: self.peer,
            spki_sha256: Some(Text::hex(&admitted.spki_sha256)),
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

/// The answer to a caller who gets no certificate through no fault of its own, with gRPC's own word for when to ask again.
fn not_now(retry_after: Option<Duration>) -> Status {
    let mut status = Status::unavailable("no certificate can be issued now");
    if let Some(after) = retry_after {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        status.metadata_mut().insert("grpc-retry-pushback-ms", after_ms.into());
    }
    status
}
