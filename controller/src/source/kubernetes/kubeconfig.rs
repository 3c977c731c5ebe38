//! A kubeconfig file: what is chosen of it, and in words of its own why that cannot be used.
//!
//! Invariants: one sentence names the file, the context or user, the cause and the remedy. Nothing
//! of a credential is in it: neither lines of the file, nor arguments, environment or output of a
//! plugin.

use std::path::{Path, PathBuf};

use kube::Config;
use kube::client::AuthError;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError, LoadDataError};

use super::failure::{brief, plain};

/// What has been chosen.
pub(super) struct Choice {
    file: PathBuf,
    /// Names of all contexts.
    contexts: Vec<String>,
    /// The context that holds, if there is one.
    context: Option<String>,
    cluster: Option<String>,
    user: Option<String>,
    /// The program that is asked for credentials.
    plugin: Option<String>,
    /// How to get it.
    hint: Option<String>,
}

impl Choice {
    /// Reads the file and takes this context, or the current one.
    pub(super) async fn read(
        file: &Path,
        context: Option<String>,
    ) -> Result<(Config, Self), String> {
        let place = file.display();
        let invalid = |why: &str| {
            format!("invalid value '{place}' for '--kubeconfig <FILE>': {why}; {REMEDY}")
        };
        let kubeconfig = Kubeconfig::read_from(file).map_err(|error| match error {
            KubeconfigError::ReadConfig(error, _) => {
                invalid(&format!("the file cannot be read: {error}"))
            }
            // The lines behind the first show the file around the mistake: passwords, tokens, keys.
            other => {
                let error = other.to_string();
                let error = error.lines().next().unwrap_or_default();
                let place = error
                    .rsplit_once("error: ")
                    .map_or(error, |(_, place)| place);
                invalid(&format!("the file does not have the form of one: {place}"))
            }
        })?;
        let choice = Self::of(&kubeconfig, file, context);
        if choice.contexts.is_empty() {
            let empty = kubeconfig.clusters.is_empty() && kubeconfig.auth_infos.is_empty();
            return Err(invalid(if empty {
                "the file is empty: it has no cluster, no user and no context"
            } else {
                "the file has no context, which says what user to be in what cluster"
            }));
        }
        if let Some(name) = &choice.context
            && !choice.contexts.contains(name)
        {
            return Err(choice.unknown(name, kubeconfig.current_context.as_ref() == Some(name)));
        }
        if let Some(why) = choice.mistake(&kubeconfig) {
            return Err(why);
        }
        let options = KubeConfigOptions {
            context: choice.context.clone(),
            ..KubeConfigOptions::default()
        };
        match Config::from_custom_kubeconfig(kubeconfig, &options).await {
            Ok(config) => Ok((config, choice)),
            Err(error) => Err(choice.unusable(&error)),
        }
    }

    fn of(kubeconfig: &Kubeconfig, file: &Path, context: Option<String>) -> Self {
        let current = kubeconfig.current_context.clone();
        let context = context.or(current.filter(|name| !name.is_empty()));
        let named = kubeconfig.contexts.iter();
        let mut named = named.filter(|named| Some(&named.name) == context.as_ref());
        let chosen = named.next().and_then(|named| named.context.clone());
        let cluster = chosen.as_ref().map(|chosen| chosen.cluster.clone());
        let user = chosen.and_then(|chosen| chosen.user);
        let users = kubeconfig.auth_infos.iter();
        let mut users = users.filter(|known| Some(&known.name) == user.as_ref());
        let known = users.next().and_then(|known| known.auth_info.as_ref());
        let exec = known.and_then(|known| known.exec.as_ref());
        Self {
            file: file.to_owned(),
            contexts: kubeconfig.contexts.iter().map(|c| c.name.clone()).collect(),
            context,
            cluster,
            plugin: exec.and_then(|exec| exec.command.clone()),
            hint: exec.and_then(|exec| exec.install_hint.clone()),
            user,
        }
    }

    /// A context that the file does not have.
    fn unknown(&self, name: &str, current: bool) -> String {
        let (file, contexts) = (self.file.display(), self.contexts.join(", "));
        if current {
            return format!(
                "{file} (--kubeconfig) has no context `{name}`, which it says is the current one; choose \
                 one with --context ({contexts})"
            );
        }
        format!("invalid value '{name}' for '--context <NAME>': {file} has the contexts {contexts}")
    }

