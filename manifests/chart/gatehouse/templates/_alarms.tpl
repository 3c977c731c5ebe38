{{- /* Every alarm says what is wrong, what it means for requests and where to look. It looks at this release only, and
says which one that is: two that are alike in every label are one to Alertmanager. */}}
{{- define "gatehouse.alarms" -}}
{{- $job := default .Release.Name .Values.metrics.prometheusRule.job -}}
{{- $of := printf "namespace=%q, job=%q" .Release.Namespace $job -}}
{{- $own := printf "namespace: %q, job: %q" .Release.Namespace $job -}}
- alert: GatehouseAbsent
  expr: absent(gatehouse_generation{ {{- $of -}} })
  for: 5m
  labels: {severity: critical, {{ $own }}}
  annotations:
    summary: No replica of Gatehouse is scraped
    description: Either none runs, or Prometheus does not reach the admin port.
- alert: GatehouseApiServerSilent
  expr: max by (pod, kind) (gatehouse_source_last_contact_seconds{ {{- $of -}} }) > 300
  for: 5m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'{{ $labels.pod }} has not heard from the API server about {{ $labels.kind }} for 5 minutes'` }}
    description: What was published keeps serving; changes do not arrive. Look at the API server and at /api/convergence.
- alert: GatehouseSourceTrouble
  expr: max by (pod, kind) (gatehouse_source_trouble{ {{- $of -}} }) > 0
  for: 15m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'{{ $labels.pod }} cannot follow {{ $labels.kind }}'` }}
    description: Most often rights are missing. /readyz and the log say which; compare with `gatehouse generate rbac`.
- alert: GatehouseApiRefused
  expr: max by (pod, resource) (gatehouse_api_refused{ {{- $of -}} }) > 0
  for: 15m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'The API server refuses what {{ $labels.pod }} asks of {{ $labels.resource }}'` }}
    description: Requests are served; the status of Ingresses, Events or the leader may be missing. /api/diagnostics (RequestForbidden) says verb, reason and remedy.
- alert: GatehouseFindings
  # A certificate that has ended has an alarm of its own.
  expr: max by (code) (gatehouse_findings{ {{- $of -}} , severity="error", code!="CertificateExpired"}) > 0
  for: 15m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'Something of the configuration is not served: {{ $labels.code }}'` }}
    description: /api/diagnostics says which objects, and what to do; so do the Events of Ingresses.
- alert: GatehouseReplicasDiffer
  expr: count(count_values("digest", gatehouse_digest{ {{- $of -}} })) > 1
  for: 10m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: The replicas of Gatehouse do not serve the same
    description: One of them has not received the latest changes. Compare /api/convergence of the pods.
- alert: GatehouseNoLeader
  expr: sum(gatehouse_leader{ {{- $of -}} }) == 0
  for: 10m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: No replica of Gatehouse leads
    description: Requests are served; the status of Ingresses and Events are not written. Look at the Lease and the rights to it.
- alert: GatehouseCertificateEnds
  # The gateway knows how long each one lives: it tells two weeks ahead, and of a short life in its last sixth.
  expr: max(gatehouse_findings{ {{- $of -}} , code="CertificateExpiresSoon"}) > 0
  for: 1h
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'{{ $value }} certificates of Gatehouse end soon'` }}
    description: /api/diagnostics (CertificateExpiresSoon) says which. Renew the Secret; the new certificate is served without a restart.
- alert: GatehouseCertificateEndsInADay
  # Of one that lives for days only, not before it is told.
  expr: min by (certificate) (gatehouse_certificate_not_after_seconds{ {{- $of -}} }) - time() < 86400 and on() max(gatehouse_findings{ {{- $of -}} , code="CertificateExpiresSoon"}) > 0
  labels: {severity: critical, {{ $own }}}
  annotations:
    summary: {{ `'The certificate {{ $labels.certificate }} ends within a day'` }}
    description: Clients will refuse to connect then.
- alert: GatehouseCertificateEnded
  expr: max(gatehouse_findings{ {{- $of -}} , code="CertificateExpired"}) > 0
  labels: {severity: critical, {{ $own }}}
  annotations:
    summary: {{ `'{{ $value }} certificates of Gatehouse have ended'` }}
    description: Clients refuse to connect. /api/diagnostics (CertificateExpired) says which.
- alert: GatehouseCertificateNotRenewed
  # A day late, or six hours if it lives less than ten days.
  expr: (time() - max by (certificate) (gatehouse_certificate_renew_at_seconds{ {{- $of -}} })) > (21600 + 64800 * (max by (certificate) (gatehouse_certificate_not_after_seconds{ {{- $of -}} }) - max by (certificate) (gatehouse_certificate_not_before_seconds{ {{- $of -}} }) > bool 864000)) and max by (certificate) (gatehouse_certificate_wanted{ {{- $of -}} }) == 1
  for: 10m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'The certificate {{ $labels.certificate }} should have been renewed by now'` }}
    description: {{ `'It is served as long as it is good. Run gatehouse cert show {{ $labels.certificate }} in a pod of Gatehouse: it says what stands in the way and when it is tried again.'` }}
