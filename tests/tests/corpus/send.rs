//! Sends a request of the corpus as it was sent when it was recorded.

use std::net::{IpAddr, SocketAddr, TcpStream};

use gatehouse_tests::http2::Session;
use gatehouse_tests::raw::{self, Client};
use gatehouse_tests::tls::Handshake;
use gatehouse_tests::websocket;

use crate::case::{Answer, Request};
use crate::echo::Echoes;

/// Address of the client.
pub(crate) const CLIENT: &str = "172.31.0.200";

/// Not compared: they belong to the connection or to the moment, or describe our own short texts.
const IGNORED: &[&str] = &[
    "connection",
    "content-length",
    "content-type",
    "date",
    "etag",
    "keep-alive",
    "last-modified",
    "transfer-encoding",
    "vary",
];

/// Sends it; the answer includes what the backends saw.
pub(crate) fn send(request: &Request, echoes: &Echoes) -> Answer {
    echoes.take();
    let mut answer = exchange(request).unwrap_or_else(|error| Answer {
        error: Some(error),
        ..Answer::default()
    });
    let hits = echoes.take();
    if hits.len() > 1 {
        answer.tries = hits.iter().map(|hit| hit.backend.clone()).collect();
    }
    answer.upstream = hits.into_iter().next_back();
    answer
}

fn exchange(request: &Request) -> Result<Answer, String> {
    let tls = request.scheme.as_deref() == Some("https");
    let port = if tls { 443 } else { 80 };
    let address: SocketAddr = format!("{}:{port}", crate::GATEWAY)
        .parse()
        .expect("address");
    let client: IpAddr = CLIENT.parse().expect("address");
    let mut socket = raw::connect_from(client, address).map_err(|error| error.to_string())?;
    if let Some(line) = &request.proxy_line {
        let line = line.replace("\\r\\n", "\r\n");
        std::io::Write::write_all(&mut socket, line.as_bytes())
            .map_err(|error| error.to_string())?;
    }
    if request.http.as_deref() == Some("2") {
        return http2(request, socket, tls);
    }
    if !tls {
        return http1(request, Client::over(Box::new(socket)));
    }
    let secured = handshake(request, "http/1.1")
        .over(socket)
        .map_err(|error| error.to_string())?;
    let name = secured.common_name();
    let mut answer = http1(request, secured.client())?;
    answer.cert = Some(name);
    Ok(answer)
}

fn handshake(request: &Request, protocol: &str) -> Handshake {
    let host = request.host.as_deref().unwrap_or_default();
    let name = request
        .sni
        .as_deref()
        .unwrap_or_else(|| host.split(':').next().unwrap_or(host));
    let name = Some(name).filter(|name| !name.is_empty());
    Handshake::with(name, &[protocol], gatehouse_tests::tls::VERSIONS)
}

fn http1(request: &Request, mut client: Client) -> Result<Answer, String> {
    let version = request.http.as_deref().unwrap_or("1.1");
    let mut text = format!("GET {} HTTP/{version}\r\n", request.target);
    if let Some(host) = &request.host {
        text.push_str(&format!("Host: {host}\r\n"));
    }
    for (name, value) in &request.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if request.websocket.is_some() {
        text.push_str("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
        text.push_str(&format!("Sec-WebSocket-Key: {}\r\n", websocket::KEY));
    } else if !request
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("connection"))
    {
        text.push_str("Connection: close\r\n");
    }
    text.push_str("\r\n");
    // The corpus is latin-1 where it is not ASCII.
    let bytes: Vec<u8> = text
        .chars()
        .map(|letter| u8::try_from(u32::from(letter)).unwrap_or(b'?'))
        .collect();
    client.send(bytes);
    let got = client.answer().map_err(|failure| format!("{failure:?}"))?;
    let mut answer = Answer {
        status: Some(got.status),
        ..Answer::default()
    };
    for (name, value) in &got.headers {
        note(&mut answer, name, value);
    }
    if let (101, Some(text)) = (got.status, &request.websocket) {
        client.send(websocket::masked(text));
        let echoed = client.frame().map_err(|failure| format!("{failure:?}"))?;
        answer.body_kind = Some(
            if echoed == *text {
                "websocket"
            } else {
                "garbled"
            }
            .into(),
        );
    } else {
        answer.body_kind = Some(body_kind(&got.body));
    }
    Ok(answer)
}

fn http2(request: &Request, socket: TcpStream, tls: bool) -> Result<Answer, String> {
    let handshake = tls.then(|| handshake(request, "h2"));
    let mut session = Session::over(socket, handshake.as_ref());
    let headers: Vec<(String, &str)> = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.as_str()))
        .collect();
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let host = request.host.as_deref().unwrap_or_default();
    let got = session
        .send("GET", host, &request.target, &headers, b"")
        .map_err(|error| error.to_string())?;
    let mut answer = Answer {
        status: Some(got.status),
        cert: session.common_name.clone(),
        ..Answer::default()
    };
    for (name, value) in &got.headers {
        note(
            &mut answer,
            name.as_str(),
            value.to_str().unwrap_or("not text"),
        );
    }
    answer.body_kind = Some(body_kind(&got.body));
    Ok(answer)
}

fn note(answer: &mut Answer, name: &str, value: &str) {
    let name = name.to_lowercase();
    if !IGNORED.contains(&name.as_str()) {
        answer
            .headers
            .entry(name)
            .or_default()
            .push(value.to_owned());
    }
}

fn body_kind(body: &[u8]) -> String {
    let kind = match body {
        [] => "empty",
        _ if body.starts_with(b"{\"backend\"") => "echo",
        _ => "page",
    };
    kind.to_owned()
}
