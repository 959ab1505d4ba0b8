#!/bin/bash
# start_servers: a ledger and a Prefect server on this node, for jobs that are given none. On one node too: the
# run's own ledger, in ~/.made, would belong to this host, and the next job may get another one.
# Sourced after start_ray_cluster.sh. Their data are in $MADE_SERVERS on the shared store (default
# ~/.made/servers), where the next job finds them; with $MADE_SERVERS_LOCAL, a folder on this node's disk, they
# are there and $MADE_SERVERS has dumps. One job at a time: a second one is refused.

made_servers_pid=

start_servers() {
    if [ -n "${MADE_DATABASE_URL:-}" ] && [ -n "${PREFECT_API_URL:-}" ]; then
        return 0
    fi
    local ready=$MADE_CLUSTER/servers.env end=$((SECONDS + 900))
    # Their own PREFECT_HOME: the user's profiles of Prefect stay as they are.
    PREFECT_HOME=$MADE_CLUSTER/prefect made_exec="exec" made_python -m flows.pbs.servers "${MADE_SERVERS:-$HOME/.made/servers}" --listen "${MADE_RAY_ADDRESS%:*}" \
        --environment "$ready" --owner $$ ${MADE_SERVERS_LOCAL:+--local "$MADE_SERVERS_LOCAL"} &
    made_servers_pid=$!
    until [ -f "$ready" ]; do
        if ! kill -0 "$made_servers_pid" 2>/dev/null || [ $SECONDS -gt $end ]; then
            echo "made: the ledger and the Prefect server did not start" >&2
            stop_servers
            return 1
        fi
        sleep 0.5
    done
    # shellcheck source=/dev/null # exports, with passwords: only this user may read it
    source "$ready"
}

stop_servers() {
    [ -n "$made_servers_pid" ] || return 0
    kill -TERM "$made_servers_pid" 2>/dev/null
    wait "$made_servers_pid" 2>/dev/null
    made_servers_pid=
}
