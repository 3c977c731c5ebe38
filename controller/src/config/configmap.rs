//! The ConfigMap and `--set`, read by the table of settings.
//!
//! Pure: the same base and data give the same values and diagnostics, sorted. A bad value leaves
//! its setting as the flags have it, with two exceptions: a bad value that decides whom to believe
//! makes the gateway believe nobody, and a restriction of access that is not supported closes every
//! route.

use std::collections::BTreeMap;
use std::sync::Arc;

use gatehouse_gateway::model::Settings;

use super::restrictions::Restriction;
use super::settings::{Draft, Hsts, SETTINGS, Setting, Trust, WITHOUT_MEANING};
use super::{ClassReading, Defaults, Managed};
use crate::diagnostics::{Code, Diagnostic, Severity, suggest};

/// What the flags say; the ConfigMap is read on top of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The ConfigMap (namespace, name) to follow.
    pub configmap: Option<(Arc<str>, Arc<str>)>,
    draft: Draft,
}

impl Default for Base {
    fn default() -> Self {
        Self::new(Defaults::default(), None)
    }
}

impl Base {
    /// Defaults as the flags have them, and everything else as it comes.
    pub fn new(defaults: Defaults, configmap: Option<(Arc<str>, Arc<str>)>) -> Self {
        Self {
            configmap,
            draft: Draft {
                defaults,
                settings: Settings::default(),
                trust: Trust::default(),
                hsts: Hsts::default(),
            },
        }
    }

    /// Applies the assignments of `--set`. Unlike in a ConfigMap, the first bad one is an error,
    /// in words: a flag can be corrected before anything is served.
    pub fn assign<'a>(
        mut self,
        assignments: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, String> {
        let mut given = BTreeMap::new();
        for (name, value) in assignments {
            if let Some(row) = Restriction::of(name)
                && row.is_asked(value)
            {
                return Err(refused(name, row, "the gateway does not start with it"));
            }
            if !SETTINGS.iter().any(|setting| setting.name == name) {
                return Err(format!(
                    "there is no setting `{name}`; {}",
                    suggestion(name)
                ));
            }
            given.insert(name, value);
        }
        for setting in SETTINGS {
            if let Some(value) = given.get(setting.name)
                && setting.set(&mut self.draft, value).is_none()
            {
                return Err(bad_value(setting, value));
            }
        }
        let (_, _, gaps) = settle(self.draft.clone());
        match gaps.into_iter().next() {
            Some((_, message)) => Err(message),
            None => Ok(self),
        }
    }

    /// Says how classes become known.
    #[must_use]
    pub fn reading_classes(mut self, reading: ClassReading) -> Self {
        self.draft.defaults.classes.reading = reading;
        self
    }

    /// Which Ingresses ask for certificates.
    #[must_use]
    pub fn managing(mut self, managed: Managed) -> Self {
        self.draft.defaults.managed = managed;
        self
    }

    /// The values without a ConfigMap.
    pub fn values(&self) -> (Defaults, Settings) {
        let (defaults, settings, _) = settle(self.draft.clone());
        (defaults, settings)
    }
}

