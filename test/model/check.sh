#!/bin/sh
# check.sh holds|fails MODEL [SWITCH...]: spin searches all states of the model, first for asserts that do not hold
# and for deadlocks, then for cycles in which nobody gets on, for which the models have a switch SMALL. A model that holds must
# have no statement that is never reached, of which it would say nothing; one that fails must fail by what it checks.
#
# The shortest way to an error, step by step:
#     spin -a -DSWITCH take.pml && cc -w -DSAFETY -DBFS -o pan pan.c && ./pan; spin -t -p -g -DSWITCH take.pml
set -eu

if ! command -v spin >/dev/null; then
    echo "spin is not installed"
    exit 77
fi
expected=$1
model=$2
shift 2

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# search CC-ARGUMENTS PAN-ARGUMENTS SWITCH...: leaves pan's report in the file report.
search() {
    how=$1 options=$2
    shift 2
    for switch; do
        shift
        set -- "$@" "-D$switch"
    done
    spin -a "$@" "$model"
    # shellcheck disable=SC2086 # the arguments are words
    cc -w -O1 -DMEMLIM=1500 -DCOLLAPSE $how -o pan pan.c
    # shellcheck disable=SC2086
    ./pan -m1000000 $options >report
    grep -E '^pan:1:|errors:|states, stored|total actual' report
}

is_clean() {
    grep -q 'errors: 0$' report && ! grep -qE 'Search not completed|max search depth|out of memory' report
}

failed() {
    grep -qE '^pan:1: (assertion violated|non-progress cycle)' report
}

search -DSAFETY '' "$@"
if [ "$expected" = holds ]; then
    if ! is_clean || grep -E "$(basename "$model"):[0-9]+, state" report | grep -v -e '"-end-"'; then
        echo "the search for errors found one, did not end, or reached less than there is"
        exit 1
    fi
elif failed; then
    exit 0
fi

search -DNP '-l -f' SMALL "$@"
case $expected in
holds) is_clean ;;
fails) failed ;;
esac
