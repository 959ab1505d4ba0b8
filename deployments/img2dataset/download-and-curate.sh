#!/usr/bin/env bash
# Runs img2dataset, and then `made trigger` on what it downloaded.
#
#   download-and-curate.sh [options of made trigger] -- arguments of img2dataset
#
#   download-and-curate.sh --recipe clip.yaml --output /data/laion/curated --wait -- \
#       --url_list urls.parquet --input_format parquet --caption_col caption \
#       --output_format webdataset --output_folder /data/laion/shards
#
# IMG2DATASET and MADE name the programs, for example in environments of their own; default: those of PATH.
# Exit codes: img2dataset's if it fails; 130 if it was interrupted; else those of `made trigger` (2: the folder
# is not finished, or the request is not valid; with --wait also 1 and 3).
set -euo pipefail

usage() {
    sed -n '4,8s/^# \{0,1\}//p' "$0" >&2
    echo "$(basename "$0"): $1" >&2
    exit 2
}

options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
done
[ $# -gt 1 ] || usage "expected -- and the arguments of img2dataset"
shift

folder=
previous=
for argument in "$@"; do
    case $argument in
        --output_folder=* | --output-folder=*) folder=${argument#*=} ;;
        *) case $previous in --output_folder | --output-folder) folder=$argument ;; esac ;;
    esac
    previous=$argument
done
[ -n "$folder" ] || usage "the arguments of img2dataset need --output_folder: made curates that folder"

# On Ctrl-C img2dataset removes _tmp and exits with 0, and nothing in its folder tells that from the end of a job.
interrupted=
trap 'interrupted=1' INT TERM
code=0
"${IMG2DATASET:-img2dataset}" "$@" || code=$?
if [ -n "$interrupted" ]; then
    echo "img2dataset was interrupted: nothing was triggered; run this again to resume" >&2
    exit 130
fi
if [ "$code" != 0 ]; then
    echo "img2dataset ended with exit code $code: nothing was triggered; run this again to resume" >&2
    exit "$code"
fi
trap - INT TERM
exec "${MADE:-made}" trigger "$folder" ${options[@]+"${options[@]}"}
