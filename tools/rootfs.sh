#!/bin/bash
# Usage: rootfs.sh [big]
# Prints the path of a Debian 12 root file system with the programs that the tests run; makes it
# first if it is not there (about a minute; `big`, with servers and interpreters, some six and 4.5 GB).
# The mirrors are those that this machine's apt uses. Kept under $AMBER_CACHE (default
# ~/.cache/amber), named after its list of packages.
set -euo pipefail

# minbase has coreutils, findutils, grep, sed, tar, gzip, util-linux and perl-base.
packages='bash perl python3 python3-numpy gcc g++ make git sqlite3 busybox-static xz-utils procps
    file bsdextrautils psmisc bc libc6-dev'
sources=
case ${1:-} in
'') ;;
big)
    packages+=' strace gdb redis-server nginx-light curl wrk postgresql-15 nodejs golang-go
    openjdk-17-jdk-headless ruby php-cli openssh-server openssh-client rsync vim-tiny vim tmux
    ffmpeg mariadb-server libpython3.11-testsuite stress-ng iproute2 netcat-openbsd
    chromium fonts-dejavu-core cargo npm imagemagick tzdata
    fuse3 bindfs sshfs squashfuse squashfs-tools unionfs-fuse fuse-overlayfs
    memcached haproxy varnish squid apache2-bin dnsmasq-base postfix rabbitmq-server etcd-server
    tini dumb-init gosu s6 runit cron supervisor dbus sudo
    python3-pip python3-venv python3-setuptools python3-wheel dpkg-dev gunicorn
    lua5.4 r-base-core sbcl mono-mcs tcl jq cmake ninja-build musl-tools
    valgrind linux-perf bpftrace bubblewrap podman buildah qemu-user xvfb x11-utils
    iperf3 socat tcpdump openssl attr acl libsqlite3-dev'
    # Upstream's sources, for their tests: path below the mirror and sum, unpacked in /usr/src.
    sources='pool/main/p/perl/perl_5.36.0.orig.tar.xz
    0f386dccbee8e26286404b2cca144e1005be65477979beb9b1ba272d4819bcf0
    pool/main/s/sqlite3/sqlite3_3.40.1.orig.tar.xz
    aaa776260ab4dc976db34aa7891819484c8676b5b2783123ebc6301e2ca5d655'
    ;;
*)
    echo "rootfs.sh: no list of packages named $1" >&2
    exit 2
    ;;
esac

cache=${AMBER_CACHE:-$HOME/.cache/amber}
key=$(echo "bookworm $packages$sources" | sha256sum | cut -c1-12)
root=$cache/rootfs-$key
if [ -e "$root/.amber-complete" ]; then
    echo "$root"
    exit 0
fi
[ "$(id -u)" = 0 ] || { echo "rootfs.sh: making a root file system needs root" >&2; exit 1; }

mkdir -p "$cache"
exec 9>"$cache/rootfs.lock"
flock 9
if [ -e "$root/.amber-complete" ]; then
    echo "$root"
    exit 0
fi

mirror=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    sed -n 's/^bookworm main //p' | head -1)
if [ -z "$mirror" ]; then
    echo "rootfs.sh: apt knows no mirror of bookworm; add one to its sources and run apt-get update" >&2
    exit 1
fi

work=$(mktemp -d "$cache/rootfs-new.XXXXXX")
log=$cache/rootfs.log
cleanup() {
    umount "$work/proc" 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
echo "Making a Debian root file system (log: $log) …" >&2
debootstrap --variant=minbase bookworm "$work" "$mirror" >"$log" 2>&1 ||
    { tail -5 "$log" >&2; exit 1; }

# The rest by the new root's own apt, with this machine's settings lent to it meanwhile.
echo "Installing the test programs in it …" >&2
lent=/etc/apt
cp -a "$work/etc/apt" "$work/etc/apt.own"
cp -aL "$lent/." "$work/etc/apt/"
cp -L /etc/resolv.conf "$work/etc/resolv.conf"
[ ! -d /etc/ssl/certs ] || { mkdir -p "$work/etc/ssl" && cp -aL /etc/ssl/certs "$work/etc/ssl/"; }
[ ! -d /usr/share/keyrings ] || cp -aLn /usr/share/keyrings/. "$work/usr/share/keyrings/"
mount -t proc proc "$work/proc"
# Packages make certificates for the machine's name, which must be there and be found.
cp -a "$work/etc/hosts" "$work/etc/hosts.own" 2>/dev/null || : >"$work/etc/hosts.own"
echo '127.0.0.1 localhost debian' >"$work/etc/hosts"
inside() { unshare --uts sh -c 'hostname debian && exec chroot "$@"' sh "$work" env DEBIAN_FRONTEND=noninteractive "$@"; }
printf '#!/bin/sh\nexit 101\n' >"$work/usr/sbin/policy-rc.d"
chmod +x "$work/usr/sbin/policy-rc.d"
# shellcheck disable=SC2086
{
    inside apt-get -q update && inside apt-get -q install -y --no-install-recommends $packages && inside apt-get clean
} >>"$log" 2>&1 || { tail -5 "$log" >&2; exit 1; }
umount "$work/proc"
# shellcheck disable=SC2086
set -- $sources
while [ $# -gt 0 ]; do
    /usr/lib/apt/apt-helper download-file "$mirror$1" "$work/usr/src/source.tar.xz" "SHA256:$2" >>"$log" 2>&1 &&
        tar -C "$work/usr/src" --no-same-owner -xf "$work/usr/src/source.tar.xz" || { tail -5 "$log" >&2; exit 1; }
    rm "$work/usr/src/source.tar.xz"
    shift 2
done
rm -rf "$work/etc/apt" "$work/usr/sbin/policy-rc.d" "$work"/var/lib/apt/lists/*
mv "$work/etc/apt.own" "$work/etc/apt"
mv "$work/etc/hosts.own" "$work/etc/hosts"
: >"$work/etc/resolv.conf"
: >"$work/.amber-complete"
chmod 755 "$work"
mv "$work" "$root"
trap - EXIT
echo "$root"
