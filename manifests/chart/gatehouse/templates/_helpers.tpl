{{- define "gatehouse.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* Ends of up to 8 characters are appended to it. */}}
{{- define "gatehouse.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" }}
{{- else }}
{{- $name := include "gatehouse.name" . }}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 54 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "gatehouse.serviceAccountName" -}}
{{- default (include "gatehouse.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "gatehouse.lease" -}}
{{- default (printf "%s-leader" (include "gatehouse.fullname" .)) .Values.leaderElection.id }}
{{- end }}

{{- define "gatehouse.selectorLabels" -}}
app.kubernetes.io/name: {{ include "gatehouse.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Labels of a section beside those of every object, which one key must not give twice: those of the section win. */}}
{{- define "gatehouse.labelsWith" -}}
{{- $root := first . }}
{{- $labels := merge dict (default dict (last .)) (default dict $root.Values.commonLabels) }}
{{- include "gatehouse.ownLabels" $root }}
{{- with $labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "gatehouse.labels" -}}
{{- include "gatehouse.labelsWith" (list . dict) }}
{{- end }}

{{- define "gatehouse.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "gatehouse.selectorLabels" . }}
{{- end }}

{{- define "gatehouse.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{- define "gatehouse.serviceType" -}}
{{- default (ternary "NodePort" "ClusterIP" (eq .Values.mode "deployment")) .Values.service.type }}
{{- end }}

{{- /* Whoever has one class does not serve the Ingresses of another one, so each name has a controller of its own. */}}
{{- define "gatehouse.controller" -}}
{{- with .Values.ingressClass }}
{{- default (ternary "gatehouse.dev/ingress-controller" (printf "gatehouse.dev/ingress-controller-%s" .name) (eq .name "gatehouse")) .controller }}
{{- end }}
{{- end }}

{{- define "gatehouse.hostNetwork" -}}
{{- if and (eq .Values.mode "daemonset") .Values.daemonset.hostNetwork }}true{{ end }}
{{- end }}

{{- define "gatehouse.hostPorts" -}}
{{- if and (eq .Values.mode "daemonset") .Values.daemonset.hostPorts.enabled (not .Values.daemonset.hostNetwork) }}true{{ end }}
{{- end }}

{{- /* On the network of the node, every address of the pod is one of the node. */}}
{{- define "gatehouse.adminAddress" -}}
{{- default (ternary "127.0.0.1" .Values.listen.address (include "gatehouse.hostNetwork" . | eq "true")) .Values.listen.adminAddress }}
{{- end }}

{{- /* Whether the admin port is for processes of the same network only. */}}
{{- define "gatehouse.adminInside" -}}
{{- if has (include "gatehouse.adminAddress" .) (list "127.0.0.1" "::1") }}true{{ end }}
{{- end }}

{{- /* An address and a port, as flags want them. */}}
{{- define "gatehouse.socket" -}}
{{- $address := first . }}
{{- printf "%s:%v" (ternary (printf "[%s]" $address) $address (contains ":" $address)) (last .) }}
{{- end }}

{{- /* NAMESPACE/NAME of the Service whose addresses are written into the status. */}}
{{- define "gatehouse.publishService" -}}
{{- if .Values.status.publishService }}
{{- .Values.status.publishService }}
{{- else if and .Values.service.enabled (eq (include "gatehouse.serviceType" .) "LoadBalancer") (not .Values.status.addresses) }}
{{- .Release.Namespace }}/{{ include "gatehouse.fullname" . }}
{{- end }}
{{- end }}

{{- /* The file of issuers; empty without any. A release that was installed before there was the section `certificates`, and is upgraded with
--reuse-values, has none. */}}
{{- define "gatehouse.issuers" -}}
{{- with .Values.certificates }}{{ if .issuers }}
{{- $acme := dict "issuers" .issuers "unlisted" (default "deny" .unlisted) }}
{{- with .defaultIssuer }}{{ $_ := set $acme "default" . }}{{ end }}
{{- toYaml (dict "acme" $acme) }}
{{- end }}{{ end }}
{{- end }}

{{- /* NAMESPACE/NAME of the Service whose endpoints are the replicas. */}}
{{- define "gatehouse.replicas" -}}
{{- if and .Values.service.enabled (or (not .Values.watchNamespaces) (has .Release.Namespace .Values.watchNamespaces)) }}
{{- .Release.Namespace }}/{{ include "gatehouse.fullname" . }}
{{- end }}
{{- end }}

{{- /* Settings of the ConfigMap: those of the values, and those that sections of the values stand for. */}}
{{- define "gatehouse.settings" -}}
{{- $settings := dict }}
{{- range $name, $value := .Values.settings }}
{{- /* Numbers of YAML are floating point here, and a million would be 1e+06. */}}
{{- $number := kindIs "float64" $value }}
{{- if and $number (or (ne $value (floor $value)) (gt (float64 $value) 9007199254740991.0)) }}
{{- fail (printf "settings.%s is %v, which is no whole number that could be kept as it is. Put it in quotes." $name $value) }}
{{- end }}
{{- $_ := set $settings $name (ternary (printf "%.0f" $value) (toString $value) $number) }}
{{- end }}
{{- with .Values.proxyProtocol }}{{ if .enabled }}
{{- $_ := set $settings "use-proxy-protocol" "true" }}
{{- $_ := set $settings "proxy-protocol-cidr" (join "," .trustedCIDRs) }}
{{- end }}{{ end }}
{{- with .Values.forwardedHeaders }}{{ if .enabled }}
{{- $_ := set $settings "use-forwarded-headers" "true" }}
{{- $_ := set $settings "proxy-real-ip-cidr" (join "," .trustedCIDRs) }}
{{- end }}{{ end }}
{{- toYaml $settings }}
{{- end }}
