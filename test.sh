#!/usr/bin/env bash
# Run the tests on a fresh machine: the same set-up as run.sh, then pytest with the arguments.
#
#   ./test.sh [-q] [-m slow] [tests/physics ...]
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=.ci/bootstrap.sh
source "$root/.ci/bootstrap.sh"
bootstrap test

cd -- "$root"
exec .venv/bin/python -m pytest "$@"
