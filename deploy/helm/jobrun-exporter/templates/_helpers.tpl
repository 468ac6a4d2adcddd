{{- define "jobrun-exporter.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "jobrun-exporter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "jobrun-exporter.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "jobrun-exporter.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "jobrun-exporter.selector" -}}
app.kubernetes.io/name: {{ include "jobrun-exporter.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "jobrun-exporter.labels" -}}
{{ include "jobrun-exporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- end -}}

{{- define "jobrun-exporter.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "jobrun-exporter.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "jobrun-exporter.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the URL of the database that replicas share, "" if one process has a state of its own. */}}
{{- define "jobrun-exporter.shared" -}}
{{- .Values.state.postgres.existingSecret -}}
{{- end -}}

{{/* The action of a probe: (dict "root" $ "path" "/-/healthy"). With passwords it can only check the port. */}}
{{- define "jobrun-exporter.ask" -}}
{{- if .root.Values.webConfig.basicAuth -}}
tcpSocket:
  port: http
{{- else -}}
httpGet:
  path: {{ .path }}
  port: http
  scheme: {{ .root.Values.webConfig.scheme }}
{{- end -}}
{{- end -}}

{{/* Comma-separated ports of the addresses in the exporter's config. */}}
{{- define "jobrun-exporter.ports" -}}
{{- $ports := dict -}}
{{- range .Values.config.sources -}}
{{- $auth := .auth | default dict -}}
{{- range list .base_url .proxy_url $auth.token_url -}}
{{- if and . (regexMatch "^https?://[^$]+$" .) -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $_ := set $ports ($port | default (ternary "80" "443" (eq $url.scheme "http"))) true -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- keys $ports | sortAlpha | join "," -}}
{{- end -}}
