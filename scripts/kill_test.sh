#!/bin/sh
# Kills runs with `kill -9` at N random moments in all (default 100), resumes each, and compares the adapter and all state
# with those of a run that was left alone: plain rounds, kept optimiser state under server momentum, local heads.
#   scripts/kill_test.sh [N [SEED]]
set -eu
cd "$(dirname "$0")/.."
ANTIPHON_KILLS="${1:-100}" ANTIPHON_KILL_SEED="${2:-1}" \
    cargo test -p antiphon --test resume killed_at_random_moments -- --exact --nocapture