/// The values with this data of the ConfigMap, and what is wrong with it.
pub fn with_configmap(
    base: &Base,
    data: &BTreeMap<String, String>,
) -> (Defaults, Settings, Vec<Diagnostic>) {
    let object: Arc<str> = match &base.configmap {
        Some((namespace, name)) => format!("ConfigMap/{namespace}/{name}").into(),
        None => "ConfigMap".into(),
    };
    let mut draft = base.draft.clone();
    let mut findings: Vec<Finding<'_>> = data
        .iter()
        .filter(|(name, _)| !SETTINGS.iter().any(|setting| setting.name == name.as_str()))
        .filter_map(|(name, value)| no_setting(name, value))
        .collect();
    draft.defaults.closed = findings
        .iter()
        .any(|(_, _, code, _)| *code == Code::SettingRefused);

    let mut distrust = false;
    for setting in SETTINGS {
        let Some(value) = data.get(setting.name) else {
            continue;
        };
        if setting.set(&mut draft, value).is_some() {
            continue;
        }
        let stays = if setting.trust {
            distrust = true;
            "nobody is believed until it is corrected"
        } else {
            "the value of the flags stays in force"
        };
        findings.push((
            setting.name,
            Severity::Error,
            Code::SettingInvalid,
            format!("{}; {stays}", bad_value(setting, value)),
        ));
    }
    if distrust {
        draft.trust = Trust::default();
    }

    let (defaults, settings, gaps) = settle(draft);
    findings.extend(
        gaps.into_iter()
            .map(|(name, message)| (name, Severity::Warning, Code::SettingInvalid, message)),
    );
    let mut diagnostics: Vec<Diagnostic> = findings
        .into_iter()
        .map(|(name, severity, code, message)| {
            Diagnostic::new(severity, &object, format!("data.{name}"), code, message)
        })
        .collect();
    diagnostics.sort();
    (defaults, settings, diagnostics)
}

/// Decides what several settings say together. The list holds what is missing, by setting.
fn settle(draft: Draft) -> (Defaults, Settings, Vec<(&'static str, String)>) {
    let Draft {
        mut defaults,
        mut settings,
        trust,
        hsts,
    } = draft;
    let mut gaps = Vec::new();

    if trust.forwarded_headers || trust.real_ip {
        if trust.real_ip_from.is_empty() {
            let name = if trust.forwarded_headers {
                "use-forwarded-headers"
            } else {
                "enable-real-ip"
            };
            gaps.push((name, missing_networks(name, "proxy-real-ip-cidr")));
        }
        settings
            .trust
            .forwarded_from
            .clone_from(&trust.real_ip_from);
        settings.trust.all_fields = trust.forwarded_headers;
    }
    if trust.proxy_protocol {
        let from = trust
            .proxy_protocol_from
            .unwrap_or_else(|| trust.real_ip_from.clone());
        if from.is_empty() {
            const NAME: &str = "use-proxy-protocol";
            gaps.push((NAME, missing_networks(NAME, "proxy-protocol-cidr")));
        }
        settings.trust.proxy_protocol_from = from;
    }

    let value = hsts.on.then(|| {
        let subdomains = if hsts.subdomains {
            "; includeSubDomains"
        } else {
            ""
        };
        let preload = if hsts.preload { "; preload" } else { "" };
        Arc::<str>::from(format!("max-age={}{subdomains}{preload}", hsts.max_age))
    });
    defaults.hsts.clone_from(&value);
    settings.headers.hsts = value;
    (defaults, settings, gaps)
}

fn missing_networks(name: &str, networks: &str) -> String {
    format!(
        "`{name}` is on and `{networks}` is empty, so nobody is believed; name the proxies in \
         front, for example `{networks}=10.0.0.0/8` (`0.0.0.0/0,::/0` believes everybody)"
    )
}

fn bad_value(setting: &Setting, value: &str) -> String {
    if let Some((field, why)) = setting.reserved(value) {
        return format!(
            "`{}` names the field `{field}`, which {why}; write for example `{}`",
            setting.name, setting.example
        );
    }
    format!(
        "`{}` is `{}`, which is not {}; write for example `{}`",
        setting.name,
        value.escape_debug(),
        setting.expected(),
        setting.example
    )
}

/// Setting, severity, code and message.
type Finding<'a> = (&'a str, Severity, Code, String);

/// What to say of a key that is no setting; nothing when it asks for nothing.
fn no_setting<'a>(name: &'a str, value: &str) -> Option<Finding<'a>> {
    let finding = |severity, message| Some((name, severity, Code::SettingInvalid, message));
    if let Some(row) = Restriction::of(name) {
        if row.is_asked(value) {
            let message = refused(name, row, "every route answers 503");
            return Some((name, Severity::Error, Code::SettingRefused, message));
        }
        if row.off.is_some() || value.trim().is_empty() {
            return None;
        }
        let message = format!("`{name}` {} and has no effect; remove it", row.asks);
        return finding(Severity::Warning, message);
    }
    if WITHOUT_MEANING.contains(&name) {
        let message = format!("`{name}` sets up nginx and has no meaning here; remove it");
        return finding(Severity::Info, message);
    }
    let message = format!("there is no setting `{name}`; {}", suggestion(name));
    finding(Severity::Warning, message)
}

