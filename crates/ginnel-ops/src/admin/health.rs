//! The standard gRPC health service (`grpc.health.v1.Health`), on the admin listener's address.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::Observed;

/// The path of the service's calls.
pub(super) const PATH: &str = "/grpc.health.v1.Health/";

/// Services that are known: the process as a whole, by two names.
const SERVICES: [&str; 2] = ["", "ginnel"];

/// How often a watched process is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most bytes of a request: it holds a service's name.
const REQUEST_MAX: usize = 4096;

/// Says whether the process is ready.
#[derive(Clone)]
pub(super) struct Ready(Arc<dyn Observed>);

pub(super) fn service(observed: Arc<dyn Observed>) -> HealthServer<Ready> {
    HealthServer::new(Ready(observed)).max_decoding_message_size(REQUEST_MAX)
}

impl Ready {
    fn serving(&self) -> HealthCheckResponse {
        let serving = if self.0.status().ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        HealthCheckResponse { status: serving.into() }
    }
}

#[tonic::async_trait]
impl Health for Ready {
    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if SERVICES.contains(&request.get_ref().service.as_str()) {
            Ok(Response::new(self.serving()))
        } else {
            Err(Status::not_found("there is no such service; ask for ginnel, or for no name"))
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = SERVICES.contains(&request.get_ref().service.as_str());
        let ready = self.clone();
        let (out, stream) = mpsc::channel(1);
        // Ends when nobody listens any more, at the latest with the connection.
        tokio::spawn(async move {
            let mut said = None;
            loop {
                let now = if known {
                    ready.serving()
                } else {
                    HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() }
                };
                if said.as_ref() != Some(&now) {
                    said = Some(now);
                    if out.send(Ok(now)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = out.closed() => return,
                    () = sleep(LOOK_EVERY) => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
