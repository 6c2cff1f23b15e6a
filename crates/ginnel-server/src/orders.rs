//! What goes out on an agent's link, but for dials that nobody waits for any more.
//!
//! A dial waits in a queue while its agent does not read. Whoever asked for it may be denied, cut off or gone meanwhile, and then the agent must
//! not connect to a target for it. So it is looked at when the connection takes it, which is the last moment at which it can be held back.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ginnel_core::id::SessionId;
use ginnel_wire::v1::{ServerMessage, server_message};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use crate::directory::AgentLink;

/// The messages of a link.
pub(crate) struct Orders {
    messages: mpsc::Receiver<Result<ServerMessage, Status>>,
    link: Arc<AgentLink>,
}

impl Orders {
    pub(crate) fn new(messages: mpsc::Receiver<Result<ServerMessage, Status>>, link: Arc<AgentLink>) -> Self {
        Self { messages, link }
    }

    /// Whether it is a dial for a session that has come to nothing.
    fn is_withdrawn(&self, message: &ServerMessage) -> bool {
        match &message.kind {
            Some(server_message::Kind::Dial(dial)) => {
                SessionId::from_bytes(&dial.session_id).is_ok_and(|session| !self.link.awaits(session))
            }
            Some(server_message::Kind::Welcome(_)) | None => false,
        }
    }
}

impl Stream for Orders {
    type Item = Result<ServerMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let next = ready!(self.messages.poll_recv(context));
            match &next {
                Some(Ok(message)) if self.is_withdrawn(message) => {}
                Some(Ok(_) | Err(_)) | None => return Poll::Ready(next),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ginnel_wire::v1::Dial;
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::directory::tests::lane;

    fn session(number: u8) -> SessionId {
        SessionId::from_bytes(&[number; 16]).unwrap()
    }

    fn dial(number: u8) -> ServerMessage {
        let dial = Dial { session_id: session(number).to_bytes().to_vec(), ..Dial::default() };
        ServerMessage { kind: Some(server_message::Kind::Dial(dial)) }
    }

    #[tokio::test]
    async fn a_dial_for_a_session_that_came_to_nothing_while_it_waited_is_not_sent() {
        let (link, _messages) = lane(1, 0);
        let (out, messages) = mpsc::channel(8);
        let mut orders = Orders::new(messages, Arc::clone(&link));
        let (first, second, third) = (link.expect(session(1)), link.expect(session(2)), link.expect(session(3)));
        let welcome = ServerMessage { kind: Some(server_message::Kind::Welcome(ginnel_wire::v1::Welcome::default())) };
        for message in [welcome.clone(), dial(1), dial(2), dial(3)] {
            out.send(Ok(message)).await.unwrap();
        }
        drop(second);
        out.send(Err(Status::unavailable("last"))).await.unwrap();
        drop(out);
        let mut sent = Vec::new();
        while let Some(message) = orders.next().await {
            sent.push(message.map_err(|status| status.code()));
        }
        assert_eq!(sent, [Ok(welcome), Ok(dial(1)), Ok(dial(3)), Err(tonic::Code::Unavailable)]);
        drop((first, third));
    }
}