fn refused(name: &str, row: &Restriction, then: &str) -> String {
    format!(
        "`{name}` {} and is not supported, so {then}: remove it once something else does what it \
         asks for",
        row.asks
    )
}

/// The nearest name when one is near, so that a slip of the finger explains itself.
fn suggestion(name: &str) -> String {
    suggest(name, SETTINGS.iter().map(|setting| setting.name)).map_or_else(
        || "`gatehouse run --help` lists the names".to_owned(),
        |near| format!("did you mean `{near}`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn every_example_of_the_table_is_accepted_and_every_name_is_unique() {
        let mut names = std::collections::BTreeSet::new();
        for setting in SETTINGS {
            assert!(names.insert(setting.name), "{} twice", setting.name);
            let mut draft = Base::default().draft;
            assert!(
                setting.set(&mut draft, setting.example).is_some(),
                "{}",
                setting.name
            );
            assert!(setting.doc.ends_with('.'), "{}", setting.name);
            assert!(
                setting.set(&mut draft, "\u{1}bad").is_none(),
                "{} takes anything",
                setting.name
            );
        }
        for name in WITHOUT_MEANING {
            assert!(!names.contains(name), "{name} has a meaning");
        }
    }

    #[test]
    fn the_empty_configmap_changes_nothing() {
        let (defaults, settings, diagnostics) = with_configmap(&Base::default(), &data(&[]));
        assert_eq!(defaults, Defaults::default());
        assert_eq!(settings, Settings::default());
        assert_eq!(diagnostics, []);
    }

    #[test]
    fn forwarded_headers_without_networks_trust_nobody_and_say_so() {
        let (_, settings, diagnostics) = with_configmap(
            &Base::default(),
            &data(&[("use-forwarded-headers", "true")]),
        );
        assert!(settings.trust.forwarded_from.is_empty());
        assert_eq!(diagnostics.len(), 1);
        assert_eq!(diagnostics[0].severity, Severity::Warning);
        assert!(
            diagnostics[0]
                .message
                .contains("proxy-real-ip-cidr=10.0.0.0/8")
        );
    }

    #[test]
    fn a_bad_network_closes_the_door_even_when_the_flags_trust_somebody() {
        let base = Base::default()
            .assign([
                ("use-forwarded-headers", "true"),
                ("proxy-real-ip-cidr", "192.0.2.0/24"),
            ])
            .unwrap();
        assert_eq!(base.values().1.trust.forwarded_from.len(), 1);
        let (_, settings, diagnostics) = with_configmap(
            &base,
            &data(&[("proxy-real-ip-cidr", "10.0.0.0/8 everybody")]),
        );
        assert!(settings.trust.forwarded_from.is_empty());
        assert_eq!(diagnostics[0].severity, Severity::Error);
        assert!(diagnostics[0].message.contains("nobody is believed"));
    }

    #[test]
    fn a_bad_value_leaves_the_others_in_force() {
        let (_, settings, diagnostics) = with_configmap(
            &Base::default(),
            &data(&[("proxy-connect-timeout", "soon"), ("proxy-body-size", "8m")]),
        );
        assert_eq!(settings.limits.body, 8 << 20);
        assert_eq!(
            settings.timeouts.upstream_connect,
            Settings::default().timeouts.upstream_connect
        );
        assert_eq!(&*diagnostics[0].field, "data.proxy-connect-timeout");
    }

    #[test]
    fn a_restriction_that_is_not_supported_closes_everything() {
        let key = [("whitelist-source-range", "10.0.0.0/8"), ("hsts", "false")];
        let (defaults, _, diagnostics) = with_configmap(&Base::default(), &data(&key));
        assert!(defaults.closed && defaults.hsts.is_none());
        assert_eq!(diagnostics.len(), 1);
        assert_eq!(diagnostics[0].code, Code::SettingRefused);
        assert_eq!(diagnostics[0].severity, Severity::Error);
        assert_eq!(&*diagnostics[0].field, "data.whitelist-source-range");

        let off = [("whitelist-source-range", ""), ("global-auth-method", " ")];
        let (defaults, _, diagnostics) = with_configmap(&Base::default(), &data(&off));
        assert!(!defaults.closed);
        assert_eq!(diagnostics, []);

        let detail = [("global-auth-method", "POST")];
        let (defaults, _, diagnostics) = with_configmap(&Base::default(), &data(&detail));
        assert!(!defaults.closed);
        assert_eq!(diagnostics[0].severity, Severity::Warning);

        let error = Base::default().assign(key).unwrap_err();
        for part in ["`whitelist-source-range`", "does not start", "remove it"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn fields_that_the_gateway_writes_are_refused_by_name() {
        let bad = [
            (
                "add-request-headers",
                "X-Via: g\nContent-Length: 5",
                "content-length",
            ),
            ("forwarded-for-header", "Authorization", "authorization"),
        ];
        for (setting, value, field) in bad {
            let trusted = Base::default()
                .assign([
                    ("use-forwarded-headers", "true"),
                    ("proxy-real-ip-cidr", "192.0.2.0/24"),
                ])
                .unwrap();
            let (_, settings, diagnostics) = with_configmap(&trusted, &data(&[(setting, value)]));
            assert_eq!(settings.headers, Settings::default().headers);
            assert_eq!(
                settings.trust.forwarded_from.is_empty(),
                setting == "forwarded-for-header"
            );
            assert_eq!(diagnostics.len(), 1);
            assert_eq!(diagnostics[0].severity, Severity::Error);
            assert_eq!(diagnostics[0].code, Code::SettingInvalid);
            let flag = Base::default().assign([(setting, value)]).unwrap_err();
            for message in [&*diagnostics[0].message, &flag] {
                assert!(message.contains(&format!("`{setting}`")), "{message}");
                assert!(message.contains(&format!("`{field}`, which")), "{message}");
            }
        }
    }

    #[test]
    fn the_general_timeout_gives_way_to_the_special_one() {
        let (_, settings, _) = with_configmap(
            &Base::default(),
            &data(&[("tunnel-idle-timeout", "1h"), ("proxy-read-timeout", "5")]),
        );
        assert_eq!(settings.timeouts.tunnel_idle.as_secs(), 3600);
        assert_eq!(settings.timeouts.upstream_body.as_secs(), 5);
    }

    #[test]
    fn a_misspelt_name_is_answered_with_the_nearest_one() {
        let (_, _, diagnostics) = with_configmap(
            &Base::default(),
            &data(&[("proxy-conect-timeout", "5s"), ("worker-processes", "1")]),
        );
        assert!(
            diagnostics[0]
                .message
                .contains("did you mean `proxy-connect-timeout`")
        );
        assert_eq!(diagnostics[1].severity, Severity::Info);
        let error = Base::default().assign([("hsts-maxage", "1")]).unwrap_err();
        assert!(error.contains("`hsts-max-age`"), "{error}");
    }

    #[test]
    fn hsts_is_put_together_from_its_parts() {
        let (defaults, settings, _) = with_configmap(
            &Base::default(),
            &data(&[("hsts-max-age", "60"), ("hsts-preload", "true")]),
        );
        assert_eq!(
            defaults.hsts.as_deref(),
            Some("max-age=60; includeSubDomains; preload")
        );
        assert_eq!(settings.headers.hsts, defaults.hsts);
        let (defaults, _, _) = with_configmap(&Base::default(), &data(&[("hsts", "false")]));
        assert_eq!(defaults.hsts, None);
    }
}
