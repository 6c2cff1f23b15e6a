//! A process to look at in tests.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use ginnel_core::id::RequestId;
use ginnel_core::status::{Denied, Request, Revoked, Status, Verdict};

use super::{NotRevoked, Observed, Question, Revocation, Shared, Which};
use crate::reload::Fault;

pub(super) struct Fake {
    pub(super) status: Mutex<Status>,
    pub(super) ended: Mutex<Vec<Which>>,
    pub(super) revoked: Mutex<Vec<Revocation>>,
}

pub(super) fn status() -> Status {
    serde_json::from_str(include_str!("../../tests/fixtures/status.json")).unwrap()
}

pub(super) fn sessions() -> Vec<Request> {
    serde_json::from_str(include_str!("../../tests/fixtures/sessions.json")).unwrap()
}

pub(super) fn fake() -> (Arc<Fake>, Shared) {
    let fake = Arc::new(Fake { status: Mutex::new(status()), ended: Mutex::default(), revoked: Mutex::default() });
    let observed: Arc<dyn Observed> = fake.clone();
    (fake, Shared::new(observed))
}

impl Observed for Fake {
    fn status(&self) -> Status {
        self.status.lock().unwrap().clone()
    }

    fn sessions(&self) -> Vec<Request> {
        sessions()
    }

    fn request(&self, id: RequestId) -> Option<Request> {
        sessions().into_iter().find(|request| request.request_id == id.to_string())
    }

    fn judge(&self, question: &Question) -> Option<Result<Vec<Verdict>, String>> {
        Some(match question {
            Question::All => Ok(Vec::new()),
            Question::One { client, target, from: _ } => {
                let (client, target) = (client.clone(), target.clone());
                let (rule, nearest, policy) = (None, None, "v".to_owned());
                let (expires, sources, cause) = (None, Vec::new(), None);
                Ok(vec![Verdict {
                    client,
                    target,
                    allowed: false,
                    rule,
                    expires,
                    sources,
                    agents: Vec::new(),
                    cause,
                    nearest,
                    policy,
                }])
            }
        })
    }

    fn end_sessions(&self, which: &Which) -> u64 {
        let mut ended = self.ended.lock().unwrap();
        ended.push(which.clone());
        ended.len() as u64
    }

    fn denials(&self) -> Option<Vec<Denied>> {
        Some(Vec::new())
    }

    fn revoke(&self, order: Revocation) -> Pin<Box<dyn Future<Output = Result<Revoked, NotRevoked>> + Send + '_>> {
        let answer = match order.text.as_str() {
            "nobody" => Err(NotRevoked::Question("No identity is named nobody.".to_owned())),
            "full" => Err(NotRevoked::Failed("The disk is full.".to_owned())),
            _ => Ok(Revoked { sessions: 3, ..Revoked::default() }),
        };
        self.revoked.lock().unwrap().push(order);
        Box::pin(ready(answer))
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, Fault>> + Send + '_>> {
        Box::pin(ready(Err("server.yaml:1:1: is empty".into())))
    }
}
