"""Flags that several commands share, said once."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import arg

Experiment = Annotated[
    str, arg(help="A file, or a built-in experiment: quickstart, smoke, ab, controls, ablation.")
]
Changes = Annotated[
    tuple[tuple[str, ...], ...],
    arg(help="Change fields of the experiment: base.lr=1e-3 arms.flat.kv_method=full analysis.margin=0.02."),
]
Seeds = Annotated[
    str | None, arg(help="Seeds instead of the experiment's: 0-9 or 0,3,5 (4 is seed 4 alone).")
]
Dashboard = Annotated[
    str | None, arg(help="The cluster's dashboard; $RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265.")
]
Job = Annotated[str, arg(help="The job's name, as `kvtune submit` told it.")]
