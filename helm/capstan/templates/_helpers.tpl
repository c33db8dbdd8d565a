{{- define "capstan.fullname" -}}
{{- $name := default .Release.Name .Values.fullnameOverride -}}
{{- if gt (len $name) 40 -}}
{{- fail (printf "the name %q is longer than 40 characters: set fullnameOverride" $name) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the name %q can't be a Service's: it must begin with a letter; set fullnameOverride" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "capstan.peers" -}}
{{ include "capstan.fullname" . }}-peers
{{- end -}}

{{/* What never changes: selectors are immutable. */}}
{{- define "capstan.selectorLabels" -}}
app.kubernetes.io/name: capstan
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: master
{{- end -}}

{{- define "capstan.labels" -}}
{{ include "capstan.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: capstan
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "capstan.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "capstan.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "capstan.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{/* More than half of the masters. */}}
{{- define "capstan.quorum" -}}
{{ add (div (int .Values.replicas) 2) 1 }}
{{- end -}}

{{/* The masters' names, as a JSON object { "list": [...] }: a template can only give text. */}}
{{- define "capstan.members" -}}
{{- $members := list -}}
{{- range $i := until (int .Values.replicas) -}}
{{- $members = append $members (printf "%s-%d" (include "capstan.fullname" $) $i) -}}
{{- end -}}
{{- dict "list" $members | toJson -}}
{{- end -}}

{{/* DNS name of a master's pod. Takes (dict "root" $ "member" NAME). */}}
{{- define "capstan.memberHost" -}}
{{ .member }}.{{ include "capstan.peers" .root }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}

{{- define "capstan.emptyDirectory" -}}
{{- if ne .Values.cluster.bootstrap "auto" -}}
{{ .Values.cluster.bootstrap }}
{{- else if .Release.IsInstall -}}
new
{{- else -}}
existing
{{- end -}}
{{- end -}}

{{/* Where the programs of a pod find the bus: the server beside them first, then those of the others. */}}
{{- define "capstan.bus" -}}
{{- $servers := list (printf "127.0.0.1:%d" (int .Values.bus.port)) -}}
{{- range (include "capstan.members" . | fromJson).list -}}
{{- $servers = append $servers (printf "%s:%d" (include "capstan.memberHost" (dict "root" $ "member" .)) (int $.Values.bus.port)) -}}
{{- end -}}
{{- dict "servers" $servers "ca" "/etc/capstan/bus-ca/ca.crt" | toJson -}}
{{- end -}}

{{/* Configuration of the nats-server beside each master; whom it trusts comes from a Secret into the same directory. */}}
{{- define "capstan.natsConfig" -}}
server_name: $POD_NAME
listen: "0.0.0.0:{{ int .Values.bus.port }}"
# A slow or dead peer must be noticed in seconds.
ping_interval: "2s"
ping_max: 2
write_deadline: "2s"
max_pending: 67108864
max_payload: 1048576
tls { cert_file: "/etc/capstan/bus-tls/tls.crt", key_file: "/etc/capstan/bus-tls/tls.key", ca_file: "/etc/capstan/bus-tls/ca.crt", timeout: 2 }
include "authority.conf"
# How soon a server that missed a new account learns of it from the others.
resolver: { type: full, dir: "/var/lib/capstan/nats", allow_delete: false, interval: "10s" }
cluster {
  name: "capstan"
  listen: "0.0.0.0:{{ int .Values.bus.routePort }}"
  no_advertise: true
  # Routes are mutual TLS: only the servers of this bus have certificates of its authority.
  tls { cert_file: "/etc/capstan/bus-tls/tls.crt", key_file: "/etc/capstan/bus-tls/tls.key", ca_file: "/etc/capstan/bus-tls/ca.crt", timeout: 2 }
  connect_retries: 1000000
  routes: [
{{- range (include "capstan.members" . | fromJson).list }}
    "nats-route://{{ include "capstan.memberHost" (dict "root" $ "member" .) }}:{{ int $.Values.bus.routePort }}"
{{- end }}
  ]
}
{{- end -}}

{{/* Configuration of one store member. Takes (dict "root" $ "member" NAME "emptyDirectory" new|existing). */}}
{{- define "capstan.storeConfig" -}}
{{- $values := .root.Values -}}
{{- $bus := include "capstan.bus" .root | fromJson -}}
{{- $_ := set $bus "credentials" "/etc/capstan/credentials/store.creds" -}}
{{- $members := (include "capstan.members" .root | fromJson).list -}}
{{- $root := .root -}}
{{- $beside := dict -}}
{{- range $members -}}
{{- $_ = set $beside . (printf "%s:%d" (include "capstan.memberHost" (dict "root" $root "member" .)) (int $values.bus.port)) -}}
{{- end -}}
{{- $_ = set $bus "beside" $beside -}}
{{- $config := dict "cluster" "capstan" "clusterId" $values.cluster.id "member" .member "members" $members -}}
{{- $_ = set $config "emptyDirectory" .emptyDirectory -}}
{{- $_ = set $config "dataDir" "/var/lib/capstan/store" -}}
{{- $_ = set $config "heartbeatMs" (int $values.store.heartbeatMs) -}}
{{- $_ = set $config "electionTimeoutMs" (int $values.store.electionTimeoutMs) -}}
{{- $_ = set $config "logLevel" $values.store.logLevel -}}
{{- $_ = set $config "bus" $bus -}}
{{- toPrettyJson $config -}}
{{- end -}}

{{/* Configuration of the master's process, the same in every pod. */}}
{{- define "capstan.masterConfig" -}}
{{- $bus := include "capstan.bus" . | fromJson -}}
{{- $_ := set $bus "credentials" "/etc/capstan/credentials" -}}
{{- $config := dict "cluster" "capstan" "members" (include "capstan.members" . | fromJson).list "bus" $bus -}}
{{- $_ = set $config "https" (dict "port" (int .Values.api.port) "cert" "/etc/capstan/api-tls/tls.crt" "key" "/etc/capstan/api-tls/tls.key" "ca" "/etc/capstan/api-tls/ca.crt") -}}
{{- $_ = set $config "serviceAccount" (dict "publicKey" "/etc/capstan/service-account/service-account.pub" "privateKey" "/etc/capstan/service-account/service-account.key") -}}
{{- $_ = set $config "podCidr" .Values.cluster.podCidr -}}
{{- $_ = set $config "serviceCidr" .Values.cluster.serviceCidr -}}
{{- $_ = set $config "tolerationSeconds" (int .Values.cluster.tolerationSeconds) -}}
{{- toPrettyJson $config -}}
{{- end -}}

{{/* Configuration of one etcd face. Takes (dict "root" $ "member" NAME). */}}
{{- define "capstan.etcdConfig" -}}
{{- $port := int .root.Values.etcd.port -}}
{{- $bus := include "capstan.bus" .root | fromJson -}}
{{- $_ := set $bus "credentials" "/etc/capstan/credentials/etcd.creds" -}}
{{- $nearestFirst := list .member -}}
{{- $urls := dict -}}
{{- range $member := (include "capstan.members" .root | fromJson).list -}}
{{- if ne $member $.member -}}
{{- $nearestFirst = append $nearestFirst $member -}}
{{- end -}}
{{- $_ = set $urls $member (list (printf "https://%s:%d" (include "capstan.memberHost" (dict "root" $.root "member" $member)) $port)) -}}
{{- end -}}
{{- $config := dict "cluster" "capstan" "member" .member "members" $nearestFirst "clientUrls" $urls "bus" $bus -}}
{{- $_ = set $config "listen" (dict "hosts" (list "0.0.0.0") "port" $port) -}}
{{- $_ = set $config "tls" (dict "ca" "/etc/capstan/etcd-tls/ca.crt" "cert" "/etc/capstan/etcd-tls/tls.crt" "key" "/etc/capstan/etcd-tls/tls.key") -}}
{{- toPrettyJson $config -}}
{{- end -}}

{{- define "capstan.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
