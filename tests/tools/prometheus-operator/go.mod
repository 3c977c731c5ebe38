// The definitions of ServiceMonitor, PodMonitor and PrometheusRule that the tests of the chart give to the API server. Nothing of it is
// built.
module gatehouse.dev/tests/tools/prometheus-operator

go 1.25.0

require github.com/prometheus-operator/prometheus-operator v0.76.0
