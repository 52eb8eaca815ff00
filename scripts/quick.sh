#!/usr/bin/env bash
# Gates 1 and 2, then flat against structured on two seeds: minutes, and too few seeds for any claim.
set -euo pipefail
kvtune gates
kvtune run quickstart --seeds 0-1 "$@"