    /// What the client would take and not get far with.
    fn mistake(&self, kubeconfig: &Kubeconfig) -> Option<String> {
        let mut users = kubeconfig.auth_infos.iter();
        if let Some(user) = self.user.as_ref().filter(|user| !user.is_empty())
            && !users.any(|known| known.name == *user)
        {
            // It would be anonymous, and what is refused to that would read like a lack of rights.
            return Some(self.sentence("its user is not in the file", "add the user"));
        }
        let mut contexts = kubeconfig.contexts.iter();
        let chosen = contexts.find(|named| Some(&named.name) == self.context.as_ref());
        let namespace = chosen.and_then(|named| named.context.as_ref()?.namespace.as_deref());
        if let Some(namespace) = namespace.filter(|name| !name.is_empty())
            && !namespace
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        {
            let why = format!("its namespace `{}` is the name of none", brief(namespace));
            return Some(self.sentence(&why, "correct it"));
        }
        let mut clusters = kubeconfig.clusters.iter();
        let cluster = clusters.find(|known| Some(&known.name) == self.cluster.as_ref());
        let server = cluster.and_then(|known| known.cluster.as_ref()?.server.as_deref())?;
        let scheme = server.split_once("://").map(|(scheme, _)| scheme);
        let why = "the `server` of its cluster begins neither with https:// nor with http://";
        (!matches!(scheme, Some("https" | "http")))
            .then(|| self.sentence(why, "write the URL of the API server"))
    }

    /// Why there is no configuration.
    fn unusable(&self, error: &KubeconfigError) -> String {
        let cluster = self.cluster.as_deref().unwrap_or_default();
        match error {
            KubeconfigError::CurrentContextNotSet | KubeconfigError::LoadContext(_) => format!(
                "{} (--kubeconfig) does not say which of its contexts is the current one; choose one with \
                 --context ({})",
                self.file.display(),
                self.contexts.join(", ")
            ),
            KubeconfigError::LoadClusterOfContext(_) => self.sentence(
                &format!("its cluster `{cluster}` is not in the file"),
                "add the cluster",
            ),
            KubeconfigError::MissingClusterUrl => self.sentence(
                &format!("its cluster `{cluster}` has no `server`"),
                "add the address of the API server",
            ),
            other => self.sentence(&unread(other), CORRECT),
        }
    }

    /// Why there is no client.
    pub(super) fn no_client(&self, error: &kube::Error) -> String {
        let plugin = self.plugin.as_deref().unwrap_or_default();
        let error = match error {
            kube::Error::Auth(error) => error,
            kube::Error::InferKubeconfig(error) => {
                return self.sentence(&unread(error), CORRECT);
            }
            other => return self.sentence(&plain(other), CORRECT),
        };
        match error {
            AuthError::ReadTokenFile(error, path) => self.sentence(
                &format!("its tokenFile {} cannot be read: {error}", path.display()),
                "put the token there, or correct the path",
            ),
            AuthError::AuthExecStart(error) => {
                let hint = self.hint.as_deref().map(brief).unwrap_or_default();
                let hint = if hint.is_empty() {
                    hint
                } else {
                    format!(" (the file says: {hint})")
                };
                self.sentence(
                    &format!("its exec plugin `{plugin}` cannot be run: {error}"),
                    &format!("install it where the PATH of this process has it{hint}"),
                )
            }
            AuthError::AuthExecRun { out, .. } => self.sentence(
                &format!(
                    "its exec plugin `{plugin}` gave no credentials and ended with {}",
                    out.status
                ),
                "run it by hand, as the file says, to see why",
            ),
            AuthError::AuthExecParse(_) | AuthError::ExecPluginFailed => self.sentence(
                &format!(
                    "what its exec plugin `{plugin}` prints is no ExecCredential with a status"
                ),
                "run it by hand, as the file says, to see why",
            ),
            AuthError::MissingCommand => {
                self.sentence("its exec plugin has no `command`", "name the program")
            }
            AuthError::AuthExec(_) => self.sentence(
                "it uses an `auth-provider`, which kubectl does not know any more either",
                "use `exec`, `token` or `tokenFile` in its place",
            ),
            other => self.sentence(&brief(&other.to_string()), CORRECT),
        }
    }

    fn sentence(&self, why: &str, remedy: &str) -> String {
        let user = match &self.user {
            Some(user) => format!(" (user `{user}`)"),
            None => String::new(),
        };
        format!(
            "context `{}`{user} of {} (--kubeconfig) cannot be used: {why}; {remedy}, or choose another \
             context with --context ({})",
            self.context.as_deref().unwrap_or_default(),
            self.file.display(),
            self.contexts.join(", ")
        )
    }
}

/// A part that is kept in another file, or as base64, and is none.
fn unread(error: &KubeconfigError) -> String {
    let (field, error) = match error {
        KubeconfigError::LoadCertificateAuthority(error) => ("certificate-authority", error),
        KubeconfigError::LoadClientCertificate(error) => ("client-certificate", error),
        KubeconfigError::LoadClientKey(error) => ("client-key", error),
        other => return brief(&other.to_string()),
    };
    match error {
        LoadDataError::ReadFile(error, path) => {
            format!("its {field} {} cannot be read: {error}", path.display())
        }
        LoadDataError::DecodeBase64(_) => format!("its {field}-data is not base64"),
        LoadDataError::NoBase64DataOrFile => format!("it has no {field}"),
    }
}

