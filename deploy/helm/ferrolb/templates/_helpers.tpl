{{- define "ferrolb.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "ferrolb.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What pods are selected by. The name of the release is not in it, so that a release can adopt what kubectl has installed. */ -}}
{{- define "ferrolb.selector" -}}
app.kubernetes.io/name: {{ include "ferrolb.name" .root }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "ferrolb.labels" -}}
{{ include "ferrolb.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "ferrolb.serviceAccount" -}}
{{- $account := (index .root.Values .component).serviceAccount -}}
{{- if $account.create -}}
{{- default (printf "%s-%s" (include "ferrolb.fullname" .root) .component) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{- define "ferrolb.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{- /* Flags of both programs. */ -}}
{{- define "ferrolb.args" -}}
- --log-format=json
{{- $values := index .root.Values .component }}
{{- if ne $values.logLevel "info" }}
- --log-level={{ $values.logLevel }}
{{- end }}
{{- with .root.Values.loadBalancerClass }}
- --load-balancer-class={{ . }}
{{- end }}
{{- if ne (int .root.Values.prometheus.metricsPort) 7472 }}
- --admin-addr=[::]:{{ .root.Values.prometheus.metricsPort }}
{{- end }}
{{- end -}}

{{- define "ferrolb.probes" -}}
{{- $values := index .root.Values .component }}
{{- $probes := dict }}
{{- /* Speakers list no ports. */}}
{{- $port := ternary (int .root.Values.prometheus.metricsPort) "admin" (eq .component "speaker") }}
{{- range $name, $path := dict "livenessProbe" "/healthz" "readinessProbe" "/readyz" }}
{{- $probe := index $values $name }}
{{- if $probe.enabled }}
{{- $_ := set $probes $name (omit $probe "enabled" | merge (dict "httpGet" (dict "path" $path "port" $port))) }}
{{- end }}
{{- end }}
{{- with $probes -}}
{{ toYaml . }}
{{- end -}}
{{- end -}}

{{- /* Only a rolling update has settings, and the defaults are there whatever the type is. */ -}}
{{- define "ferrolb.strategy" -}}
{{- if eq (default "RollingUpdate" .type) "RollingUpdate" -}}
{{ toYaml . }}
{{- else -}}
type: {{ .type }}
{{- end -}}
{{- end -}}

{{- /* Annotations of pods. */ -}}
{{- define "ferrolb.podAnnotations" -}}
{{- $annotations := deepCopy (index .root.Values .component).podAnnotations }}
{{- if .root.Values.prometheus.scrapeAnnotations }}
{{- $annotations = mergeOverwrite (dict "prometheus.io/scrape" "true" "prometheus.io/path" "/metrics" "prometheus.io/port" (toString .root.Values.prometheus.metricsPort)) $annotations }}
{{- end }}
{{- with $annotations -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- /* What the pods of both programs have alike. */ -}}
{{- define "ferrolb.pod" -}}
{{- $values := index .root.Values .component -}}
serviceAccountName: {{ include "ferrolb.serviceAccount" . }}
enableServiceLinks: false
terminationGracePeriodSeconds: 10
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
nodeSelector:
  {{- merge (dict "kubernetes.io/os" "linux") $values.nodeSelector | toYaml | nindent 2 }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
