"""doit's entry. What the verbs do is in tasks/, how things are built in pipeline/. `doit list` shows the verbs."""

from tasks import (  # noqa: F401 - doit collects every task_* of this module
    doit_config,
    task_export,
    task_gc,
    task_lock,
    task_models,
    task_plan,
    task_quants,
    task_usage,
    task_verify,
)

DOIT_CONFIG = doit_config()
