#!/bin/sh
# Whether all is there that the manifests name; a line for each thing that is not. Costs nothing.
status=0
look() {   # what it is for, then kubectl's arguments
  what=$1; shift
  kubectl get "$@" >/dev/null 2>&1 || { echo "missing: $what (kubectl get $*)" >&2; status=2; }
}
look "KubeRay's operator, 1.6 or newer" crd rayclusters.ray.io rayjobs.ray.io
look "the namespace of base.yaml" namespace {{ name }}
{% for secret in secret_names %}
look "the secret that pods read" secret {{ secret }} --namespace {{ name }}
{% endfor %}
{% if kubernetes.queue %}
look "Kueue's local queue" localqueue {{ kubernetes.queue }} --namespace {{ name }}
{% endif %}
{% if kubernetes.cache_claim %}
look "the volume for models" persistentvolumeclaim {{ kubernetes.cache_claim }} --namespace {{ name }}
{% endif %}
exit $status
