#!/bin/sh
# Creates or refreshes .venv: the locked dependencies and this project, editable. Usage: scripts/env.sh PYTHON
# It is quick if nothing has changed. As root on Debian it also installs the system packages that the
# tests use (not with SYSTEM_PACKAGES=no). Elsewhere it names missing packages and goes on.
set -eu
umask 022
cd "$(dirname "$0")/.."
python=${1:-python3}
interpreter_stamp=.venv/crabnet-interpreter
lock_stamp=.venv/crabnet-lock
system_stamp=.venv/crabnet-system
log=.venv/crabnet-install.log

# pip must follow the lock, so the user's own settings of pip are removed.
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_CONSTRAINT PIP_REQUIREMENT PIP_NO_BINARY PIP_EDITABLE || true
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PYTHONUTF8=1

fail() {
    echo "error: $1" >&2
    exit 1
}

interpreter_key() {
    printf '%s\n%s\n' "$python" "$(pwd -P)"
}

lock_key() {
    cksum requirements/dev.txt pyproject.toml src/crabnet/_version.py scripts/env.sh
}

current() { # file, expected content
    [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]
}

apt_install() {
    [ "$(id -u)" = 0 ] && [ "${SYSTEM_PACKAGES:-yes}" = yes ] && command -v apt-get >/dev/null 2>&1 || return 1
    echo "installing system packages: $*" >&2
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    apt-get install -qq -y --no-install-recommends "$@" >/dev/null 2>&1 </dev/null && return 0
    apt-get update -qq >/dev/null 2>&1 </dev/null || true
    apt-get install -qq -y --no-install-recommends "$@" >/dev/null 2>&1 </dev/null
}

check_python() {
    command -v "$python" >/dev/null 2>&1 ||
        fail "Crabnet needs Python 3.11 or newer; '$python' was not found. Name another Python: make PYTHON=/path/to/python3"
    version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) ||
        fail "'$python' does not run. Name another Python of at least 3.11: make PYTHON=/path/to/python3"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Crabnet needs Python 3.11 or newer; '$python' is $version. Name another Python: make PYTHON=/path/to/python3"
}

check_venv_module() {
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 && return 0
    apt_install "python${version%.*}-venv" || apt_install python3-venv || true
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        fail "'$python' has no venv module. Install it (Debian: apt install python3-venv), then run make again"
}

logged() {
    "$@" >>"$log" 2>&1 </dev/null && return 0
    tail -n 20 "$log" >&2
    fail "installation failed (whole log: $log)"
}

install_system_packages() {
    packages=
    command -v bwrap >/dev/null 2>&1 || packages="bubblewrap"
    command -v gcc >/dev/null 2>&1 || command -v cc >/dev/null 2>&1 || packages="$packages gcc libc6-dev"
    command -v chromium >/dev/null 2>&1 || packages="$packages chromium"
    command -v ip >/dev/null 2>&1 || packages="$packages iproute2"
    command -v iptables >/dev/null 2>&1 || packages="$packages iptables"
    # shellcheck disable=SC2086 # one word per package
    [ -z "$packages" ] || apt_install $packages || true
    command -v bwrap >/dev/null 2>&1 || echo "note: bubblewrap is missing: sandbox tests will be skipped" >&2
    command -v chromium >/dev/null 2>&1 || echo "note: chromium is missing: tests of the web page will be skipped" >&2
    { command -v ip && command -v iptables; } >/dev/null 2>&1 ||
        echo "note: iproute2 or iptables is missing: tests with networks of their own will be skipped" >&2
    { command -v node && command -v npm; } >/dev/null 2>&1 || apt_install nodejs npm || true
    { command -v node && command -v npm; } >/dev/null 2>&1 ||
        echo "note: Node.js and npm are missing: tests with js-libp2p will be skipped" >&2
    command -v gcc >/dev/null 2>&1 || command -v cc >/dev/null 2>&1 ||
        echo "note: no C compiler: tests with injected disk faults will be skipped" >&2
}

up_to_date() {
    [ -x .venv/bin/python ] && [ -f "$system_stamp" ] &&
        current "$interpreter_stamp" "$(interpreter_key)" && current "$lock_stamp" "$(lock_key)"
}

up_to_date && exit 0
# If two makes run at once, the second waits for the first.
if command -v flock >/dev/null 2>&1; then
    exec 9>.venv.lock
    flock 9
    up_to_date && exit 0
fi

if [ ! -x .venv/bin/python ] || ! current "$interpreter_stamp" "$(interpreter_key)"; then
    check_python
    check_venv_module
    echo "making .venv with Python $version (a minute or so, once)" >&2
    "$python" -m venv --clear .venv || fail "'$python -m venv .venv' failed"
    interpreter_key >"$interpreter_stamp"
fi

if ! current "$lock_stamp" "$(lock_key)"; then
    : >"$log"
    logged .venv/bin/python -m pip install --require-hashes --only-binary :all: --no-deps -r requirements/build.txt
    # Two pure Python packages that libp2p needs have no wheels. They are built with the locked setuptools.
    logged .venv/bin/python -m pip install --require-hashes --only-binary :all: --no-binary python-baseconv,varint \
        --no-deps --no-build-isolation -r requirements/dev.txt
    logged .venv/bin/python -m pip install --no-build-isolation --no-deps -e .
    # trio-typing, which libp2p needs, brings old stubs that hide trio's own types from mypy.
    rm -rf .venv/lib/python*/site-packages/trio-stubs
    lock_key >"$lock_stamp"
fi

if [ ! -f "$system_stamp" ]; then
    install_system_packages
    : >"$system_stamp"
fi
