//! The layers of one round, in their order: fragments, default backend, clusters, hosts,
//! certificates. Each marks only what the next one must look at.

use std::mem;
use std::sync::Arc;

use foldhash::HashMap;
use k8s_openapi::api::networking::v1::Ingress;

use gatehouse_gateway::model::{
    CertKey, CertificatePlan, ClusterKey, Delta, HostKey, HostPattern, HostPlan, ServerId,
};

use super::findings::Origin;
use super::graph::Node;
use super::{Engine, Outcome, Wanted, Work};
use crate::diagnostics::{Code, Diagnostic, Remarks};
use crate::source::{Kind, Object, ObjectKey};
use crate::translate::merge::{DefaultAnswer, forward, merge};
use crate::translate::{ClusterRef, Fragment, HostFragment, backend, object_ref, tls, translate};
use crate::world::Lookup;

impl Engine {
    pub(super) fn compute(&mut self, outcome: &mut Outcome) {
        if mem::take(&mut self.dirty.everything) {
            self.dirty_everything();
        }
        self.translate_fragments(&mut outcome.work);
        if mem::take(&mut self.dirty.default_backend) {
            self.find_default_backend();
        }
        let mut clusters = mem::take(&mut self.dirty.clusters);
        clusters.extend(mem::take(&mut self.dirty.endpoints));
        for key in clusters {
            self.plan_cluster(key, outcome);
        }
        self.settle_answer();
        if mem::take(&mut self.dirty.answer) {
            self.dirty.hosts.extend(self.by_host.keys().cloned());
            self.dirty.hosts.insert(HostPattern::Any);
        }
        self.merge_hosts(outcome);
        if mem::take(&mut self.dirty.default_certificate) {
            self.find_default_certificate(&mut outcome.delta);
        }
        self.merge_addresses(&mut outcome.delta);
        self.plan_certificates(&mut outcome.delta);
        if mem::take(&mut self.dirty.settings) {
            outcome.delta.settings = Some(Arc::clone(&self.settings));
        }
    }

    pub(super) fn compute_endpoints(&mut self, outcome: &mut Outcome) {
        for key in mem::take(&mut self.dirty.endpoints) {
            // Not planned yet: its fragment comes first.
            if self.clusters.contains_key(&key) {
                self.plan_cluster(key, outcome);
            } else {
                self.dirty.clusters.insert(key);
            }
        }
        self.settle_answer();
    }

    fn dirty_everything(&mut self) {
        let dirty = &mut self.dirty;
        dirty.fragments.extend(self.world.ingress_keys().cloned());
        dirty.fragments.extend(self.fragments.keys().cloned());
        dirty.clusters.extend(self.wanted.keys().cloned());
        dirty.hosts.extend(self.by_host.keys().cloned());
        dirty.hosts.insert(HostPattern::Any);
        dirty.addresses.extend(self.by_address.keys());
        dirty.default_backend = true;
        dirty.default_certificate = true;
    }

    fn translate_fragments(&mut self, work: &mut Work) {
        for key in mem::take(&mut self.dirty.fragments) {
            work.fragments += 1;
            let ingress = self.world.ingress(&key);
            let (fragment, reads, list) = match ingress {
                Some(ingress) => {
                    let lookup = Lookup::new(&self.world);
                    let (fragment, list) = translate(ingress, &lookup, &self.defaults);
                    (fragment, lookup.into_reads(), list)
                }
                None => Default::default(),
            };
            let ours = ingress.filter(|_| fragment.ours).cloned();
            self.own(&key, ours);
            let node = Node::Fragment(key.clone());
            self.graph.set(&node, reads);
            self.note(Origin::Node(node), list);
            self.replace_fragment(key, fragment);
        }
    }

    /// Notes the present version of an object that is ours, or that it is not.
    fn own(&mut self, key: &ObjectKey, object: Option<Arc<Ingress>>) {
        let old = self.owned.get(key);
        if old.map(Arc::as_ptr) == object.as_ref().map(Arc::as_ptr) {
            return;
        }
        self.revision += 1;
        // Copied only when somebody still reads the map that was reported last.
        let owned = Arc::make_mut(&mut self.owned);
        match object {
            Some(object) => drop(owned.insert(key.clone(), object)),
            None => drop(owned.remove(key)),
        }
    }

    /// Notes a namespace, or that there is none of this name any more.
    pub(super) fn know(&mut self, key: &ObjectKey, object: Option<&Object>) {
        if key.kind != Kind::Namespace {
            return;
        }
        let new = match object {
            Some(Object::Namespace(namespace)) => Some(namespace),
            _ => None,
        };
        if self.namespaces.get(&key.name) == new {
            return;
        }
        self.revision += 1;
        let namespaces = Arc::make_mut(&mut self.namespaces);
        match new {
            Some(namespace) => {
                namespaces.insert(Arc::clone(&key.name), Arc::clone(namespace));
            }
            None => drop(namespaces.remove(&key.name)),
        }
    }

