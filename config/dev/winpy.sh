#!/usr/bin/env bash
# Makes a CPython for Windows under wine, for building and testing the agent where no Windows is:
#
#     config/dev/winpy.sh FOLDER [--requirement FILE | PACKAGE...]
#
# FOLDER/python has python.exe with the packages, FOLDER/prefix a WINEPREFIX that is ready and stopped. The library is
# python.org's own, as the wheel of panda3d on PyPI carries it; Lib is this machine's. Wants wine64 and mingw (config/dev/
# setup.sh installs both). What is compiled here is for wine only and never shipped.
#
# Mind: Windows' Python under wine dies at start where its standard output is a file or /dev/null; give it a pipe.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
readonly SOURCES=$here/winpy PY=${PY:-$here/../../.venv/bin/python} CC=x86_64-w64-mingw32-gcc PANDA3D=1.10.16
UV=${UV:-$here/../../.venv/bin/uv}
# As pip does: whom this machine trusts, where a company has an authority of its own.
export UV_SYSTEM_CERTS=1
place=$(mkdir -p "$1" && cd "$1" && pwd)
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

release=$("$PY" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
tag=${release/./}
python=$place/python
mkdir -p "$python/DLLs" "$python/Lib"

"$PY" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --platform win_amd64 \
    --python-version "$release" --implementation cp -d "$work" "panda3d==$PANDA3D"
"$PY" - "$work" "$python" "$tag" <<'PYTHON'
import sys, zipfile
from pathlib import Path

work, python, tag = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
beside = {f"python{tag}.dll", "VCRUNTIME140.dll", "VCRUNTIME140_1.dll"}
libraries = {"libffi-8.dll", "libcrypto-3.dll", "libssl-3.dll", "sqlite3.dll"}
with zipfile.ZipFile(next(work.glob("panda3d*.whl"))) as wheel:
    for entry in wheel.namelist():
        folder, _, name = entry.rpartition("/")
        if folder != "deploy_libs" or name == "_tkinter.pyd":
            continue
        if name in beside:
            (python / name).write_bytes(wheel.read(entry))
        elif name in libraries or name.endswith(".pyd"):
            (python / "DLLs" / name).write_bytes(wheel.read(entry))
PYTHON
lib=$("$PY" -c 'import os; print(os.path.dirname(os.__file__))')
tar -C "$lib" --exclude=./site-packages --exclude=./dist-packages --exclude=./lib-dynload --exclude=./test \
    --exclude=__pycache__ --exclude='./config-*' -cf - . | tar -C "$python/Lib" -xf -
mkdir -p "$python/Lib/site-packages"

"$CC" -municode -O2 "-DPYTHON_DLL=L\"python$tag.dll\"" -o "$python/python.exe" "$SOURCES/python.c"
{
    echo "LIBRARY python3"
    echo EXPORTS
    x86_64-w64-mingw32-objdump -p "$python/python$tag.dll" |
        awk '/\[Ordinal\/Name Pointer\] Table/ { on = 1; next } on && /\[ *[0-9]+\]/ { print $NF } on && /^$/ { on = 0 }' |
        grep -E '^_?Py' | awk -v dll="python$tag" '{ print $1 "=" dll "." $1 }'
} >"$work/python3.def"
"$CC" -shared -nostdlib -e DllMainCRTStartup -o "$python/python3.dll" "$SOURCES/python3.c" "$work/python3.def"
"$CC" -shared -O2 -o "$work/bcryptprimitives.dll" "$SOURCES/bcryptprimitives.c" -ladvapi32

if (($#)); then
    "$UV" pip install --quiet --python "$PY" --python-platform windows --python-version "$release" \
        --only-binary :all: --target "$python/Lib/site-packages" "$@"
fi

export WINEPREFIX=$place/prefix WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml,winemenubuilder.exe=' DISPLAY=
wine64=$(command -v wine64 || command -v wine)
# The services that it starts have its output too: a pipe into a program that is waited for would wait for them.
timeout 300 "$wine64" wineboot --init > >(cat) 2>&1
timeout 60 wineserver --wait || wineserver --kill
[[ -e $WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll ]] ||
    cp "$work/bcryptprimitives.dll" "$WINEPREFIX/drive_c/windows/system32/"
echo "$python/python.exe"
