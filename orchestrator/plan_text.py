"""A forecast in plain lines."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from analysis.sizes import size
from orchestrator.changes import say
from orchestrator.plan import Effect, Forecast
from orchestrator.terminal import arm_cell


def print_forecast(found: Forecast, console: Console) -> None:
    """What `kvtune plan` says."""
    done = f"{found.done} done, " if found.done else ""
    steps = f"{found.steps_left:,} of {found.steps:,} steps"
    say(console, f"{found.name}: {found.trials} trials, {done}{found.to_run} to run: {steps}")
    if found.to_run:
        console.print(_table(found))
        for line in _totals(found):
            say(console, line)
    for line in (*effect_lines(found.effect), *found.remarks):
        say(console, line)


def _table(found: Forecast) -> Table:
    table = Table(show_edge=False)
    for column in ("arm", "step", "evaluation", "checkpoint", "start", "one trial", "memory"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=column != "arm")
    for cost in found.arms:
        times = [span(seconds) for seconds in (cost.step_s, cost.eval_s, cost.save_s, cost.start_s)]
        times[2] += f", {size(cost.checkpoint_bytes)}"
        table.add_row(arm_cell(cost.arm), *times, span(found.trial_s[cost.arm]), size(cost.peak_bytes))
    return table


def _totals(found: Forecast) -> Iterator[str]:
    slots = "1 slot" if found.slots == 1 else f"{found.slots} slots"
    asked = f"the teacher's cache {span(found.lessons_s)} of it; " if found.lessons_s else ""
    yield (
        f"time: {span(found.wall_s)} on {slots} of {found.where}, {span(found.total_s)} on one ({asked}"
        "each arm probed alone: slots that share a machine's memory are slower)"
    )
    disk = found.disk_bytes
    kinds = ", ".join(f"{kind} {size(amount)}" for kind, amount in disk.items() if kind != "all")
    there = "" if found.free_bytes is None else f"; {size(found.free_bytes)} free at {found.folder}"
    yield f"disk: {size(disk['all'])} ({kinds}){there}"
    yield _memory(found)
    if found.folder is None:
        yield (
            "not known here: what the cluster's storage holds (no trial counts as done) and has free, its "
            "nodes' memory and speed: the steps were timed on this machine"
        )


def _memory(found: Forecast) -> str:
    if found.machine_bytes is None:
        return f"memory: {size(found.memory_bytes)} for one trial; what a node has is not compared with it"
    short = found.memory_bytes > found.machine_bytes
    return (
        f"memory: {size(found.memory_bytes)} for the trials that run at once on a machine, this one has "
        f"{size(found.machine_bytes)}"
        + (": raise resources.cpus, so that fewer run at once" if short else "")
    )


def effect_lines(effect: Effect) -> Iterator[str]:
    """What so many pairs can show, first in SDs of the paired differences, then in the metric's unit."""
    pairs = "1 pair" if effect.pairs == 1 else f"{effect.pairs} pairs"
    if effect.dz is None:
        yield (
            f"effect: NOT TESTABLE: the smallest exact p of {pairs} is {figure(effect.floor)}, above alpha "
            f"{figure(effect.alpha)}; {effect.pairs_needed} seeds are the fewest that can claim anything"
        )
        return
    yield (
        f"effect: {pairs} find a difference of {figure(effect.dz)} SD of the paired differences with 80 % "
        f"power at alpha {figure(effect.alpha)}; their smallest exact p is {figure(effect.floor)}"
    )
    for known in effect.known:
        yield (
            f"  {known['treatment']} - {known['baseline']}: {figure(known['detectable'])} of {effect.metric} "
            f"by the SD of {known['pairs']} earlier pairs ({figure(known['sd'])}), "
            f"{figure(known['detectable_at_upper_sd'])} by its upper 80 % limit"
        )
    if effect.sesoi and effect.sd_for_sesoi:
        yield (
            f"  the effect of interest, {effect.sesoi:g} of {effect.metric}, is found where that SD is at "
            f"most {figure(effect.sd_for_sesoi)}"
        )


def figure(value: float) -> str:
    """Two significant digits."""
    return f"{value:.2g}"


def span(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