    fn replace_fragment(&mut self, key: ObjectKey, new: Fragment) {
        let old = self.fragments.remove(&key).unwrap_or_default();
        if old != new {
            self.replace_addresses(&old.addresses, &new.addresses);
            // First want, then release: a cluster that stays is never planned anew.
            for cluster in new.clusters() {
                self.want(cluster);
            }
            for cluster in old.clusters() {
                self.release(&cluster.key);
            }
            let same = |hosts: &HashMap<&HostPattern, &Arc<HostFragment>>, own: &HostFragment| {
                hosts.get(&own.host).is_some_and(|other| ***other == *own)
            };
            let before = old.hosts.iter().map(|host| (&host.host, host)).collect();
            let after = new.hosts.iter().map(|host| (&host.host, host)).collect();
            for host in old.hosts.iter().filter(|host| !same(&after, host)) {
                self.leave_host(host);
            }
            for host in new.hosts.iter().filter(|host| !same(&before, host)) {
                self.dirty.hosts.insert(host.host.clone());
                let fragments = self.by_host.entry(host.host.clone()).or_default();
                match fragments.binary_search_by(|other| other.age.cmp(&host.age)) {
                    Ok(place) => {
                        if let Some(old) = fragments.get_mut(place) {
                            *old = Arc::clone(host);
                        }
                    }
                    Err(place) => {
                        fragments.reserve_exact(1);
                        fragments.insert(place, Arc::clone(host));
                    }
                }
            }
        }
        if new != Fragment::default() {
            self.fragments.insert(key, new);
        }
    }

    fn leave_host(&mut self, fragment: &HostFragment) {
        self.dirty.hosts.insert(fragment.host.clone());
        if let Some(fragments) = self.by_host.get_mut(&fragment.host) {
            fragments.retain(|other| other.age != fragment.age);
            if fragments.is_empty() {
                self.by_host.remove(&fragment.host);
            }
        }
    }

    fn want(&mut self, cluster: &ClusterRef) {
        let key = &cluster.key;
        if let Some(wanted) = self.wanted.get_mut(key) {
            wanted.users += 1;
            return;
        }
        let wanted = Wanted {
            cluster: cluster.clone(),
            users: 1,
        };
        self.wanted.insert(key.clone(), wanted);
        self.dirty.clusters.insert(key.clone());
    }

    fn release(&mut self, key: &ClusterKey) {
        let Some(wanted) = self.wanted.get_mut(key) else {
            return;
        };
        wanted.users -= 1;
        if wanted.users == 0 {
            self.wanted.remove(key);
            self.dirty.clusters.insert(key.clone());
        }
    }

    fn plan_cluster(&mut self, key: ClusterKey, outcome: &mut Outcome) {
        let node = Node::Cluster(key.clone());
        let Some(wanted) = self.wanted.get(&key) else {
            self.graph.set(&node, Vec::new());
            self.note(Origin::Node(node), Vec::new());
            if self.clusters.remove(&key).is_some() {
                outcome.delta.clusters.push((key, None));
            }
            return;
        };
        outcome.work.clusters += 1;
        let lookup = Lookup::new(&self.world);
        let (plan, list) = backend::cluster(&wanted.cluster, &lookup, &self.defaults);
        let reads = lookup.into_reads();
        self.graph.set(&node, reads);
        self.note(Origin::Node(node), list);
        if self.clusters.get(&key).is_none_or(|old| **old != plan) {
            let plan = Arc::new(plan);
            self.clusters.insert(key.clone(), Arc::clone(&plan));
            outcome.delta.clusters.push((key, Some(plan)));
        }
    }

    fn find_default_backend(&mut self) {
        let mut found = None;
        let (mut reads, mut list) = (Vec::new(), Vec::new());
        if let Some((namespace, name)) = &self.defaults.default_backend {
            let service = object_key(Kind::Service, namespace, name);
            let lookup = Lookup::new(&self.world);
            let mut remarks = Remarks::about(&service);
            match backend::first_port(&service, &lookup) {
                Ok(cluster) => found = Some(cluster),
                Err(problem) => remarks.error(
                    "",
                    problem.code(),
                    "the service named by --default-backend-service does not exist or has no TCP \
                     port, so what nothing else serves answers 404",
                ),
            }
            (reads, list) = (lookup.into_reads(), remarks.into_list());
        }
        self.graph.set(&Node::DefaultBackend, reads);
        self.note(Origin::Node(Node::DefaultBackend), list);
        if let Some(cluster) = &found {
            self.want(cluster);
        }
        if let Some(old) = mem::replace(&mut self.default_backend, found) {
            self.release(&old.key);
        }
    }

    /// A default backend without endpoints answers 404, not 503 (ingress-nginx).
    fn settle_answer(&mut self) {
        let answer = match &self.default_backend {
            Some(cluster) => {
                let plan = self.clusters.get(&cluster.key);
                let alive = plan.is_some_and(|plan| !plan.endpoints.is_empty());
                DefaultAnswer {
                    origin: Some(object_ref(&cluster.service)),
                    action: if alive {
                        forward(cluster)
                    } else {
                        DefaultAnswer::default().action
                    },
                }
            }
            None => DefaultAnswer::default(),
        };
        if self.answer != answer {
            self.answer = answer;
            self.dirty.answer = true;
        }
    }

