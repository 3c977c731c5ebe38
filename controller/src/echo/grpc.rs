//! gRPC without a schema: whatever messages arrive come back unchanged, then `grpc-status: 0`.
//!
//! Any service and method is answered, unary or streaming; the framing is not even read.

use http::header::{CONTENT_TYPE, TRAILER};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::body::EchoBody;

pub(super) fn asked_for(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

pub(super) fn answer(request: Request<Incoming>) -> Response<EchoBody> {
    let (head, mut body) = request.into_parts();
    let (sender, answer) = EchoBody::frames();
    tokio::spawn(async move {
        // 13 is INTERNAL, what gRPC says when a stream breaks.
        let mut status = "0";
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => {
                    if sender.send(Frame::data(data)).await.is_err() {
                        return;
                    }
                }
                Ok(Err(_)) => {}
                Err(_) => {
                    status = "13";
                    break;
                }
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        sender.send(Frame::trailers(trailers)).await.ok();
    });
    let mut response = Response::new(answer);
    for name in ["content-type", "grpc-encoding"] {
        if let Some(value) = head.headers.get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    if head.version < http::Version::HTTP_2 {
        // hyper sends fields after an HTTP/1.1 body only when the head announces them.
        response
            .headers_mut()
            .insert(TRAILER, HeaderValue::from_static("grpc-status"));
    }
    response
}
