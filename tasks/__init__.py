"""The verbs as doit tasks; thin. Importing this imports neither hydra, torch, rich nor fsspec."""

from tasks.config import doit_config
from tasks.export import task_export
from tasks.gc import task_gc
from tasks.lock import task_lock
from tasks.models import task_models
from tasks.plan import task_plan
from tasks.quants import task_quants
from tasks.usage import task_usage
from tasks.verify import task_verify

__all__ = [
    "doit_config",
    "task_export",
    "task_gc",
    "task_lock",
    "task_models",
    "task_plan",
    "task_quants",
    "task_usage",
    "task_verify",
]
