#!/bin/bash
# Installs the Debian 12 packages that the build and the tests need.
# Usage: tools/setup.sh [build|test|docker|bench]...   (root, or a user with sudo)
# Nothing is downloaded when all of them are there (0.1 s).
set -euo pipefail

build='
    bazel-bootstrap
    clang-19 lld-19 llvm-19 libclang-rt-19-dev clang-format-19 clang-tidy-19
    dpkg-dev pkg-config unzip python3 python3-pip ca-certificates
    capnproto libcapnp-dev protobuf-compiler libprotobuf-dev
    erofs-utils liblz4-dev libseccomp-dev libxxhash-dev libzstd-dev libzycore-dev nlohmann-json3-dev
'
# What the guest programs of the tests are; natively they come from the host.
test='
    debootstrap git sqlite3 busybox-static bash perl python3-numpy gcc g++ make
    xz-utils procps file bsdextrautils psmisc bc
'
bench='runc linux-perf'
docker='docker.io containerd'

[ $# -gt 0 ] || set -- build
wanted=
for group in "$@"; do
    case $group in
        build) wanted+=" $build" ;;
        test) wanted+=" $test" ;;
        # Only where no Docker is: Debian's would put another one out.
        docker) command -v dockerd >/dev/null || wanted+=" $docker" ;;
        bench) wanted+=" $bench" ;;
        *) echo "setup.sh: no group named $group" >&2; exit 2 ;;
    esac
done

if ! command -v apt-get >/dev/null; then
    echo "setup.sh: this machine has no apt-get; install by hand:" $wanted >&2
    exit 1
fi
# shellcheck disable=SC2086
missing=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' $wanted 2>&1 || true)
missing=$(echo "$missing" |
    sed -n -e 's/^dpkg-query: no packages found matching //p' \
        -e '/^installed /d' -e 's/^[a-z-]* \([a-z0-9].*\)$/\1/p' | sort -u)
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "setup.sh: run as root, or install sudo" >&2; exit 1; }
    sudo='sudo DEBIAN_FRONTEND=noninteractive'
fi
export DEBIAN_FRONTEND=noninteractive
echo "Installing $(echo "$missing" | wc -l) Debian packages:" $missing
$sudo apt-get -q update
# shellcheck disable=SC2086
$sudo apt-get -q -o DPkg::Lock::Timeout=600 install -y --no-install-recommends $missing
