//! How many findings stand, for the metrics.
//!
//! Invariant: labels are severities and codes, of which there is a closed list.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use gatehouse_gateway::metrics::Labelled;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;

use crate::engine::Report;

/// Counts what the reports complain about, whenever it is asked.
#[derive(Debug)]
pub struct Findings(pub watch::Receiver<Arc<Report>>);

impl Collector for Findings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let diagnostics = Arc::clone(&self.0.borrow().diagnostics);
        let mut counts = BTreeMap::<_, i64>::new();
        for diagnostic in diagnostics.iter() {
            let kind = (diagnostic.severity.as_str(), diagnostic.code.as_str());
            *counts.entry(kind).or_default() += 1;
        }
        let mut family = FINDINGS.describe(&mut encoder)?;
        for ((severity, code), count) in counts {
            let labels = [("severity", severity), ("code", code)];
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// What is shown by the metrics.
pub const METRICS: [&Labelled; 1] = [&FINDINGS];

const FINDINGS: Labelled = Labelled {
    name: "gatehouse_findings",
    kind: MetricType::Gauge,
    labels: &["severity", "code"],
    help: "Findings that stand, as /api/diagnostics lists them, by severity and code",
};

#[cfg(test)]
mod tests {
    use gatehouse_gateway::metrics::Metrics;

    use super::*;
    use crate::diagnostics::{Code, Diagnostic, Severity};
    use crate::engine::Engine;

    #[test]
    fn findings_are_counted_by_severity_and_code() {
        let mut report = Engine::new(Arc::default(), Arc::default()).report();
        let of = |name: &str, severity| {
            let object = format!("Ingress/shop/{name}").into();
            Diagnostic::new(severity, &object, "spec", Code::EndpointsMissing, "none")
        };
        report.diagnostics = Arc::new([
            of("a", Severity::Warning),
            of("b", Severity::Warning),
            of("c", Severity::Error),
        ]);
        let (_sender, reports) = watch::channel(Arc::new(report));
        let metrics = Metrics::new();
        metrics.register(Box::new(Findings(reports)));
        let text = metrics.render().unwrap();
        for line in [
            "gatehouse_findings{severity=\"warning\",code=\"EndpointsMissing\"} 2\n",
            "gatehouse_findings{severity=\"error\",code=\"EndpointsMissing\"} 1\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
