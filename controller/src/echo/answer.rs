//! One request, one answer: a report of the request, or what the request wished for.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TRAILER, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::body::EchoBody;
use super::wish::Wish;
use super::{Place, grpc, websocket};

/// The answer is a closed connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The request asked for it.
    #[error("dropped, as the request wished")]
    Wished,
    /// The request never came to its end.
    #[error("request body: {0}")]
    Request(#[from] hyper::Error),
}

pub(super) async fn answer(
    place: Arc<Place>,
    request: Request<Incoming>,
) -> Result<Response<EchoBody>, Broken> {
    let wish = Wish::of(request.uri().query(), request.headers());
    if !wish.delay.is_zero() {
        tokio::time::sleep(wish.delay).await;
    }
    if wish.drop {
        return Err(Broken::Wished);
    }
    let mut response = if grpc::asked_for(request.headers()) {
        grpc::answer(request)
    } else if request.headers().contains_key(UPGRADE) && wish.status == StatusCode::OK {
        websocket::answer(&place, request, wish.report)
    } else if wish.mirror {
        mirror(request)
    } else {
        report_or_filler(&place, request, &wish).await?
    };
    if !response.status().is_informational() && wish.status != StatusCode::OK {
        *response.status_mut() = wish.status;
    }
    let fields = response.headers_mut();
    for (name, value) in &wish.headers {
        fields.append(name, value.clone());
    }
    for (name, _) in &wish.trailers {
        fields.append(TRAILER, name.clone().into());
    }
    if let Ok(name) = HeaderValue::from_str(&place.name) {
        fields.insert("x-echo-instance", name);
    }
    Ok(response)
}

async fn report_or_filler(
    place: &Place,
    request: Request<Incoming>,
    wish: &Wish,
) -> Result<Response<EchoBody>, Broken> {
    let (head, mut body) = request.into_parts();
    let mut length = 0;
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => length += data.len() as u64,
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    let bodiless = matches!(
        wish.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    let (kind, content) = if let Some(size) = wish.size {
        ("application/octet-stream", Content::Filler(size))
    } else {
        let text = report(place, &head, length, &trailers);
        ("application/json", Content::Text(text.into()))
    };
    // HEAD needs no care: hyper keeps the length and leaves the bytes out.
    let mut response = Response::new(if bodiless {
        EchoBody::empty()
    } else {
        content.into_body(wish)
    });
    if !bodiless {
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    Ok(response)
}

/// What an answer carries.
#[derive(Debug)]
enum Content {
    Text(Bytes),
    /// So many bytes of no meaning.
    Filler(u64),
}

impl Content {
    fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Filler(size) => *size,
        }
    }

    /// The next `size` bytes at most.
    fn take(&mut self, size: u64) -> Bytes {
        let size = usize::try_from(size.min(self.length())).unwrap_or(usize::MAX);
        match self {
            Self::Text(text) => text.split_to(size),
            Self::Filler(left) => {
                let piece = Bytes::from_static(&FILLER);
                let piece = piece.slice(..size.min(piece.len()));
                *left -= piece.len() as u64;
                piece
            }
        }
    }

    fn into_body(mut self, wish: &Wish) -> EchoBody {
        let length = self.length();
        if !wish.streams() && length <= FILLER.len() as u64 {
            return self.take(length).into();
        }
        let default_chunks = if wish.chunk_pause.is_zero() { 1 } else { 10 };
        let piece = length
            .div_ceil(wish.chunks.unwrap_or(default_chunks).max(1))
            .max(1);
        let (sender, body) = EchoBody::frames();
        let pause = wish.chunk_pause;
        let trailers: HeaderMap = wish.trailers.iter().cloned().collect();
        tokio::spawn(async move {
            while self.length() > 0 {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                let mut left = piece;
                while left > 0 && self.length() > 0 {
                    let data = self.take(left);
                    left -= data.len() as u64;
                    if sender.send(Frame::data(data)).await.is_err() {
                        return;
                    }
                }
            }
            if !trailers.is_empty() {
                sender.send(Frame::trailers(trailers)).await.ok();
            }
        });
        body
    }
}

/// The request's body comes back as it arrives, trailers included.
fn mirror(request: Request<Incoming>) -> Response<EchoBody> {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    let mut body = request.into_body();
    let (sender, answer) = EchoBody::frames();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            if sender.send(frame).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(answer);
    if let Some(kind) = kind {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}

/// The report as JSON, one field of the request per line: it is read by people too.
pub(super) fn report(
    place: &Place,
    head: &http::request::Parts,
    body_bytes: u64,
    trailers: &HeaderMap,
) -> String {
    let host = head.uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| head.headers.get("host").and_then(|host| host.to_str().ok()));
    let mut text = String::from("{\n");
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        writeln!(text, "  {}: {value},", quote(name)).ok();
    };
    line("instance", quote(&place.name));
    line("method", quote(head.method.as_str()));
    line("target", quote(&target(head)));
    line("version", quote(&format!("{:?}", head.version)));
    line("host", host.map_or_else(|| "null".to_owned(), quote));
    line("headers", fields(&head.headers));
    line("body_bytes", body_bytes.to_string());
    line("trailers", fields(trailers));
    line("peer", quote(&place.peer.to_string()));
    writeln!(text, "  \"local\": {}\n}}", quote(&place.local.to_string())).ok();
    text
}

/// The target as it came: HTTP/2 splits it into pseudo-fields, so there it is path and query.
fn target(head: &http::request::Parts) -> String {
    if head.version == http::Version::HTTP_2 && head.method != Method::CONNECT {
        head.uri
            .path_and_query()
            .map_or_else(String::new, ToString::to_string)
    } else {
        head.uri.to_string()
    }
}

fn fields(headers: &HeaderMap) -> String {
    let lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            format!("    [{}, {}]", quote(name.as_str()), quote(&value))
        })
        .collect();
    if lines.is_empty() {
        "[]".to_owned()
    } else {
        format!("[\n{}\n  ]", lines.join(",\n"))
    }
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

static FILLER: [u8; 16 * 1024] = [b'.'; 16 * 1024];
