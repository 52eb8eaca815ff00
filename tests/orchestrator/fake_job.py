"""`python -m orchestrator.job` with the fake in place of the distillation, for jobs that take no time."""

import sys

from orchestrator import job, launch
from tests.fakes import FAKE

if __name__ == "__main__":
    launch.Objective = lambda: FAKE  # type: ignore[misc,assignment]
    sys.exit(job.main(sys.argv[1:]))
