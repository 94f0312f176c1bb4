# timeout: 120
# checkpoint: yes
# A Debian package is made and installed by dpkg and by apt in a changed copy of the root (an overlay), with its scripts and triggers; removed again.
if [ -z "$INSIDE" ]; then
    INSIDE=yes exec python3 /srv/mapped sh "$0"
fi
for folder in etc usr var; do
    mkdir -p "o/$folder/up" "o/$folder/work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$PWD/o/$folder/up,workdir=$PWD/o/$folder/work" overlay "/$folder" || exit 1
done
mkdir -p p/DEBIAN p/usr/bin p/etc p/usr/lib/x86_64-linux-gnu
printf 'Package: amber-hello\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@x>\nDepends: sed\nDescription: hello\n' >p/DEBIAN/control
printf '#!/bin/sh\necho hello from a package\n' >p/usr/bin/amber-hello; chmod 755 p/usr/bin/amber-hello
echo setting >p/etc/amber-hello.conf; echo /etc/amber-hello.conf >p/DEBIAN/conffiles
printf '#!/bin/sh\necho postinst "$1"; useradd -r amber-user; ldconfig\n' >p/DEBIAN/postinst; chmod 755 p/DEBIAN/postinst
printf '#!/bin/sh\necho prerm "$1"\n' >p/DEBIAN/prerm; chmod 755 p/DEBIAN/prerm
dpkg-deb --root-owner-group -b p hello.deb >/dev/null
export DEBIAN_FRONTEND=noninteractive
dpkg -i ./hello.deb 2>&1 | grep -vE 'Reading database|database \.\.\.'
amber-hello; dpkg -s amber-hello | grep Status; dpkg -V amber-hello; id amber-user | sed 's/[0-9]//g'
dpkg -r amber-hello 2>&1 | grep -v 'Reading database'; amber-hello 2>&1 | sed 's/.*: //'; cat /etc/amber-hello.conf
apt-get -qq -y install ./hello.deb 2>&1 | sed 's,/.*/hello.deb,hello.deb,' | grep -vE 'Reading database'; amber-hello
dpkg --audit; apt-get -qq -y purge amber-hello 2>&1 | sed 's,/.*/hello.deb,hello.deb,' | grep -vE 'Reading database'; ls /etc/amber-hello.conf 2>&1 | sed 's/.*: //'
dpkg-reconfigure -f noninteractive tzdata 2>&1 | grep -v '^$' | head -2 | sed 's/is now.*//' 
find o -path '*/up/*' -type c | sort
