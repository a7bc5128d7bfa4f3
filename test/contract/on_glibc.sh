#!/bin/sh
# Runs the contract tests on glibc's own malloc: a test that fails here asks for more than the contract.
# Usage: on_glibc.sh [test_name...]; CC and CXX choose the compilers.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
chmod 755 "$build"
cc="${CC:-cc} -std=gnu11" cxx="${CXX:-c++} -std=gnu++17 -fsized-deallocation"
flags="-g -O2 -Wall -Wextra -Werror -fno-builtin" libraries="-lcmocka -lpthread -ldl"

$cc $flags "$here/early.c" -o "$build/early" $libraries
$cc $flags "$here/plain.c" -o "$build/plain" $libraries
$cc $flags -shared -fPIC "$here/plugin.c" -o "$build/libplugin.so" -Wl,-rpath,'$ORIGIN' -lpthread -ldl
$cc $flags -shared -fPIC "$here/hooks.c" -o "$build/libhooks.so" -lpthread -ldl
$cc $flags -shared -fPIC "$here/wrapper.c" -o "$build/libwrapper.so" -ldl
$cxx $flags -shared -fPIC "$here/plugin_cxx.cc" -o "$build/libplugin_cxx.so"

own=-DOWN=OWN_ALL
failed=
for name in ${*:-test_api test_calloc test_realloc test_info test_cxx test_sized test_own_new \
    test_threads test_thread_births test_worker test_start test_dlopen test_own_malloc test_fork test_fork_memory test_limits \
    test_sandbox test_hooks}; do
    if [ -f "$here/$name.cc" ]; then
        $cxx $flags "$here/$name.cc" -o "$build/$name" $libraries
    else
        $cc $flags $own "$here/$name.c" -o "$build/$name" $libraries
    fi
    SLABMALLOC_TEST_ON=glibc "$build/$name" || failed="$failed $name"
done
[ -z "$failed" ] || { echo "failed on glibc:$failed"; exit 1; }
