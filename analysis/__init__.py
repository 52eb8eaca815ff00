"""From the files of an experiment to a paired verdict. Reads tables only: needs neither torch nor Ray."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.records import Experiment, ResultsError, ResultsFolder, load
    from analysis.significance import Comparison, compare

__all__ = ["Comparison", "Experiment", "ResultsError", "ResultsFolder", "compare", "load"]

_HOMES = {
    "Comparison": "analysis.significance",
    "Experiment": "analysis.records",
    "ResultsError": "analysis.records",
    "ResultsFolder": "analysis.records",
    "compare": "analysis.significance",
    "load": "analysis.records",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
