#!/usr/bin/env bash
# expect.sh PROGRAM [ARGUMENT...]: runs a misuse program, which says on standard output how it is to end. It must end
# by SIGABRT, with exactly that line on standard error.
ulimit -c 0
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
"$@" >"$folder/expected" 2>"$folder/said"
status=$?
if [ $status -ne 134 ]; then
    echo "ended with status $status, not by SIGABRT (134); standard error:"
    cat "$folder/said"
    exit 1
fi
diff "$folder/expected" "$folder/said"
