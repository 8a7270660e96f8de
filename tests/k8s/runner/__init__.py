"""Kubernetes on one machine's loopback, as far as Atelier's manifests need it.

It takes what `kubectl kustomize` renders at its word. Each replica is a process with the manifest's command,
arguments and environment on a loopback address of its own (`pods`); its probes are carried out as written
(`probes`); Deployments are rolled out, Services published by a real DNS server and a proxy (`deployments`,
`services`); a real Prometheus scrapes what the PodMonitors say (`monitoring`); the ScaledObjects' queries
decide how many replicas there are (`autoscaler`). `cluster` is where a test begins.

Left out, since nothing here depends on it: images, scheduling and resources, network policies, security
contexts, Secrets other than those in `tests/k8s/manifests.py`.
"""