- alert: GatehouseCertificateNearlyOver
  expr: (min by (certificate) (gatehouse_certificate_not_after_seconds{ {{- $of -}} }) - time()) < 0.2 * (min by (certificate) (gatehouse_certificate_not_after_seconds{ {{- $of -}} }) - max by (certificate) (gatehouse_certificate_not_before_seconds{ {{- $of -}} }))
  for: 1h
  labels: {severity: critical, {{ $own }}}
  annotations:
    summary: {{ `'Less than a fifth of the life of the certificate {{ $labels.certificate }} is left'` }}
    description: {{ `'It should have been renewed long before. Run gatehouse cert show {{ $labels.certificate }} in a pod of Gatehouse.'` }}
- alert: GatehouseCertificateBlocked
  expr: max by (certificate) (gatehouse_certificate_waiting{ {{- $of -}} , class="blocked"}) > 0
  for: 1h
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'The certificate {{ $labels.certificate }} waits for a person'` }}
    description: {{ `'The authority will not issue it before something changes: a name, the account, or a link that somebody follows. Run gatehouse cert show {{ $labels.certificate }} in a pod of Gatehouse.'` }}
- alert: GatehouseCertificateLimited
  expr: max by (issuer, scope) (gatehouse_acme_limited_until_seconds{ {{- $of -}} }) > time()
  for: 10m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'A rate limit of the authority of issuer {{ $labels.issuer }} holds'` }}
    description: Nothing more is ordered of what it concerns until it is over, and nobody has to do anything. Look for what orders too often.
- alert: GatehouseAuthorityAway
  expr: max by (ca) (gatehouse_acme_ca_up{ {{- $of -}} }) == 0
  for: 6h
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'The certificate authority at {{ $labels.ca }} has not answered well for 6 hours'` }}
    description: What is there keeps serving. Look whether it can be reached from the pods, and at what it publishes about its state.
- alert: GatehouseCertificatesDiffer
  expr: count by (certificate) (count by (certificate, serial) (gatehouse_certificate_serial_info{ {{- $of -}} })) > 1
  for: 5m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'The replicas of Gatehouse have different certificates {{ $labels.certificate }}'` }}
    description: One of them has not received the latest. Compare gatehouse cert list in the pods.
- alert: GatehouseClockWrong
  expr: max by (ca) (abs(gatehouse_acme_clock_skew_seconds{ {{- $of -}} })) > 3600
  for: 15m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'The clocks of Gatehouse and of the authority at {{ $labels.ca }} differ by more than an hour'` }}
    description: Nothing is ordered until they agree. Look at the time of the nodes.
- alert: GatehousePanics
  expr: increase(gatehouse_panics_total{ {{- $of -}} }[15m]) > 0
  labels: {severity: critical, {{ $own }}}
  annotations:
    summary: {{ `'Requests failed in {{ $labels.pod }} by a defect of Gatehouse'` }}
    description: Only those requests failed. The log has the details; please report them.
- alert: GatehouseConnectionsRefused
  expr: rate(gatehouse_connections_refused_total{ {{- $of -}} }[5m]) > 0
  for: 5m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'{{ $labels.pod }} refuses connections because a limit is reached'` }}
    description: See the settings max-connections and max-connections-per-client; behind a balancer, every client has its address.
- alert: GatehouseAcceptErrors
  expr: rate(gatehouse_accept_errors_total{ {{- $of -}} }[5m]) > 0
  for: 5m
  labels: {severity: critical, {{ $own }}}
  annotations:
    summary: {{ `'{{ $labels.pod }} cannot accept connections'` }}
    description: Most often the limit of open files is reached.
- alert: GatehouseServerErrors
  expr: sum by (exported_namespace, ingress) (rate(gatehouse_requests_total{ {{- $of -}} , code="5xx"}[5m])) / sum by (exported_namespace, ingress) (rate(gatehouse_requests_total{ {{- $of -}} }[5m])) > 0.05
  for: 5m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'More than 5 % of the requests of the Ingress {{ $labels.exported_namespace }}/{{ $labels.ingress }} fail'` }}
    description: gatehouse_local_answers_total tells by reason what Gatehouse answered itself; the rest are answers of the backend.
- alert: GatehouseUnreachableEndpoints
  expr: sum by (pod) (rate(gatehouse_upstream_connect_failures_total{ {{- $of -}} }[5m])) / sum by (pod) (rate(gatehouse_upstream_connects_total{ {{- $of -}} }[5m])) > 0.2
  for: 5m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'{{ $labels.pod }} cannot connect to many endpoints'` }}
    description: A network policy, or backends that are ready before they listen.
- alert: GatehouseAccessLogDropped
  expr: rate(gatehouse_access_log_dropped_total{ {{- $of -}} }[5m]) > 0
  for: 15m
  labels: {severity: warning, {{ $own }}}
  annotations:
    summary: {{ `'{{ $labels.pod }} drops lines of the access log'` }}
    description: Whoever reads its standard output is too slow, or it cannot be written. Requests are not held up.
{{- end }}
