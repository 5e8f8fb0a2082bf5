#!/bin/sh
# Make .venv from the pinned constraints, and install missing system packages where allowed.
# Repeated only when pyproject.toml, constraints.txt or the interpreter change.
set -eu
cd "$(dirname "$0")/.."

find_python() {
    # 3.11 first: constraints.txt was resolved for it. A shim may exist and not run.
    for candidate in ${PYTHON:-} python3.11 python3 python3.12 python3.13; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    echo "setup: no Python 3.11 or newer was found; install one (Debian 12: apt-get install python3)" \
        "or name it: make setup PYTHON=/path/to/python3.11" >&2
    return 1
}

stamp_text() {
    cat pyproject.toml constraints.txt | cksum
    pwd
}

stamp=.venv/parc_hw.stamp
if [ ! -x .venv/bin/python ] || [ "$(cat "$stamp" 2>/dev/null)" != "$(stamp_text)" ]; then
    python=$(find_python)
    echo "setup: installing all extras into .venv; the first time takes 2 to 6 minutes (about 2 GB)"
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
            tools/system_packages.sh "python$version-venv"
        fi
        rm -rf .venv
        "$python" -m venv .venv
    fi
    .venv/bin/python -m pip install -qq --disable-pip-version-check \
        --constraint constraints.txt --editable '.[torch,onnx,report,zig,bench,dev]'
    stamp_text >"$stamp"
fi

# Without the ARM tools the host half of everything still works: what needs them says so.
tools/system_packages.sh || true
