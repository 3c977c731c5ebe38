//! The commands `cert` and `account`: ask a running gateway about certificates, or look into the
//! directory that it keeps them in.
//!
//! Invariants: a private key is read from files and written to a file, and printed nowhere; what
//! changes something at a gateway goes through its admin server, which decides who may.

mod check;
mod text;
mod vault;

use std::fs;
use std::io::{Read as _, Write};
use std::path::Path;
use std::process::ExitCode;

use gatehouse_acme::accounts::AccountReport;
use gatehouse_acme::import::in_acme_json;
use gatehouse_acme::plan::Target;
use gatehouse_acme::secrets::Secret;
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::admin::Said;
use crate::admin::client::Client;
use crate::certificates::view::View;
use crate::config::flags::ObjectName;
use crate::config::people::{
    AccountCommand, AdminArgs, CertCommand, ExportArgs, ImportArgs, ListArgs, OutputFormat,
    ShowArgs,
};
use crate::run::Failure;

/// Runs `cert`.
pub fn cert(command: &CertCommand, output: &mut impl Write) -> Result<ExitCode, Failure> {
    let said = match command {
        CertCommand::List(args) => list(args)?,
        CertCommand::Show(args) => show(args)?,
        CertCommand::Check(args) => return check::check(args, output),
        CertCommand::Renew(args) => {
            let body = json!({"force": args.force});
            command_at(&args.admin, &args.certificate, "renew", &body)?
        }
        CertCommand::Retry(args) => {
            command_at(&args.admin, &args.certificate, "retry", &json!({}))?
        }
        CertCommand::Revoke(args) => {
            let body = json!({"reason": args.reason.code()});
            command_at(&args.admin, &args.certificate, "revoke", &body)?
        }
        CertCommand::Import(args) => import(args)?,
        CertCommand::Export(args) => return export(args, output),
    };
    Failure::unless_written(output, &said).map(|()| ExitCode::SUCCESS)
}

/// Runs `account`.
pub fn account(command: &AccountCommand, output: &mut impl Write) -> Result<ExitCode, Failure> {
    let said = match command {
        AccountCommand::Show(args) => {
            let body = Client::new(&args.admin.admin)?.get("/api/accounts")?;
            match args.output.output {
                OutputFormat::Json => body,
                OutputFormat::Text => text::accounts(&parsed::<Vec<AccountReport>>(&body)?),
            }
        }
        AccountCommand::Rotate(args) => {
            let path = format!("/api/accounts/{}/rotate", args.issuer);
            said(&Client::new(&args.admin.admin)?.post(&path, &json!({}))?)?
        }
    };
    Failure::unless_written(output, &said).map(|()| ExitCode::SUCCESS)
}

fn list(args: &ListArgs) -> Result<String, Failure> {
    let body = match &args.place.certs {
        Some(path) => written(&vault::views(path)?)?,
        None => Client::new(&args.place.admin.admin)?.get("/api/certificates")?,
    };
    match args.output.output {
        OutputFormat::Json => Ok(body),
        OutputFormat::Text => Ok(text::table(&parsed::<Vec<View>>(&body)?)),
    }
}

fn show(args: &ShowArgs) -> Result<String, Failure> {
    let target = target(&args.certificate);
    let body = match &args.place.certs {
        Some(path) => written(&vault::view(path, &target)?)?,
        None => Client::new(&args.place.admin.admin)?.get(&page(&target, ""))?,
    };
    match args.output.output {
        OutputFormat::Json => Ok(body),
        OutputFormat::Text => Ok(text::sentences(&parsed(&body)?, Timestamp::now())),
    }
}

fn import(args: &ImportArgs) -> Result<String, Failure> {
    let target = target(&args.certificate);
    let (chain, key) = pair(args)?;
    if let Some(path) = &args.place.certs {
        return vault::import(path, &target, &chain, &key);
    }
    let key = key.text().unwrap_or_default();
    let body = json!({"chain": chain, "key": key});
    said(&Client::new(&args.place.admin.admin)?.post(&page(&target, "/import"), &body)?)
}

/// Chain and key out of the files that are named.
fn pair(args: &ImportArgs) -> Result<(String, Secret), Failure> {
    if let (Some(path), Some(host)) = (&args.acme_json, &args.host) {
        let text = file(path, "--acme-json", LARGEST_STORE)?;
        return in_acme_json(&text, host).map_err(|why| {
            Failure::Usage(format!(
                "invalid value '{}' for '--acme-json <FILE>': {why}",
                path.display()
            ))
        });
    }
    match (&args.chain, &args.key) {
        (Some(chain), Some(key)) => {
            let chain = file(chain, "--chain", LARGEST)?;
            Ok((chain, Secret::new(file(key, "--key", LARGEST)?)))
        }
        _ => Err(Failure::Usage(
            "name the files with --chain and --key, or with --acme-json and --host".to_owned(),
        )),
    }
}

