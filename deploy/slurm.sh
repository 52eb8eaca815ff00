#!/bin/bash
# One node of Slurm: kvtune starts a Ray of its own there, on loopback, with the CPUs and GPUs that the job is given.
#
#   sbatch deploy/slurm.sh mine.yaml --set base.lr=1e-4     from the folder of mine.yaml; what follows goes to kvtune run
#
# Three minutes before its time is up the run is ended as by Ctrl-C and the job goes back into the queue, until every
# trial has its result. scancel ends it for good; the same sbatch goes on from the newest checkpoints.
#SBATCH --job-name=kvtune
#SBATCH --nodes=1 --ntasks=1 --cpus-per-task=16 --mem=64G
#SBATCH --gpus-per-node=1
#SBATCH --time=8:00:00 --signal=B:USR1@180
#SBATCH --requeue --open-mode=append --output=kvtune-%j.log
set -u
. "${KVTUNE_VENV:-$HOME/kvtune-venv}/bin/activate"

again='' signalled='' run=''
end() {
  signalled=1
  [ -z "$run" ] || kill -TERM "$run"
}
trap end TERM
trap 'again=1; end' USR1

kvtune run "$@" --storage "${KVTUNE_STORAGE:-$HOME/kvtune-runs}" &
run=$!
[ -z "$signalled" ] || kill -TERM "$run" # it came before the run did
wait "$run"
code=$?
while [ -n "$signalled" ]; do # the signal ended the waiting, not yet the run
  signalled=''
  wait "$run"
  code=$?
done
[ -z "$again" ] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
