#!/usr/bin/env bash
# Run a job on a fresh machine: makes .venv once, installs, then runs main.py with the arguments.
#
#   ./run.sh --config-file configs/inverted_pendulum.yaml [key=value ...]
#
# MBRL_PYTHON names the Python to use, if not the first of python3.11, python3.12, python3.13.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=.ci/bootstrap.sh
source "$root/.ci/bootstrap.sh"
bootstrap run

# The job runs where it was started: relative paths are the caller's, and outputs/ appears there.
# Only a configuration that is not found there is looked up in the repository, so that
# `--config-file configs/inverted_pendulum.yaml` works from everywhere.
previous=
for argument do
    shift
    option=
    path=$argument
    case $argument in
        --config-file=*)
            option=--config-file=
            path=${argument#*=}
            ;;
    esac
    if [ -n "$option" ] || [ "$previous" = --config-file ]; then
        if [ -n "$path" ] && [ ! -e "$path" ] && [ -e "$root/$path" ]; then
            path=$root/$path
        fi
    fi
    set -- "$@" "$option$path"
    previous=$argument
done

exec "$root/.venv/bin/python" "$root/main.py" "$@"
