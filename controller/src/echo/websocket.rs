//! WebSocket (RFC 6455): text and binary messages come back, pings are answered, a close is
//! returned. An upgrade to anything else is not understood and answered like a plain request.

use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::Place;
use super::answer::report;
use super::body::EchoBody;

pub(super) fn answer(
    place: &Place,
    mut request: Request<Incoming>,
    wants_report: bool,
) -> Response<EchoBody> {
    let Some(accept) = accept_key(request.headers()) else {
        let mut refusal = Response::new(EchoBody::from(bytes::Bytes::from_static(
            b"only websocket upgrades are understood here\n",
        )));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return refusal;
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, _) = request.into_parts();
    let first = wants_report.then(|| report(place, &head, 0, &HeaderMap::new()));
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let io = TokioIo::new(upgraded);
            echo(
                WebSocketStream::from_raw_socket(io, Role::Server, None).await,
                first,
            )
            .await;
        }
    });
    let mut response = Response::new(EchoBody::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = first_protocol(&head.headers) {
        fields.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

async fn echo<S>(mut socket: WebSocketStream<S>, first: Option<String>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    if let Some(report) = first
        && socket.send(Message::text(report)).await.is_err()
    {
        return;
    }
    // Reading goes on after a close: that is what completes the closing handshake.
    while let Some(Ok(message)) = socket.next().await {
        let echoed = matches!(message, Message::Text(_) | Message::Binary(_));
        if echoed && socket.send(message).await.is_err() {
            return;
        }
        // The library queues the answers to pings and closes; they must leave now.
        if !echoed {
            socket.flush().await.ok();
        }
    }
}

fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?.to_str().ok()?;
    if !protocol.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let key = headers.get(SEC_WEBSOCKET_KEY)?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    HeaderValue::from_str(offered.split(',').next()?.trim()).ok()
}
