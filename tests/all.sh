#!/bin/sh
# Every test, group by group, each within its time limit; docs/testing.md says what is in a group.
# Usage: sh tests/all.sh [GROUP ...]      Ends with 1 if a group fails or takes too long.
set -u
cd "$(dirname "$0")/.."
wanted=${*:-usual slow shared_data e2e gpu network}
failed=0
told=

group() { # name, minutes, and which tests
    name=$1 minutes=$2
    shift 2
    case " $wanted " in *" $name "*) ;; *) return ;; esac
    printf '\n=== %s, at most %s minutes\n' "$name" "$minutes"
    started=$(date +%s)
    timeout --kill-after=60 "${minutes}m" pytest -q "$@"
    code=$?
    case $code in
    0) ended=passed ;;
    5) ended="no test" ;;
    124 | 137) ended="TOO LONG" failed=1 ;;
    *) ended=FAILED failed=1 ;;
    esac
    told="$told$(printf '%-12s %-9s %s s of %s minutes' "$name" "$ended" "$(($(date +%s) - started))" "$minutes")
"
}

group usual 25
group slow 60 -m "slow and not shared_data and not gpu and not e2e" --timeout 3600
group shared_data 60 -m "shared_data" --timeout 1800
group e2e 20 -m "e2e"
[ -e /proc/driver/nvidia/version ] && group gpu 10 -m "gpu"
[ -n "${FACEMAE_NETWORK:-}" ] && group network 30 -m "network"
printf '\n%s' "$told"
exit $failed
