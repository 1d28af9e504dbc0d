#!/usr/bin/env bash
# Writes requirements/*.txt anew from pyproject.toml: exact versions with hashes, for every system from Python 3.11 on.
# UPGRADE=1 takes newer releases than those that stand there.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH="$PWD/.venv/bin:$PATH"
command -v uv >/dev/null || { echo "lock: uv is missing; run: make setup, or: pip install uv" >&2; exit 1; }

compile() { # file extra...
    local file="requirements/$1.txt" words=()
    shift
    for extra in "$@"; do words+=(--extra "$extra"); done
    if [[ -n ${UPGRADE:-} ]]; then words+=(--upgrade); fi
    # Without the index's address: whoever installs has one of their own.
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --no-annotate --custom-compile-command "make lock" "${words[@]}" \
        --output-file "$file" pyproject.toml
    echo "wrote $file"
}

# The first holds everything; the others take its versions.
compile dev agent arrow broker client dev
for program in agent arrow broker client fuzz; do
    cp requirements/dev.txt "requirements/$program.txt"
    compile "$program" "$program"
done
python -m config.dev.notice
