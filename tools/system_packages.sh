#!/bin/sh
# Install what is missing of the C compilers for host and ARM, and qemu-user, through apt-get.
#     tools/system_packages.sh             installs those
#     tools/system_packages.sh PACKAGE...  installs these
# As root or with passwordless sudo; otherwise prints the line to type and ends with status 1.
set -eu

compiles() { # whether compiler $1 exists and finds its C library's headers
    command -v "$1" >/dev/null 2>&1 && echo '#include <stdio.h>' | "$1" -E - >/dev/null 2>&1
}

missing_tools() {
    compiles cc || compiles gcc || echo gcc libc6-dev
    compiles aarch64-linux-gnu-gcc || echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    compiles arm-linux-gnueabihf-gcc || echo gcc-arm-linux-gnueabihf libc6-dev-armhf-cross
    for emulator in qemu-aarch64 qemu-arm; do
        if ! command -v $emulator-static >/dev/null 2>&1 && ! command -v $emulator >/dev/null 2>&1; then
            echo qemu-user-static
            return
        fi
    done
}

packages=${*:-$(missing_tools)}
[ -n "$packages" ] || exit 0
packages=$(echo $packages) # one line

fail() {
    echo "setup: $1 To install it:" >&2
    echo "    sudo apt-get update && sudo apt-get install -y $packages" >&2
    exit 1
}

command -v apt-get >/dev/null 2>&1 || fail "missing: $packages, and there is no apt-get here; these are Debian's names."
if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root='sudo -n'
else
    fail "missing: $packages, and neither root nor passwordless sudo is available."
fi

echo "setup: installing $packages"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A failed update is no reason to stop: the lists that are there may be enough.
# shellcheck disable=SC2086  # both are lists of words
{
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q || true
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages
} >"$log" 2>&1 || { tail -n 15 "$log" >&2; fail "apt-get could not install $packages."; }