fn export(args: &ExportArgs, output: &mut impl Write) -> Result<ExitCode, Failure> {
    let target = target(&args.certificate);
    if let (Some(path), None) = (&args.key, &args.place.certs) {
        return Err(Failure::Usage(format!(
            "invalid value '{}' for '--key <FILE>': a gateway hands no private key out; name its \
             directory with --certs, or in a cluster read the Secret with kubectl",
            path.display()
        )));
    }
    for (path, flag) in [(&args.key, "--key"), (&args.chain, "--chain")] {
        if path.as_deref() == Some(Path::new("-")) {
            return Err(Failure::Usage(format!(
                "invalid value '-' for '{flag} <FILE>': name a file; without --chain the chain is printed"
            )));
        }
    }
    if let (Some(chain), Some(key)) = (&args.chain, &args.key)
        && vault::is_same(chain, key)
    {
        return Err(Failure::Usage(format!(
            "invalid value '{}' for '--chain <FILE>': --key names the same file; name one for each",
            chain.display()
        )));
    }
    let (chain, key) = if let Some(path) = &args.place.certs {
        let material = vault::material(path, &target)?;
        (material.chain, Some(material.key))
    } else {
        let client = Client::new(&args.place.admin.admin)?;
        (pem(client.get(&page(&target, "/chain"))?)?, None)
    };
    let (mut files, mut said) = (Vec::new(), Vec::new());
    if let (Some(path), Some(key)) = (&args.key, &key) {
        files.push(vault::Written {
            path,
            flag: "--key",
            bytes: key.expose(),
            mode: 0o600,
        });
        said.push(format!("the private key is in {}", path.display()));
    }
    if let Some(path) = &args.chain {
        files.push(vault::Written {
            path,
            flag: "--chain",
            bytes: chain.as_bytes(),
            mode: 0o666,
        });
        said.push(format!(
            "the certificate and its chain are in {}",
            path.display()
        ));
    }
    vault::write_new(&files)?;
    let said = if args.chain.is_some() {
        said.join("\n")
    } else {
        chain
    };
    Failure::unless_written(output, &said).map(|()| ExitCode::SUCCESS)
}

fn command_at(
    admin: &AdminArgs,
    certificate: &ObjectName,
    verb: &str,
    body: &Value,
) -> Result<String, Failure> {
    let path = page(&target(certificate), &format!("/{verb}"));
    said(&Client::new(&admin.admin)?.post(&path, body)?)
}

fn target((namespace, secret): &ObjectName) -> Target {
    Target {
        namespace: namespace.to_string(),
        secret: secret.to_string(),
    }
}

fn page(target: &Target, rest: &str) -> String {
    format!("/api/certificates/{target}{rest}")
}

fn said(body: &str) -> Result<String, Failure> {
    Ok(parsed::<Said>(body)?.said)
}

fn parsed<T: DeserializeOwned>(body: &str) -> Result<T, Failure> {
    serde_json::from_str(body).map_err(|error| {
        Failure::System(format!(
            "what answers at the address of --admin is no gateway, or one of another version: {error}; name the \
             admin port of a gateway, and ask with the program of its version or with --output json"
        ))
    })
}

/// A chain, as a gateway gives it.
fn pem(body: String) -> Result<String, Failure> {
    if body.starts_with("-----BEGIN CERTIFICATE-----") {
        return Ok(body);
    }
    Err(Failure::System(
        "what answers at the address of --admin is no gateway: it gave no certificates; name the admin port of a \
         gateway"
            .to_owned(),
    ))
}

fn written<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::System(error.to_string()))
}

/// A file of text, within a bound.
fn file(path: &Path, flag: &str, largest: u64) -> Result<String, Failure> {
    let bad = |why: String| {
        Failure::Usage(format!(
            "invalid value '{}' for '{flag} <FILE>': {why}",
            path.display()
        ))
    };
    let mut text = String::new();
    let opened = fs::File::open(path).map_err(|error| bad(error.to_string()))?;
    let mut bounded = opened.take(largest + 1);
    bounded
        .read_to_string(&mut text)
        .map_err(|error| bad(error.to_string()))?;
    if text.len() as u64 > largest {
        return Err(bad(format!(
            "it is longer than {largest} bytes, which no such file is"
        )));
    }
    Ok(text)
}

/// Largest file of PEM.
const LARGEST: u64 = 100 << 10;

/// Largest `acme.json`: some thousand certificates.
const LARGEST_STORE: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_chain_is_not_exported() {
        let refused = pem("{\"method\": \"GET\"}".to_owned());
        let Err(Failure::System(why)) = refused else {
            panic!("{refused:?}");
        };
        assert!(why.contains("--admin"), "{why}");
        pem("-----BEGIN CERTIFICATE-----\n".to_owned()).expect("a chain");
    }
}