    fn merge_hosts(&mut self, outcome: &mut Outcome) {
        let mut hosts: Vec<_> = mem::take(&mut self.dirty.hosts).into_iter().collect();
        hosts.sort_unstable();
        for host in hosts {
            outcome.work.hosts += 1;
            let fragments: Vec<&HostFragment> = self
                .by_host
                .get(&host)
                .into_iter()
                .flatten()
                .map(|fragment| &**fragment)
                .collect();
            let (plan, list) = merge(&host, &fragments, &self.answer, &self.defaults);
            self.note(Origin::Host(host.clone()), list);
            self.replace_host(host, plan, &mut outcome.delta);
        }
    }

    fn replace_host(&mut self, host: HostPattern, new: Option<HostPlan>, delta: &mut Delta) {
        let old = self.hosts.get(&host);
        if old.map(|old| &**old) == new.as_ref() {
            return;
        }
        let before = old.and_then(|old| slot_of(old));
        let after = new.as_ref().and_then(slot_of);
        if before != after {
            self.use_certificate(after);
            self.drop_certificate(before);
        }
        let new = new.map(Arc::new);
        match &new {
            Some(plan) => drop(self.hosts.insert(host.clone(), Arc::clone(plan))),
            None => drop(self.hosts.remove(&host)),
        }
        let key = HostKey {
            server: ServerId::SHARED,
            host,
        };
        delta.hosts.push((key, new));
    }

    pub(super) fn use_certificate(&mut self, slot: Option<CertKey>) {
        if let Some(slot) = slot {
            self.dirty.certificates.insert(slot.clone());
            *self.certificate_users.entry(slot).or_default() += 1;
        }
    }

    pub(super) fn drop_certificate(&mut self, slot: Option<CertKey>) {
        let Some(slot) = slot else {
            return;
        };
        if let Some(users) = self.certificate_users.get_mut(&slot) {
            *users -= 1;
            if *users == 0 {
                self.certificate_users.remove(&slot);
                self.dirty.certificates.insert(slot);
            }
        }
    }

    fn find_default_certificate(&mut self, delta: &mut Delta) {
        let mut found = None;
        let (mut reads, mut list): (_, Vec<Diagnostic>) = (Vec::new(), Vec::new());
        if let Some((namespace, name)) = &self.defaults.default_certificate {
            let lookup = Lookup::new(&self.world);
            let mut remarks = Remarks::about(object_key(Kind::Secret, namespace, name));
            let certificate = tls::certificate(namespace, name, &lookup, &mut remarks);
            found = certificate.or_absent(name, |code, _| {
                let (why, remedy) = match code {
                    Code::SecretMissing => ("does not exist", "create it"),
                    _ => (
                        "was not read",
                        "grant the rights that `gatehouse generate rbac` prints, and give it the \
                         type kubernetes.io/tls",
                    ),
                };
                let message = format!(
                    "the Secret named by --default-ssl-certificate {why}, so a self-signed \
                     certificate is the default: {remedy}"
                );
                remarks.error("", code, message);
            });
            (reads, list) = (lookup.into_reads(), remarks.into_list());
        }
        self.graph.set(&Node::DefaultCertificate, reads);
        self.note(Origin::Node(Node::DefaultCertificate), list);
        self.default_serves(found.as_deref());
        let found = found.map(|plan| plan.key.clone());
        let first = !mem::replace(&mut self.default_certificate_sent, true);
        if first || self.default_certificate != found {
            delta.default_certificate = Some(found.clone());
            self.use_certificate(found.clone());
            let old = mem::replace(&mut self.default_certificate, found);
            self.drop_certificate(old);
        }
    }

    fn plan_certificates(&mut self, delta: &mut Delta) {
        for slot in mem::take(&mut self.dirty.certificates) {
            let plan = self
                .certificate_users
                .contains_key(&slot)
                .then(|| self.pair_of(&slot))
                .flatten();
            if self.certificates.get(&slot) == plan.as_ref() {
                continue;
            }
            match &plan {
                Some(plan) => drop(self.certificates.insert(slot.clone(), Arc::clone(plan))),
                None => drop(self.certificates.remove(&slot)),
            }
            delta.certificates.push((slot, plan));
        }
    }

    fn pair_of(&self, slot: &CertKey) -> Option<Arc<CertificatePlan>> {
        let (namespace, name) = slot.0.split_once('/')?;
        let key = object_key(Kind::Secret, &namespace.into(), &name.into());
        self.world.pair(&key)?.usable().cloned()
    }
}

fn slot_of(plan: &HostPlan) -> Option<CertKey> {
    plan.tls.as_ref().and_then(|tls| tls.certificate.clone())
}

fn object_key(kind: Kind, namespace: &Arc<str>, name: &Arc<str>) -> ObjectKey {
    ObjectKey {
        kind,
        namespace: Arc::clone(namespace),
        name: Arc::clone(name),
    }
}
