#!/usr/bin/env bash
# `make test-slurm`: Debian's Slurm on this one machine, a small graph through
# sbatch, one job killed and one preempted on the way, and a whole report in
# the end. Wants root and Debian's packages; leaves no daemon behind.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
RESULTS=$PWD/results/test-slurm
FOLDER=$(mktemp -d /tmp/slurm-XXXXXX)
RUNS=$RESULTS/runs

say() { echo "test-slurm: $*"; }

[ "$(id -u)" = 0 ] || { say "needs root: sudo make test-slurm"; exit 2; }
if ! command -v slurmctld slurmd munged >/dev/null; then
    say "installing slurm-wlm and munge"
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi

stop() {
    for daemon in slurmd slurmctld munged; do
        if [ -f "$FOLDER/$daemon.pid" ]; then
            kill "$(cat "$FOLDER/$daemon.pid")" 2>/dev/null || true
        fi
    done
    sleep 1
    # Ours alone: what was there before stays.
    [ "$(readlink /etc/slurm/slurm.conf)" != "$FOLDER/slurm.conf" ] ||
        rm /etc/slurm/slurm.conf
    rm -rf "$FOLDER"
}
trap stop EXIT

# Munge: a key of its own, and a socket where no other munge listens.
chmod 755 "$FOLDER"
install -d -o munge -g munge "$FOLDER/munge"
head -c 1024 /dev/urandom >"$FOLDER/munge/key"
chown munge:munge "$FOLDER/munge/key"
chmod 400 "$FOLDER/munge/key"
setpriv --reuid=munge --regid=munge --clear-groups munged --force \
    --key-file="$FOLDER/munge/key" --socket="$FOLDER/munge/socket" \
    --pid-file="$FOLDER/munge/munged.pid" \
    --log-file="$FOLDER/munge/log" --seed-file="$FOLDER/munge/seed"
ln -s munge/munged.pid "$FOLDER/munged.pid"
ln -s munge/socket "$FOLDER/munge.socket"

# Slurm: controller and node, all files of both in the folder but one: a job
# does not inherit SLURM_CONF, so the settings stand where all look for them.
SETTINGS=/etc/slurm/slurm.conf
[ ! -e "$SETTINGS" ] || { say "$SETTINGS: a Slurm is here already"; exit 2; }
mkdir -p "$(dirname "$SETTINGS")"
mkdir "$FOLDER/state" "$FOLDER/spool"
free=$(awk '/MemAvailable/ {print int($2 / 1024)}' /proc/meminfo)
sed -e "s|@HOST@|$(hostname -s)|g" -e "s|@FOLDER@|$FOLDER|g" \
    -e "s|@CPUS@|$(nproc --all)|" -e "s|@MEMORY@|$free|" \
    -e "s|@PORT@|26817|" -e "s|@NODE_PORT@|26818|" \
    workflow/slurm/slurm.conf.in >"$FOLDER/slurm.conf"
ln -s "$FOLDER/slurm.conf" "$SETTINGS"
slurmctld
slurmd
for _ in $(seq 30); do
    sinfo -h -o %T 2>/dev/null | grep -q idle && break
    sleep 1
done
sinfo
sinfo -h -o %T | grep -q idle || { tail "$FOLDER"/*.log; exit 1; }

rm -rf "$RESULTS"
say "the graph, through sbatch"
"$PYTHON" -m snakemake -s workflow/Snakefile \
    --profile workflow/profiles/slurm-test \
    --config study=workflow/config/tiny.yaml results="$RESULTS" &
GRAPH=$!

status() {
    "$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))["status"])' \
        "$RUNS/$1/result.json" 2>/dev/null || echo none
}
wait_for() { # RUN: until it has begun
    for _ in $(seq 600); do
        [ "$(status "$1")" != none ] && return
        kill -0 "$GRAPH" 2>/dev/null || return 0
        sleep 0.2
    done
    say "$1 never began"
    exit 1
}

wait_for tiny-s1
# The recipe's process, found by its command line below this graph's results.
victim=$(pgrep -f "train.py hparams/mini.yaml .*--results_folder $RUNS" | head -1)
say "kill -9 of the baseline's process ${victim:-(gone already)}"
[ -z "$victim" ] || kill -9 "$victim"

wait_for tiny-s1-n2-both-speech
job=$(squeue -h -t R -o %A | head -1)
say "preempting job ${job:-(none runs)}"
[ -z "$job" ] || scontrol requeue "$job"

wait "$GRAPH"
for run in tiny-s1 tiny-s1-n2-none-speech tiny-s1-n2-both-speech; do
    [ "$(status $run)" = done ] || { say "$run: $(status $run)"; exit 1; }
done
[ -s "$RESULTS/report/report.html" ]
[ -n "$victim" ] || { say "the baseline ended before it could be killed"; exit 1; }
say "passed: killed, preempted, and every run done"
