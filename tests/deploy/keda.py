"""KEDA's ScaledObject (keda.sh/v1alpha1, release 2.20) as a JSON schema, as far as deploy/kubernetes/keda uses it, and
stricter than KEDA's own: names that KEDA would pass over in silence are refused.

The autoscaler's behaviour is Kubernetes' own, and compared with the one that its schema was held against."""

from typing import Any


def _of(properties: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_TEXT = {"type": "string", "minLength": 1}
_NUMBER = {"type": "string", "pattern": r"^\d+(\.\d+)?$"}

# The Prometheus scaler's own names. All values are texts, as in every trigger: a bare number or boolean is refused by
# Kubernetes when it is applied.
_PROMETHEUS = _of(
    {
        "serverAddress": {"type": "string", "pattern": "^https?://.*[^/]$"},
        "query": _TEXT,
        "threshold": _NUMBER,
        "activationThreshold": _NUMBER,
        "ignoreNullValues": {"enum": ["true", "false"]},
        "unsafeSsl": {"enum": ["true", "false"]},
        "namespace": _TEXT,
        "timeout": _TEXT,
    },
    ("serverAddress", "query", "threshold"),
)

_TRIGGER = _of(
    {
        "type": {"const": "prometheus"},
        "name": _TEXT,
        "metricType": {"enum": ["Value", "AverageValue"]},
        "useCachedMetrics": {"type": "boolean"},
        "metadata": _PROMETHEUS,
        "authenticationRef": _of(
            {"name": _TEXT, "kind": {"enum": ["TriggerAuthentication", "ClusterTriggerAuthentication"]}}, ("name",)
        ),
    },
    ("type", "metadata"),
)

SCALED_OBJECT = _of(
    {
        "apiVersion": {"const": "keda.sh/v1alpha1"},
        "kind": {"const": "ScaledObject"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": _of(
            {
                "scaleTargetRef": _of({"apiVersion": _TEXT, "kind": _TEXT, "name": _TEXT}, ("name",)),
                "minReplicaCount": {"type": "integer", "minimum": 0},
                "maxReplicaCount": {"type": "integer", "minimum": 1},
                "pollingInterval": {"type": "integer", "minimum": 1},
                "cooldownPeriod": {"type": "integer", "minimum": 0},
                "triggers": {"type": "array", "minItems": 1, "items": _TRIGGER},
                "advanced": _of({"horizontalPodAutoscalerConfig": _of({"behavior": {"type": "object"}})}),
            },
            ("scaleTargetRef", "triggers"),
        ),
    },
    ("apiVersion", "kind", "metadata", "spec"),
)
