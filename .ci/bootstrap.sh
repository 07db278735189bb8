# shellcheck shell=bash
#
# Shared by run.sh and test.sh, which set $root (the repository) and source it:
#
#   bootstrap run|test      makes $root/.venv ready, at once if it is already
#
# .venv/.place says where and with which Python .venv was made, .venv/.ready-* what is completely
# installed in it. The caller's folder and environment stay as they are: no cd, no activation.

: "${root:?}"

die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

say() {
    printf '%s\n' "$*" >&2
}

python_version() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || true
}

is_supported() {
    case $1 in
        3.11.* | 3.12.* | 3.13.*) ;;
        *) return 1 ;;
    esac
}

# Sets $python and $version: MBRL_PYTHON if given, else the first suitable one.
find_python() {
    if [ -n "${MBRL_PYTHON:-}" ]; then
        python=$(command -v -- "$MBRL_PYTHON") || die "MBRL_PYTHON: no such command: $MBRL_PYTHON"
        version=$(python_version "$python")
        is_supported "$version" ||
            die "MBRL_PYTHON: $MBRL_PYTHON is Python ${version:-?}, but 3.11, 3.12 or 3.13 is needed"
        return
    fi
    for python in python3.11 python3.12 python3.13 python3; do
        version=$(python_version "$python")
        if is_supported "$version"; then
            return
        fi
    done
    die "no Python 3.11, 3.12 or 3.13 found; install one, or name it: MBRL_PYTHON=/path/to/python"
}

# Sets $place and $sums: what .venv has to be, given the Python version in $1.
describe() {
    place="$root, Python $1"
    sums=$(cd -- "$root" && cksum setup.py pyproject.toml constraints.txt mbrl/*/native/*)
}

# Does the file $1 hold exactly the text $2?
holds() {
    [ -f "$1" ] && [ "$(<"$1")" = "$2" ]
}

# Is everything for $1 installed? What test needs includes what run needs.
is_ready() {
    local installed venv=$root/.venv
    installed=$(python_version "$venv/bin/python")
    is_supported "$installed" || return 1
    [ -z "${MBRL_PYTHON:-}" ] || [ "$installed" = "$version" ] || return 1
    describe "$installed"
    holds "$venv/.place" "$place" || return 1
    holds "$venv/.ready-test" "$sums" || holds "$venv/.ready-$1" "$sums"
}

# Can the .venv that is there be completed? Not if it was moved, made with another Python, or left
# half-way; but a .venv the user made by hand (it has no .place) is taken as it is, never deleted.
is_usable() {
    local installed venv=$root/.venv
    installed=$(python_version "$venv/bin/python")
    is_supported "$installed" && "$venv/bin/python" -c 'import pip' 2>/dev/null || return 1
    [ -z "${MBRL_PYTHON:-}" ] || [ "$installed" = "$version" ] || return 1
    describe "$installed"
    [ -e "$venv/.place" ] || return 0
    holds "$venv/.place" "$place" && compgen -G "$venv/.ready-*" >/dev/null
}

install_venv() {
    local extra='' log=.venv/install.log
    if [ "$1" != run ]; then
        extra="[$1]"
    fi
    cd -- "$root" || die "cannot enter $root"
    if ! is_usable; then
        if [ -z "${MBRL_PYTHON:-}" ]; then
            find_python
        fi
        "$python" -c 'import ensurepip, venv' 2>/dev/null || die "$python has no venv module;" \
            "install it (Debian, Ubuntu: apt install python${version%.*}-venv), or set MBRL_PYTHON"
        describe "$version"
        { rm -rf .venv && mkdir .venv && printf '%s\n' "$place" >.venv/.place; } 2>/dev/null ||
            die "cannot write $root/.venv"
        say "Installing into $root/.venv (once; takes a minute or two) ..."
        "$python" -m venv .venv >$log 2>&1 || die "cannot make .venv; see $root/$log"
    else
        say "Updating $root/.venv (takes some seconds) ..."
    fi
    rm -f .venv/.ready-*

    # Both are needed: pip below 25 applies the first to the building of sdists, newer ones the
    # second. A relative path, as pip splits these variables at spaces.
    export PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
    # What would make pip install elsewhere, or believe that something is installed already.
    unset PYTHONPATH PIP_PREFIX PIP_TARGET PIP_USER
    .venv/bin/python -m pip install --no-compile -e ".$extra" >$log 2>&1 || give_up $log
    # Compiling every file of torch would take longer than all the rest; this compiles those that a
    # start needs, even where the environment forbids Python to keep what it compiles.
    env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -c \
        'import mbrl, torch, mujoco, gymnasium, hydra, matplotlib.pyplot' >>$log 2>&1 || true

    printf '%s\n' "$place" >.venv/.place
    if [ "$1" != run ]; then
        printf '%s\n' "$sums" >".venv/.ready-$1"
    fi
    printf '%s\n' "$sums" >.venv/.ready-run
}

give_up() {
    local why
    why=$(grep -m 1 '^ *ERROR: ' "$1" | sed 's/^ *ERROR: //') || true
    if grep -q -E 'NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|SSLError' "$1"
    then
        why="no connection to the package index"
    fi
    die "the installation failed: ${why:-see the log}; the log is $root/$1"
}

bootstrap() {
    local python version place sums
    unset PYTHONHOME
    if [ -z "${HOME:-}" ]; then
        unset HOME # empty, it would mean the current folder or / to some libraries
    fi
    if [ -n "${MBRL_PYTHON:-}" ]; then
        find_python
    fi
    if is_ready "$1"; then
        return
    fi
    if command -v flock >/dev/null; then
        exec 9<"$root/.ci/bootstrap.sh"
        flock -n 9 || {
            say "Waiting for another start that is installing ..."
            flock 9
        }
    fi
    if ! is_ready "$1"; then
        # In a subshell, for its cd and its environment.
        (trap 'exit 130' INT && install_venv "$1") || exit
    fi
    exec 9<&-
}
