//! What all providers share: finding the place of a record, and looking whether it can be seen.

use std::net::SocketAddr;
use std::sync::Arc;

use super::acme_dns::AcmeDns;
use super::cloudflare::Cloudflare;
use super::exec::Exec;
use super::httpreq::HttpReq;
use super::resolve::Resolver;
use super::rfc2136::Rfc2136;
use super::route53::Route53;
use super::spec::{Cnames, Propagation, Provider};
use super::{DnsError, Readiness, Solver, SolverSpec, Solvers, TxtRecord};
use crate::Answer;
use crate::clock::Clock;
use crate::secrets::{Entries, Secret};

/// Makes solvers; see [`solver`].
pub fn solvers(system: Vec<SocketAddr>, clock: Arc<dyn Clock>) -> Arc<Solvers> {
    Arc::new(move |spec: &SolverSpec, entries: Entries| solver(spec, &entries, &system, &clock))
}

/// Makes the solver of a configuration, with the entries of the secret that it names. `system` is
/// asked where the configuration names no resolvers.
pub fn solver(
    spec: &SolverSpec,
    entries: &Entries,
    system: &[SocketAddr],
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Solver>, String> {
    let writer: Box<dyn Writer> = match spec.provider {
        Provider::Rfc2136 => Box::new(Rfc2136::new(spec, entries, clock)?),
        Provider::Exec => Box::new(Exec::new(spec, entries)?),
        Provider::Httpreq => Box::new(HttpReq::new(spec, entries)?),
        Provider::AcmeDns => Box::new(AcmeDns::new(spec, entries)?),
        Provider::Cloudflare => Box::new(Cloudflare::new(spec, entries)?),
        Provider::Route53 => Box::new(Route53::new(spec, entries, clock)?),
    };
    let resolvers = match &spec.resolvers {
        Some(resolvers) => resolvers.clone(),
        None => system.to_vec(),
    };
    Ok(Arc::new(Placed {
        writer,
        resolver: Resolver::new(resolvers)?,
        cnames: spec.cnames,
        propagation: spec.propagation,
    }))
}

/// Servers of a `resolv.conf`, port 53.
pub fn resolvers_of(resolv_conf: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver");
        let address = address.and(words.next())?.parse().ok()?;
        Some(SocketAddr::new(address, 53))
    };
    resolv_conf.lines().filter_map(server).take(8).collect()
}

/// Writes records at one provider.
pub(super) trait Writer: Send + Sync {
    /// The name that has to be written, if the provider writes one only.
    fn fixed(&self) -> Option<&str> {
        None
    }

    /// Adds the value beside any other of the same name.
    fn add<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>>;

    /// Removes exactly this value; that it is not there is success.
    fn remove<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>>;
}

struct Placed {
    writer: Box<dyn Writer>,
    resolver: Resolver,
    cnames: Cnames,
    propagation: Propagation,
}

impl Placed {
    async fn place(&self, domain: &str, value: &str) -> Result<TxtRecord, DnsError> {
        let asked = format!("_acme-challenge.{domain}");
        let fqdn = match self.cnames {
            Cnames::Follow => self.resolver.follow(&asked).await?,
            Cnames::Never => asked.clone(),
        };
        if let Some(fixed) = self.writer.fixed()
            && fixed != fqdn
        {
            return Err(DnsError::Configuration(format!(
                "{asked} leads to {fqdn}, but the account writes {fixed}: add the record \
                 \"{asked}. CNAME {fixed}.\" to its zone"
            )));
        }
        let zone = match self.propagation {
            // Nobody asks, and the zone may be out of sight from here.
            Propagation::None => self.resolver.zone(&fqdn).await.ok(),
            Propagation::Authoritative | Propagation::Resolvers => {
                Some(self.resolver.zone(&fqdn).await?)
            }
        };
        Ok(TxtRecord {
            fqdn,
            zone,
            value: value.to_owned(),
        })
    }
}

impl Solver for Placed {
    fn locate<'a>(
        &'a self,
        domain: &'a str,
        value: &'a str,
    ) -> Answer<'a, Result<TxtRecord, DnsError>> {
        Box::pin(self.place(domain, value))
    }

    fn present<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        self.writer.add(record)
    }

    fn cleanup<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<(), DnsError>> {
        self.writer.remove(record)
    }

    fn ready<'a>(&'a self, record: &'a TxtRecord) -> Answer<'a, Result<Readiness, DnsError>> {
        Box::pin(async move {
            match self.propagation {
                Propagation::Authoritative => self.resolver.visible(record, true).await,
                Propagation::Resolvers => self.resolver.visible(record, false).await,
                Propagation::None => Ok(Readiness::Visible),
            }
        })
    }
}

/// The text of an entry of the secret.
pub(super) fn entry<'a>(entries: &'a Entries, name: &str) -> Result<&'a str, String> {
    let secret = entries.get(name);
    secret
        .and_then(Secret::text)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| format!("its secret needs an entry {name:?} with text in it"))
}

/// A setting that this provider cannot do without.
pub(super) fn needed<'a>(setting: Option<&'a String>, name: &str) -> Result<&'a str, String> {
    let setting = setting.map(String::as_str);
    setting.ok_or_else(|| format!("`{name}` is missing: this provider needs it"))
}

/// The zone of a record.
pub(super) fn zone(record: &TxtRecord) -> Result<&str, DnsError> {
    record.zone.as_deref().ok_or_else(|| {
        DnsError::Configuration(format!("the zone of {} was not found", record.fqdn))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_of_the_system_are_read() {
        let text = "# made by something\nsearch example.org\nnameserver 10.0.0.2\n\
                    nameserver fd00::1 \nnameserver nonsense\noptions ndots:5\n";
        let expected = ["10.0.0.2:53", "[fd00::1]:53"];
        let expected: Vec<SocketAddr> = expected
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect();
        assert_eq!(resolvers_of(text), expected);
    }
}
