//! What is wrong with what an operator writes, beyond its shape.
//!
//! Pure. Invariants: what can be seen to work nowhere is refused before anything is ordered with it; the
//! error is a sentence that says what to write instead, and quotes no password.

use std::net::{IpAddr, Ipv6Addr};

use http::Uri;
use http::uri::Authority;

use crate::dns::SolverSpec;
use crate::dns::spec::Provider;
use crate::names::Name;

/// A secret is a folder below `--acme-secrets`, or a Secret: no path.
pub(super) fn secret(name: &str) -> Result<(), String> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        return Err(format!(
            "{name:?} is no name of a secret: write the name alone, without a path"
        ));
    }
    Ok(())
}

/// One e-mail address.
pub(super) fn contact(text: &str) -> Result<(), String> {
    let strange =
        |letter: char| letter.is_whitespace() || letter.is_control() || ",;:<>".contains(letter);
    match text.split_once('@') {
        Some((name, host))
            if !name.is_empty()
                && !host.is_empty()
                && !host.contains('@')
                && !text.contains(strange) =>
        {
            Ok(())
        }
        _ => Err("write one e-mail address, without mailto:".to_owned()),
    }
}

/// `https://`, or `http://` to this machine where the operator says so.
pub(super) fn directory(url: &str, insecure: bool) -> Result<(), String> {
    let uri = parsed(url)?;
    let host = uri.host().unwrap_or_default();
    let address = bare(host).parse::<IpAddr>();
    let local = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if insecure && local => Ok(()),
        Some("http") => Err(format!(
            "{url:?} is not https; http is for this machine only, with insecure: true"
        )),
        _ => Err(format!("{url:?} is no https URL")),
    }
}

/// One entry of `dns`, below the field `at`.
pub(super) fn solver(at: &str, spec: &SolverSpec, found: &mut Vec<String>) {
    let mut say = |field: &str, why: &str| found.push(format!("{at}.{field}: {why}"));
    if spec.zones.is_empty() {
        say("zones", "name at least one zone, such as example.org");
    }
    for zone in &spec.zones {
        let plain = |name: &Name| matches!(name, Name::Dns(_)) && !name.is_wildcard();
        if !Name::parse(zone).as_ref().is_ok_and(plain) {
            say(
                "zones",
                &format!("{zone:?} is no zone: write a name such as example.org"),
            );
        }
    }
    if let Some(name) = &spec.secret
        && let Err(why) = secret(name)
    {
        say("secret", &why);
    }
    let provider = spec.provider;
    let needs = |field: &str, what: &str| format!("{provider} needs {field}: {what}");
    match provider {
        Provider::Rfc2136 if spec.server.is_none() => say(
            "server",
            &needs("it", "write address and port, such as 192.0.2.1:53"),
        ),
        Provider::Exec => match spec.command.as_deref() {
            None => say("command", &needs("it", "write the whole path of a program")),
            Some(command) if !command.starts_with('/') => say(
                "command",
                &format!("{command:?} is no whole path: begin it with /"),
            ),
            Some(_) => {}
        },
        Provider::Httpreq | Provider::AcmeDns if spec.url.is_none() => {
            say("url", &needs("it", "write where the server is reached"));
        }
        _ => {}
    }
    if spec.secret.is_none() && !matches!(provider, Provider::Exec | Provider::Httpreq) {
        say(
            "secret",
            &needs("it", "name the secret with the credentials"),
        );
    }
    if let Some(url) = &spec.url {
        match parsed(url) {
            Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) => {}
            Ok(_) => say(
                "url",
                &format!("{url:?} is of neither http:// nor https://"),
            ),
            Err(why) => say("url", &why),
        }
    }
}

/// Reads a URL that can be asked. What may be a password is not repeated.
fn parsed(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|_| no_url(url))?;
    let authority = uri.authority().map_or("", Authority::as_str);
    let host = uri.host().unwrap_or_default();
    // Beside the host, there can only be a port.
    let port = authority == host || uri.port_u16().is_some_and(|port| port > 0);
    let why = if authority.contains('@') {
        PASSWORD.to_owned()
    } else if uri.scheme().is_none() || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        format!("{url:?} is no https URL")
    } else if url.contains('#') {
        format!("{url:?} has a part that is never sent: leave out # and what follows it")
    } else if host.is_empty() {
        no_host(url)
    } else if host.starts_with('[') && bare(host).parse::<Ipv6Addr>().is_err() {
        no_address(url)
    } else if !port {
        format!("{url:?} has no port that there is: write 1 to 65535")
    } else {
        return Ok(uri);
    };
    Err(why)
}

/// Why a text cannot be read as a URL. Nobody knows where in it a password would be.
fn no_url(url: &str) -> String {
    if url.contains('@') {
        PASSWORD.to_owned()
    } else if url.contains("://[") {
        no_address(url)
    } else if url.contains(":///") || url.ends_with("://") {
        no_host(url)
    } else {
        format!("{url:?} is no https URL")
    }
}

fn no_host(url: &str) -> String {
    format!("{url:?} names no host: write https://host/path")
}

fn no_address(url: &str) -> String {
    format!("{url:?} has no address in its brackets: write one such as [2001:db8::1]")
}

/// A host without the brackets of an address.
fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

const PASSWORD: &str = "a URL with a user or a password in it is shown and logged: leave them out";
