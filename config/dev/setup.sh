#!/usr/bin/env bash
# Makes this folder ready for `make demo` and `make test`: system packages by apt where they are missing and it may,
# the Python environment in .venv, the packages of the node service. Does nothing, quickly, where all is there.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly FINANCE=config/dev/finance
readonly STAMP=.venv/outhaul-setup.sha256

say() { echo "setup: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

# --- system packages -----------------------------------------------------------------------------

# Also where packages put programs that not every account has in its PATH.
have() { PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1" >/dev/null; }
have_postgresql() { have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
# A module must be one that this interpreter can really load: Debian ships Python without `ensurepip`.
can_make_environments() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
recent_node() { have node && node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 18 ? 1 : 0)'; }
odbc_driver() { have odbcinst && odbcinst -q -d 2>/dev/null | grep -qFx "[$1]"; }

# Debian's Python is linked to no library of its own, which a frozen program takes along.
shared_python() {
    "$1" -c 'import ctypes, sysconfig; v = sysconfig.get_config_var
try: ctypes.CDLL(v("LIBDIR") + "/" + v("INSTSONAME"))
except OSError: ctypes.CDLL(v("INSTSONAME"))' 2>/dev/null
}

find_python() {
    local name
    for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if can_make_environments "$name"; then
            command -v "$name"
            return
        fi
    done
    return 1
}

missing_packages() {
    if find_python >/dev/null; then
        shared_python "$(find_python)" || echo "lib$("$(find_python)" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')"
    else
        echo python3 python3-venv
    fi
    have strip && have objdump || echo binutils
    have_postgresql && have psql || echo postgresql
    # Without the package mariadb-server, whose service would start by itself.
    have mariadbd && have mariadb-install-db && have mariadb-tzinfo-to-sql || echo mariadb-server-core mariadb-client
    [[ -e /usr/share/zoneinfo/Europe/Berlin ]] || echo tzdata
    have odbcinst || echo unixodbc odbcinst
    odbc_driver 'PostgreSQL Unicode' || echo odbc-postgresql
    odbc_driver 'MariaDB Unicode' || echo odbc-mariadb
    odbc_driver SQLite3 || echo libsqliteodbc
    recent_node || echo nodejs
    have npm || echo npm
    have tinyproxy || echo tinyproxy
    have microsocks || echo microsocks
    # For the fault lab: what was on the disk when the power went, and clocks that jump.
    have strace || echo strace
    # For a Debian of its own, which the agent's package is installed into.
    have debootstrap || echo debootstrap
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || echo libfaketime
    # For the agent on Windows: its MSI, and a Windows to install it on.
    have wine && have wineserver || echo wine wine64
    have x86_64-w64-mingw32-gcc || echo gcc-mingw-w64-x86-64-win32
    have wixl && have msibuild || echo wixl msitools
}

install_packages() { # package...
    local log=.dev/apt.log root=()
    have apt-get || fail "these packages of Debian are missing; please install what they are called here: $*"
    if [[ $(id -u) != 0 ]]; then
        sudo -n true 2>/dev/null || fail "please run: sudo apt-get install $*"
        root=(sudo -n)
    fi
    say "apt-get install $*"
    mkdir -p .dev
    "${root[@]}" apt-get -q update >"$log" 2>&1 || say "apt-get update failed (see $log); trying with what is known"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@" >>"$log" 2>&1 ||
        { tail -n 15 "$log" >&2; fail "apt-get could not install them; see $log, then run: sudo apt-get install $*"; }
}

system_packages() {
    local missing
    for _ in 1 2; do # the second time knows which Python the first has brought
        missing=$(missing_packages)
        [[ -n $missing ]] || return 0
        # shellcheck disable=SC2086 # one word each
        install_packages $missing
    done
    missing=$(missing_packages)
    [[ -z $missing ]] || fail "still missing after the installation: "$missing
}

# --- what lies in this folder --------------------------------------------------------------------

inputs() {
    cat requirements/dev.txt pyproject.toml "$FINANCE/package-lock.json" config/dev/setup.sh | sha256sum
    pwd # scripts in .venv have their place written in them
}

python_environment() {
    local python
    python=$(find_python)
    if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        rm -rf .venv
    fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        say "making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    say "installing requirements/dev.txt into .venv"
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --require-hashes \
        --requirement requirements/dev.txt
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --no-deps --no-index \
        --no-build-isolation --editable .
}

node_packages() {
    say "npm ci in $FINANCE"
    (cd "$FINANCE" && npm ci --silent --no-audit --no-fund --ignore-scripts)
}

system_packages
if [[ ! -f $STAMP || $(<"$STAMP") != "$(inputs)" || ! -x .venv/bin/outhaul || ! -d $FINANCE/node_modules ]]; then
    python_environment
    node_packages
    inputs >"$STAMP"
    say "done"
fi
