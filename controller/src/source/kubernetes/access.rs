//! The way to the API server: configuration of a cluster's pod or of a kubeconfig file.
//!
//! Invariants: every request has a deadline, none is repeated behind the back of its caller;
//! credentials are read again when the server refuses them, so nobody restarts for a new token.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::{Client, Config};
use tokio::time::Instant;

use super::failure::plain;
use super::kubeconfig::Choice;

/// Where the configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The environment and the service account of a pod.
    Cluster,
    /// A kubeconfig file, and which of its contexts; without one, the current.
    File(PathBuf, Option<String>),
}

/// Why there is no way, as a sentence for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoAccess(String);

/// See the module. Clones are the same.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    origin: Origin,
    /// The namespace of the pod, or of the context.
    namespace: Arc<str>,
    current: Mutex<Current>,
}

struct Current {
    client: Client,
    made: Instant,
}

impl Access {
    /// Reads the configuration. Does not ask the server anything yet.
    pub async fn new(origin: Origin) -> Result<Self, NoAccess> {
        let client = connect(&origin).await?;
        Ok(Self::with_client(client, origin))
    }

    pub(super) fn with_client(client: Client, origin: Origin) -> Self {
        Self(Arc::new(Inner {
            origin,
            namespace: client.default_namespace().into(),
            current: Mutex::new(Current {
                client,
                made: Instant::now(),
            }),
        }))
    }

    /// A client with the latest credentials.
    pub fn client(&self) -> Client {
        let current = self.0.current.lock();
        let current = current.unwrap_or_else(PoisonError::into_inner);
        current.client.clone()
    }

    /// The namespace that Gatehouse itself lives in.
    pub fn namespace(&self) -> &Arc<str> {
        &self.0.namespace
    }

    /// The server has refused the credentials: reads them again, unless that has just been done.
    pub async fn renew(&self) {
        {
            let current = self.0.current.lock();
            let mut current = current.unwrap_or_else(PoisonError::into_inner);
            if current.made.elapsed() < RENEW_AFTER {
                return;
            }
            current.made = Instant::now();
        }
        // What cannot be read now is tried again at the next refusal.
        if let Ok(client) = connect(&self.0.origin).await {
            let current = self.0.current.lock();
            current.unwrap_or_else(PoisonError::into_inner).client = client;
        }
    }
}

async fn connect(origin: &Origin) -> Result<Client, NoAccess> {
    let (mut config, choice) = match origin {
        Origin::Cluster => {
            let config = Config::incluster_env().map_err(|_| NoAccess(OUTSIDE.to_owned()))?;
            (config, None)
        }
        Origin::File(path, context) => {
            let read = Choice::read(path, context.clone()).await;
            let (config, choice) = read.map_err(NoAccess)?;
            (config, Some(choice))
        }
    };
    // Said here, because the client would say it with the URL, and a password may be in it.
    if config.proxy_url.is_some() {
        return Err(NoAccess(PROXIED.to_owned()));
    }
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(WRITE);
    config.default_retry = false;
    config.headers.push((USER_AGENT, AGENT));
    Client::try_from(config).map_err(|error| {
        NoAccess(match choice {
            Some(choice) => choice.no_client(&error),
            None => format!(
                "no client for the Kubernetes API: {}; see to the service account of the pod",
                plain(&error)
            ),
        })
    })
}

const OUTSIDE: &str = "nothing says where the objects are: this process does not run in a pod with \
                       a service account, so name a directory with --dir or a cluster with --kubeconfig";

const PROXIED: &str = "the API server is to be reached through a proxy (`proxy-url` in the kubeconfig, or \
                       HTTPS_PROXY), which is not supported: unset it and run where the server is in reach";

/// Who asks, for the server's audit log.
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("gatehouse/", env!("CARGO_PKG_VERSION")));

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// Longest time without progress while sending a request.
const WRITE: Duration = Duration::from_secs(10);

/// Credentials are read at most this often.
const RENEW_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_used_is_answered_with_its_flag_and_the_remedy() {
        let file = |path: &str, context: Option<&str>| {
            Origin::File(path.into(), context.map(str::to_owned))
        };
        let message = |origin| async { Access::new(origin).await.err().unwrap().to_string() };
        let missing = message(file("no-such-file", None)).await;
        assert!(missing.contains("--kubeconfig"), "{missing}");

        let folder = std::env::temp_dir().join(format!("gatehouse-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("kubeconfig");
        std::fs::write(
            &path,
            "{apiVersion: v1, kind: Config, contexts: [{name: blue, context: {cluster: a, user: b}}]}",
        )
        .unwrap();
        let wrong = message(file(path.to_str().unwrap(), Some("green"))).await;
        assert!(
            wrong.contains("--context") && wrong.contains("blue"),
            "{wrong}"
        );

        std::fs::write(
            &path,
            "{apiVersion: v1, kind: Config, contexts: [{name: blue, context: {cluster: a, user: b}}], \
             users: [{name: b, user: {}}], clusters: [{name: a, cluster: {server: 'https://a.test', \
             proxy-url: 'http://me:password@proxy.test:3128'}}]}",
        )
        .unwrap();
        let proxied = message(file(path.to_str().unwrap(), Some("blue"))).await;
        assert!(proxied.contains("proxy-url"), "{proxied}");
        assert!(!proxied.contains("password"), "{proxied}");
        // The line in front of the mistake is a secret.
        std::fs::write(
            &path,
            "users:\n- name: a\n  user:\n    token: hunter2\n    password: [hunter3]\n",
        )
        .unwrap();
        let broken = message(file(path.to_str().unwrap(), None)).await;
        assert!(
            broken.contains("line 5") && broken.contains("--kubeconfig"),
            "{broken}"
        );
        assert!(!broken.contains("hunter"), "{broken}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
