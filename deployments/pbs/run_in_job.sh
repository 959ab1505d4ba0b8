#!/bin/bash
# run_in_job COMMAND ARGUMENTS...: runs `made COMMAND` on a Ray cluster over the job's nodes and exits with its code.
# Sourced by job scripts: curate.pbs, and those that `made pbs script` prints.

made_run_pid=
made_servers_pid=

# PBS sends SIGTERM on qdel and at the walltime, and SIGKILL ten seconds later: three for the run, five for the
# cluster.
made_end() {
    trap '' TERM HUP INT
    if [ -n "$made_run_pid" ]; then
        kill -TERM "$made_run_pid" 2>/dev/null
        for _ in {1..30}; do
            kill -0 "$made_run_pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$made_run_pid" 2>/dev/null
    fi
    [ -z "$made_servers_pid" ] || kill -TERM "$made_servers_pid" 2>/dev/null
    stop_ray_cluster
    stop_servers
    exit 143
}

run_in_job() {
    local code
    # shellcheck source=deployments/pbs/start_ray_cluster.sh
    source "$made_scripts/start_ray_cluster.sh" || exit
    # shellcheck source=deployments/pbs/start_servers.sh
    source "$made_scripts/start_servers.sh"
    trap made_end TERM HUP INT
    if [ "$1" != pbs ]; then # `pbs serve` takes runs from a service: nobody would reach servers of this job
        start_servers || {
            stop_ray_cluster
            exit 1
        }
    fi
    # In the background: a trap does not run while the shell waits for a command in the foreground.
    made_exec="exec" made_python -m flows.cli "$@" &
    made_run_pid=$!
    wait "$made_run_pid"
    code=$?
    made_run_pid=
    stop_servers
    stop_ray_cluster
    exit "$code"
}
