{{- define "gatehouse.args" -}}
- run
- --http-listen={{ include "gatehouse.socket" (list .Values.listen.address .Values.listen.http) }}
- --https-listen={{ include "gatehouse.socket" (list .Values.listen.address .Values.listen.https) }}
- --admin-listen={{ include "gatehouse.socket" (list (include "gatehouse.adminAddress" .) .Values.listen.admin) }}
- --configmap={{ .Release.Namespace }}/{{ include "gatehouse.fullname" . }}
- --ingress-class={{ .Values.ingressClass.name }}
- --controller-class={{ include "gatehouse.controller" . }}
{{- if .Values.ingressClass.byName }}
- --ingress-class-by-name
{{- end }}
{{- if .Values.ingressClass.withoutClass }}
- --watch-ingress-without-class
{{- end }}
{{- range .Values.watchNamespaces }}
- --watch-namespace={{ . }}
{{- end }}
{{- with .Values.ingressSelector }}
- --watch-ingress-selector={{ . }}
{{- end }}
- --host-ownership={{ .Values.hostOwnership }}
{{- with .Values.defaultBackendService }}
- --default-backend-service={{ . }}
{{- end }}
{{- with .Values.defaultCertificate }}
- --default-ssl-certificate={{ . }}
{{- end }}
{{- if .Values.disableCatchAll }}
- --disable-catch-all
{{- end }}
{{- if .Values.leaderElection.enabled }}
- --election-id={{ include "gatehouse.lease" . }}
{{- else }}
- --leader-election=false
{{- end }}
{{- if .Values.status.enabled }}
{{- with include "gatehouse.publishService" . }}
- --publish-service={{ . }}
{{- end }}
{{- range .Values.status.addresses }}
- --publish-status-address={{ . }}
{{- end }}
{{- if .Values.status.nodeInternalIP }}
- --report-node-internal-ip-address
{{- end }}
{{- if .Values.status.clearOnShutdown }}
- --update-status-on-shutdown
{{- end }}
{{- else }}
- --update-status=false
{{- end }}
{{- with .Values.certificates }}
{{- if .issuers }}
- --acme=/etc/gatehouse/issuers/issuers.yaml
- --acme-secrets=/etc/gatehouse/secrets
- --acme-keep-unwanted={{ default "72h" .keepUnwanted }}
{{- with include "gatehouse.replicas" $ }}
- --acme-replicas-service={{ . }}
{{- end }}
{{- if .trackTlsAcme }}
- --acme-track-tls-acme
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.workers }}
- --workers={{ . }}
{{- end }}
- --log-format={{ .Values.log.format }}
- --log-level={{ .Values.log.level }}
- --access-log={{ .Values.log.access }}
- --drain-delay={{ .Values.drain.delaySeconds }}s
- --drain-timeout={{ .Values.drain.timeoutSeconds }}s
{{- end }}

{{- define "gatehouse.pod" -}}
{{- $certificates := default dict .Values.certificates -}}
metadata:
  {{- with .Values.pod.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  labels:
    {{- include "gatehouse.selectorLabels" . | nindent 4 }}
    {{- with merge dict (default dict .Values.pod.labels) (default dict .Values.commonLabels) }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "gatehouse.serviceAccountName" . | quote }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  {{- with .Values.pod.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- if include "gatehouse.hostNetwork" . }}
  hostNetwork: true
  {{- end }}
  {{- with .Values.pod.dnsPolicy | default (ternary "ClusterFirstWithHostNet" "" (include "gatehouse.hostNetwork" . | eq "true")) }}
  dnsPolicy: {{ . | quote }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: gatehouse
      image: {{ include "gatehouse.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
      args:
        {{- range splitList "\n" (include "gatehouse.args" .) }}
        - {{ trimPrefix "- " . | quote }}
        {{- end }}
      env:
        - name: POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: POD_NAMESPACE
          valueFrom:
            fieldRef:
              fieldPath: metadata.namespace
      ports:
        - name: http
          containerPort: {{ .Values.listen.http }}
          {{- if include "gatehouse.hostPorts" . }}
          hostPort: {{ .Values.daemonset.hostPorts.http }}
          {{- end }}
        - name: https
          containerPort: {{ .Values.listen.https }}
          {{- if include "gatehouse.hostPorts" . }}
          hostPort: {{ .Values.daemonset.hostPorts.https }}
          {{- end }}
        - name: admin
          containerPort: {{ .Values.listen.admin }}
      # From the first snapshot that every worker serves until SIGTERM.
      readinessProbe:
        httpGet:
          path: /readyz
          port: admin
          {{- if include "gatehouse.adminInside" . }}
          host: {{ include "gatehouse.adminAddress" . | quote }}
          {{- end }}
        periodSeconds: 2
        timeoutSeconds: 3
        failureThreshold: 3
      # Fails for what only a restart can mend.
      livenessProbe:
        httpGet:
          path: /healthz
          port: admin
          {{- if include "gatehouse.adminInside" . }}
          host: {{ include "gatehouse.adminAddress" . | quote }}
          {{- end }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      {{- if $certificates.issuers }}
      volumeMounts:
        - name: issuers
          mountPath: /etc/gatehouse/issuers
          readOnly: true
        {{- range $certificates.secrets }}
        - name: {{ printf "issuer-%s" (sha256sum . | trunc 8) }}
          mountPath: {{ printf "/etc/gatehouse/secrets/%s" . | quote }}
          readOnly: true
        {{- end }}
      {{- end }}
      {{- with .Values.pod.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- if $certificates.issuers }}
  volumes:
    - name: issuers
      configMap:
        name: {{ printf "%s-issuers" (include "gatehouse.fullname" .) | quote }}
    {{- range $certificates.secrets }}
    - name: {{ printf "issuer-%s" (sha256sum . | trunc 8) }}
      secret:
        secretName: {{ . | quote }}
    {{- end }}
  {{- end }}
  {{- with .Values.pod.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.pod.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.pod.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if and .Values.deployment.topologySpreadConstraints (eq .Values.mode "deployment") }}
  topologySpreadConstraints:
    {{- range .Values.deployment.topologySpreadConstraints }}
    - {{ toYaml . | nindent 6 | trim }}
      {{- if not .labelSelector }}
      labelSelector:
        matchLabels:
          {{- include "gatehouse.selectorLabels" $ | nindent 10 }}
      {{- if not .matchLabelKeys }}
      matchLabelKeys: [pod-template-hash]
      {{- end }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}