const REMEDY: &str =
    "name a file that kubectl can use, such as what `kubectl config view --raw --minify` prints";

const CORRECT: &str = "correct it";

#[cfg(test)]
mod tests {
    use super::super::access::{Access, Origin};
    use super::*;

    /// A file with one context `c`: cluster `a` and user `b`, of which this is said.
    fn written(folder: &Path, cluster: &str, user: &str) -> PathBuf {
        let path = folder.join("kubeconfig");
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: \
             {{cluster: a, user: b}}}}], users: [{{name: b, user: {{{user}}}}}], clusters: [{{name: a, \
             cluster: {{{cluster}}}}}]}}"
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn message(path: &Path) -> String {
        let origin = Origin::File(path.to_owned(), None);
        Access::new(origin).await.err().unwrap().to_string()
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_one_sentence_with_file_context_cause_and_remedy() {
        let folder = std::env::temp_dir().join(format!("gatehouse-choice-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let server = "server: 'https://127.0.0.1:1'";
        let exec = |command: &str| {
            format!(
                "exec: {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, env: \
                 [{{name: KEY, value: hunter2}}], {command}}}"
            )
        };
        let missing = exec("command: no-such-plugin, installHint: see example.com");
        let failing = exec("command: 'false', args: [hunter3]");
        let babbling = exec("command: echo, args: [hunter4]");
        let cases: [(&str, &str, [&str; 3]); 9] = [
            (
                server,
                "tokenFile: /no/token",
                ["tokenFile /no/token", "No such file", "put the token there"],
            ),
            (
                server,
                &missing,
                ["`no-such-plugin`", "see example.com", "install it"],
            ),
            (server, &failing, ["`false`", "exit status: 1", "by hand"]),
            (
                server,
                &babbling,
                ["`echo`", "no ExecCredential", "by hand"],
            ),
            (
                server,
                "auth-provider: {name: gcp, config: {}}",
                ["auth-provider", "kubectl", "`exec`"],
            ),
            (
                server,
                "client-certificate: /no/pem, client-key: /no/key",
                ["/no/", "No such file", "correct it"],
            ),
            (
                server,
                "client-certificate-data: '!', client-key-data: '!'",
                ["client-", "is not base64", "correct it"],
            ),
            (
                "server: 'https://127.0.0.1:1', certificate-authority: /no/ca",
                "",
                ["certificate-authority /no/ca", "No such file", "correct it"],
            ),
            ("", "", ["cluster `a`", "has no `server`", "address"]),
        ];
        for (cluster, user, words) in cases {
            let path = written(&folder, cluster, user);
            let text = message(&path).await;
            let place = format!("context `c` (user `b`) of {}", path.display());
            for word in [place.as_str(), "--kubeconfig", "--context (c)"]
                .iter()
                .chain(&words)
            {
                assert!(text.contains(word), "{word} is missing in: {text}");
            }
            assert!(!text.contains("hunter") && !text.contains('\n'), "{text}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn a_file_without_a_context_to_use_says_what_is_missing() {
        let folder = std::env::temp_dir().join(format!("gatehouse-empty-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("kubeconfig");
        for (text, words) in [
            ("", ["is empty", "kubectl config view"]),
            (
                "{apiVersion: v1, kind: Config}",
                ["is empty", "kubectl config view"],
            ),
            (
                "users: [{name: a, user: {}}]",
                ["no context", "kubectl config view"],
            ),
            (
                "contexts: [{name: c, context: {cluster: a}}]",
                ["does not say which", "--context (c)"],
            ),
            (
                "current-context: ''\ncontexts: [{name: c, context: {cluster: a}}]",
                ["does not say which", "--context (c)"],
            ),
            ("[a, b]", ["form of one: line 1", "kubectl config view"]),
            (
                "current-context: d\ncontexts: [{name: c, context: {cluster: a}}]",
                ["no context `d`", "--context (c)"],
            ),
            (
                "current-context: c\ncontexts: [{name: c, context: {cluster: a}}]",
                ["cluster `a` is not in the file", "--context (c)"],
            ),
            (
                "current-context: c\ncontexts: [{name: c, context: {cluster: a, user: b}}]",
                ["(user `b`)", "user is not in the file"],
            ),
            (
                "current-context: c\ncontexts: [{name: c, context: {cluster: a, namespace: A B}}]",
                ["namespace `A B`", "--context (c)"],
            ),
            (
                "current-context: c\ncontexts: [{name: c, context: {cluster: a}}]\n\
                 clusters: [{name: a, cluster: {server: 'ftp://x'}}]",
                ["https://", "URL of the API server"],
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let said = message(&path).await;
            for word in words.iter().chain(&["--kubeconfig"]) {
                assert!(said.contains(word), "{word} is missing in: {said}");
            }
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
