{{- /* Combinations that the schema cannot refuse. Each is answered with what is wrong and what to do. */}}
{{- define "gatehouse.checks" }}
{{- $fullname := include "gatehouse.fullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $fullname) }}
{{- fail (printf "%s would be the name of a Service, which begins with a letter and has letters, digits and inner '-' only. Set fullnameOverride, or choose another name for the release." $fullname) }}
{{- end }}
{{- $metrics := .Values.metrics }}
{{- $labels := dict "commonLabels" .Values.commonLabels "pod.labels" .Values.pod.labels "metrics.serviceMonitor.labels" $metrics.serviceMonitor.labels "metrics.podMonitor.labels" $metrics.podMonitor.labels "metrics.prometheusRule.labels" $metrics.prometheusRule.labels "metrics.dashboard.labels" $metrics.dashboard.labels }}
{{- range $section, $given := $labels }}
{{- range list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" }}
{{- if hasKey (default dict $given) . }}
{{- fail (printf "%s has %s, which the chart sets itself: by these labels Services find the pods of a release. Leave it out." $section .) }}
{{- end }}
{{- end }}
{{- end }}
{{- $needed := add .Values.drain.delaySeconds .Values.drain.timeoutSeconds 5 | int }}
{{- if lt (int .Values.terminationGracePeriodSeconds) $needed }}
{{- fail (printf "terminationGracePeriodSeconds is %d, but draining takes up to %d seconds (drain.delaySeconds + drain.timeoutSeconds + 5): the kubelet would kill requests that are still running. Set terminationGracePeriodSeconds to %d or more, or drain for less time." (int .Values.terminationGracePeriodSeconds) $needed $needed) }}
{{- end }}
{{- $type := include "gatehouse.serviceType" . }}
{{- if or (not .Values.service.enabled) (eq $type "ClusterIP") }}
{{- if or .Values.service.nodePorts.http .Values.service.nodePorts.https .Values.service.externalTrafficPolicy }}
{{- fail "service.nodePorts and service.externalTrafficPolicy have no effect on a Service that is not reached from outside. Set service.type to NodePort or LoadBalancer, or leave them out." }}
{{- end }}
{{- end }}
{{- if ne $type "LoadBalancer" }}
{{- if or .Values.service.loadBalancerClass .Values.service.loadBalancerSourceRanges }}
{{- fail "service.loadBalancerClass and service.loadBalancerSourceRanges have no effect without service.type LoadBalancer. Set it, or leave them out." }}
{{- end }}
{{- end }}
{{- $ports := list (int .Values.listen.http) (int .Values.listen.https) (int .Values.listen.admin) }}
{{- if ne (len (uniq $ports)) 3 }}
{{- fail "listen.http, listen.https and listen.admin must be three different ports." }}
{{- end }}
{{- if eq .Values.mode "daemonset" }}
{{- with .Values.daemonset }}
{{- if and .hostPorts.enabled (eq (int .hostPorts.http) (int .hostPorts.https)) }}
{{- fail "daemonset.hostPorts.http and daemonset.hostPorts.https must be two different ports." }}
{{- end }}
{{- if and .hostNetwork $.Values.networkPolicy.enabled }}
{{- fail "networkPolicy.enabled has no effect on pods with daemonset.hostNetwork, so it would keep nobody from the admin port. Use daemonset.hostPorts instead of the network of the node, or leave the NetworkPolicy out: without listen.adminAddress the admin port is for the node only." }}
{{- end }}
{{- end }}
{{- if eq (toString .Values.daemonset.maxUnavailable) "0" "0%" }}
{{- fail "daemonset.maxUnavailable is 0, so no update could ever be rolled out. Set it to 1." }}
{{- end }}
{{- if not (or .Values.service.enabled (include "gatehouse.hostPorts" .) (include "gatehouse.hostNetwork" .)) }}
{{- fail "nobody could reach the gateway. Enable service, daemonset.hostPorts or daemonset.hostNetwork." }}
{{- end }}
{{- else }}
{{- if not .Values.service.enabled }}
{{- fail "nobody could reach a deployment without a Service. Set service.enabled to true." }}
{{- end }}
{{- with .Values.deployment }}
{{- if and (eq (toString .maxSurge) "0" "0%") (eq (toString .maxUnavailable) "0" "0%") }}
{{- fail "deployment.maxSurge and deployment.maxUnavailable are both 0, so no update could ever be rolled out. Set one of them to 1." }}
{{- end }}
{{- if and .podDisruptionBudget.enabled (eq (toString .podDisruptionBudget.maxUnavailable) "0" "0%") }}
{{- fail "deployment.podDisruptionBudget.maxUnavailable is 0, so no node with a pod could ever be drained. Set it to 1, or enabled to false." }}
{{- end }}
{{- with .autoscaling }}
{{- $autoscaling := . }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail "deployment.autoscaling.minReplicas is greater than maxReplicas." }}
{{- end }}
{{- if and .enabled (not (or .targetCPU .targetMemory)) }}
{{- fail "deployment.autoscaling has nothing to look at. Set targetCPU or targetMemory." }}
{{- end }}
{{- $resources := default dict $.Values.pod.resources }}
{{- range $target, $resource := dict "targetCPU" "cpu" "targetMemory" "memory" }}
{{- /* Without a request, the API server takes the limit for one. */}}
{{- $asked := or (get (default dict $resources.requests) $resource) (get (default dict $resources.limits) $resource) }}
{{- if and $autoscaling.enabled (get $autoscaling $target) (not $asked) }}
{{- fail (printf "deployment.autoscaling.%s is a part of pod.resources.requests.%s, which is not set, so the autoscaler could never act. Set it, or %s to 0." $target $resource $target) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if not .Values.leaderElection.enabled }}
{{- with .Values.deployment }}
{{- $replicas := ternary .autoscaling.maxReplicas .replicas .autoscaling.enabled | int }}
{{- if or (eq $.Values.mode "daemonset") (gt $replicas 1) }}
{{- fail "without leaderElection.enabled every replica writes the status of Ingresses and Events. Enable it, or run a deployment with deployment.replicas 1." }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.watchNamespaces .Values.status.enabled (not .Values.status.addresses) (not (include "gatehouse.publishService" .)) }}
{{- fail "with watchNamespaces nodes are not read, so status.enabled needs to be told what to write. Set status.addresses or status.publishService, or status.enabled to false." }}
{{- end }}
{{- range $section, $names := dict "proxyProtocol" (list "use-proxy-protocol" "proxy-protocol-cidr") "forwardedHeaders" (list "use-forwarded-headers" "proxy-real-ip-cidr") }}
{{- with get $.Values $section }}{{ if .enabled }}
{{- if not .trustedCIDRs }}
{{- fail (printf "%s.enabled without %s.trustedCIDRs would believe nobody. List the networks of the balancers in front." $section $section) }}
{{- end }}
{{- range $name := $names }}
{{- if hasKey $.Values.settings $name }}
{{- fail (printf "settings.%s is what the section %s stands for. Leave one of them out." $name $section) }}
{{- end }}
{{- end }}
{{- end }}{{ end }}
{{- end }}
{{- if and .Values.defaultBackendService .Values.watchNamespaces }}
{{- $namespace := first (splitList "/" .Values.defaultBackendService) }}
{{- if not (has $namespace .Values.watchNamespaces) }}
{{- fail (printf "defaultBackendService is in the namespace %s, which is not one of watchNamespaces, so it could not be read. Add the namespace, or choose a Service of another one." $namespace) }}
{{- end }}
{{- end }}
{{- with .Values.certificates }}
{{- if and .issuers (not $.Values.leaderElection.enabled) }}
{{- fail "certificates.issuers needs leaderElection.enabled: only one replica may order. Enable it, or leave the issuers out." }}
{{- end }}
{{- if and .defaultIssuer (not (hasKey (default dict .issuers) .defaultIssuer)) }}
{{- fail (printf "certificates.defaultIssuer is %s, which is not one of certificates.issuers." .defaultIssuer) }}
{{- end }}
{{- $certificates := . }}
{{- range $name, $issuer := .issuers }}
{{- $at := printf "certificates.issuers.%s" $name }}
{{- if not $issuer.acceptTerms }}
{{- fail (printf "%s.acceptTerms: read the authority's terms of service and write true." $at) }}
{{- end }}
{{- range $issuer.fallback }}
{{- if or (eq . $name) (not (hasKey $certificates.issuers .)) }}
{{- fail (printf "%s.fallback has %s, which is not another one of certificates.issuers." $at .) }}
{{- end }}
{{- end }}
{{- $secrets := list (dig "caBundle" "" $issuer) (dig "eab" "secret" "" $issuer) }}
{{- range $issuer.dns }}
{{- $secrets = append $secrets (dig "secret" "" .) }}
{{- if eq .provider "exec" }}
{{- fail (printf "%s.dns: provider exec runs a program, which the image does not have. Use another provider, such as httpreq." $at) }}
{{- end }}
{{- end }}
{{- range compact $secrets }}
{{- if not (has . $certificates.secrets) }}
{{- fail (printf "%s names the Secret %s, which is not one of certificates.secrets, so no pod could read it. List it there." $at .) }}
{{- end }}
{{- end }}
{{- range $issuer.allow }}
{{- if and $.Values.watchNamespaces (dig "namespaces" "matchLabels" "" .) }}
{{- fail (printf "%s.allow: labels of namespaces are not read with watchNamespaces. Write names instead of matchLabels." $at) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $.Values.watchNamespaces .issuers }}
{{- range .writeNamespaces }}
{{- if not (has . $.Values.watchNamespaces) }}
{{- fail (printf "certificates.writeNamespaces has the namespace %s, which is not one of watchNamespaces: nothing there asks for a certificate. Leave it out, or add it to watchNamespaces." .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if include "gatehouse.adminInside" . }}
{{- if not (include "gatehouse.hostNetwork" .) }}
{{- fail (printf "the admin port would listen on %s of the pod, where the probes of the kubelet do not come. Leave listen.adminAddress out; networkPolicy.enabled keeps others from the port." (include "gatehouse.adminAddress" .)) }}
{{- end }}
{{- range list "serviceMonitor" "podMonitor" }}
{{- if (get $.Values.metrics .).enabled }}
{{- fail (printf "metrics.%s finds nothing: with daemonset.hostNetwork the admin port listens on %s, where Prometheus does not come. Set listen.adminAddress to 0.0.0.0, which opens the admin port to whoever reaches the node, or leave the monitor out." . (include "gatehouse.adminAddress" $)) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.adminFrom) }}
{{- range list "serviceMonitor" "podMonitor" }}
{{- if (get $.Values.metrics .).enabled }}
{{- fail (printf "networkPolicy.enabled without networkPolicy.adminFrom keeps Prometheus from the admin port, so metrics.%s would find nothing. Name Prometheus in networkPolicy.adminFrom, or leave one of them out." .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled }}
{{- fail "metrics.serviceMonitor and metrics.podMonitor would both have every pod scraped. Enable one of them." }}
{{- end }}
{{- end }}
