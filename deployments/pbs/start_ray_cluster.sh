#!/bin/bash
# Brings up a Ray cluster over the nodes of a job and sets the variables that `made` reads:
#
#     qsub -I -l select=2:ncpus=24:ngpus=4 -l place=scatter -l walltime=4:00:00
#     source /path/to/made/deployments/pbs/start_ray_cluster.sh
#     made curate --recipe R.yaml
#     stop_ray_cluster            # or leave the shell
#
# It is sourced. Nodes: $MADE_HOSTFILE, $PBS_NODEFILE, the nodes of a Slurm job, or this host. docs/pbs.md
# describes the variables that change how nodes are reached and what of them is used.

if [ -z "${BASH_VERSION:-}" ]; then
    echo "made: source start_ray_cluster.sh in bash" >&2
    return 2
fi
made_scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# The Python that has made: $MADE_PYTHON, the checkout's environment, or the one of PATH. In the background call it
# as `made_exec=exec made_python ... &`, so that $! is Python's process and not that of a shell around it.
made_python() {
    local found=${MADE_PYTHON:-}
    if [ -z "$found" ] && [ -x "$made_scripts/../../.venv/bin/python" ]; then
        found=$made_scripts/../../.venv/bin/python
    fi
    # shellcheck disable=SC2086 # MADE_CONTAINER is a command and its options
    ${made_exec:-} ${MADE_CONTAINER:-} "${found:-python3}" "$@"
}

# PBS's commands are not on every node's PATH.
if [ -n "${PBS_JOBID:-}" ] && ! command -v pbs_tmrsh >/dev/null && [ -r "${PBS_CONF_FILE:-/etc/pbs.conf}" ]; then
    PATH=$PATH:$(sed -n 's/^PBS_EXEC=//p' "${PBS_CONF_FILE:-/etc/pbs.conf}")/bin
fi

made_nodes() {
    if [ -n "${MADE_HOSTFILE:-}" ]; then
        awk 'NF && $1 !~ /^#/ && !seen[$1]++ { print $1 }' "$MADE_HOSTFILE"
    elif [ -n "${PBS_NODEFILE:-}" ]; then
        awk 'NF && !seen[$1]++ { print $1 }' "$PBS_NODEFILE" # a line for each MPI process
    elif [ -n "${SLURM_JOB_NODELIST:-}" ]; then
        scontrol show hostnames "$SLURM_JOB_NODELIST"
    else
        hostname
    fi
}

# How to run a command on another node: ssh only where the scheduler offers nothing, since it does not know of
# processes that ssh started.
made_way() {
    if [ -n "${MADE_REACH:-}" ]; then
        echo "$MADE_REACH"
    elif [ -n "${MADE_HOSTFILE:-}" ]; then
        echo ssh
    elif [ -n "${PBS_JOBID:-}" ] && command -v pbs_tmrsh >/dev/null; then
        echo pbs_tmrsh
    elif [ -n "${PBS_JOBID:-}" ] && command -v pbsdsh >/dev/null; then
        echo pbsdsh
    elif [ -n "${SLURM_JOB_ID:-}" ]; then
        echo srun
    else
        echo ssh
    fi
}

# made_reach NODE COMMAND...: no word of the command may have blanks.
made_reach() {
    local node=$1 line
    shift
    case $(made_way) in
        pbs_tmrsh) pbs_tmrsh "$node" "$@" ;;
        pbsdsh) # older ones have no -h HOST, but all have -n with the line of the node file
            line=$(awk -v node="$node" '$1 == node { print NR - 1; exit }' "$PBS_NODEFILE")
            pbsdsh -n "$line" -- "$@"
            ;;
        srun) srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" "$@" ;;
        ssh) ssh -o BatchMode=yes -o ServerAliveInterval=15 "$node" "$@" ;;
        *)
            echo "made: MADE_REACH=$MADE_REACH: expected pbs_tmrsh, pbsdsh, srun or ssh" >&2
            return 2
            ;;
    esac
}

stop_ray_cluster() {
    [ -n "${MADE_CLUSTER:-}" ] || return 0
    local end=$((SECONDS + 15))
    kill -TERM "$made_head_pid" 2>/dev/null
    while kill -0 "$made_head_pid" 2>/dev/null && [ $SECONDS -lt $end ]; do
        sleep 0.1
    done
    rm -rf -- "$MADE_CLUSTER" # the head's agent has removed it, unless it was killed
    # shellcheck disable=SC2046 # a list of names
    unset MADE_CLUSTER $(sed -n 's/^export \([A-Za-z_]*\)=.*/\1/p' <<<"${made_exports:-}")
    trap - EXIT
}

start_ray_cluster() {
    if [ -n "${MADE_CLUSTER:-}" ] && [ -d "$MADE_CLUSTER" ]; then
        echo "made: a cluster is running: $MADE_RAY_ADDRESS. End it with stop_ray_cluster." >&2
        return 2
    fi
    local root=${MADE_CLUSTERS:-$HOME/.made/clusters} job=${PBS_JOBID:-${SLURM_JOB_ID:-$(hostname)}}
    local nodes node head desk
    mapfile -t nodes < <(made_nodes)
    if [ ${#nodes[@]} -eq 0 ]; then
        echo "made: the job has no nodes: check PBS_NODEFILE or MADE_HOSTFILE" >&2
        return 2
    fi
    head=${nodes[0]}
    mkdir -p "$root" && MADE_CLUSTER=$(mktemp -d "$root/${job%%.*}-XXXXXX") || return 2
    export MADE_CLUSTER
    if ! made_python -m flows.pbs prepare "$MADE_CLUSTER"; then
        rm -rf -- "$MADE_CLUSTER"
        unset MADE_CLUSTER
        return 2
    fi
    echo "made: starting Ray on ${#nodes[@]} nodes by $(made_way): ${nodes[*]}" >&2
    if ! bash "$MADE_CLUSTER/node.sh" "$head" --head --owner $$ ${nodes[1]:+--peer "${nodes[1]}"}; then
        tail -n 30 "$MADE_CLUSTER/logs/$head.log" >&2
        echo "made: Ray's head did not start on $head" >&2
        rm -rf -- "$MADE_CLUSTER"
        unset MADE_CLUSTER
        return 1
    fi
    made_head_pid=$(sed -E 's/.*"pid": ([0-9]+).*/\1/' "$MADE_CLUSTER/head.json")
    trap stop_ray_cluster EXIT
    made_exports=$(made_python -m flows.pbs environment "$MADE_CLUSTER")
    eval "$made_exports"
    desk=$(made_python -m flows.pbs desk "$MADE_CLUSTER")
    for node in "${nodes[@]:1}"; do
        # In a subshell of its own: an interactive shell does not report it. pbs_tmrsh's errors go to the log.
        (
            made_reach "$node" /bin/bash "$MADE_CLUSTER/node.sh" "$node" "$desk" \
                </dev/null >>"$MADE_CLUSTER/logs/$node.log" 2>&1 &
            wait $!
            touch "$MADE_CLUSTER/logs/$node.ended" 2>/dev/null
        ) &
        disown
    done
    if ! made_python -m flows.pbs wait "$MADE_CLUSTER" --seconds "${MADE_START_SECONDS:-180}" "${nodes[@]}"; then
        stop_ray_cluster
        return 1
    fi
}

trap 'stop_ray_cluster; exit 143' TERM HUP
start_ray_cluster
