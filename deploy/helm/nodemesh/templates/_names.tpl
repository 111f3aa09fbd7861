{{- define "nodemesh.name" -}}
{{- if contains "nodemesh" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-nodemesh" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "nodemesh.control.name" -}}{{ include "nodemesh.name" . }}-control{{- end }}
{{- define "nodemesh.agent.name" -}}{{ include "nodemesh.name" . }}-agent{{- end }}

{{- define "nodemesh.labels" -}}
app.kubernetes.io/part-of: nodemesh
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "nodemesh.agent.selector" -}}
app.kubernetes.io/name: nodemesh-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "nodemesh.control.selector" -}}
app.kubernetes.io/name: nodemesh-control
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "nodemesh.tag" -}}{{ .Values.image.tag | default .Chart.AppVersion }}{{- end }}

{{- define "nodemesh.tls" -}}{{ if not .Values.control.insecure }}true{{ end }}{{- end }}

{{- define "nodemesh.control.urls" -}}
{{- if .Values.agent.control -}}
{{ join "," .Values.agent.control }}
{{- else -}}
{{ if include "nodemesh.tls" . }}https{{ else }}http{{ end }}://{{ include "nodemesh.control.name" . }}.{{ .Release.Namespace }}.svc:15010
{{- end -}}
{{- end }}
