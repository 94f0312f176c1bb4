# File systems that processes serve: bindfs, unionfs-fuse, fuse-overlayfs, squashfuse and sshfs, all with libfuse, unmodified.
# timeout: 120
# checkpoint: yes
set -e
if [ -z "$INSIDE" ]; then
    [ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229
    # As the root of a user namespace: the container may mount nothing.
    INSIDE=yes exec unshare --map-root-user --mount sh "$0"
fi
mkdir -p source/folder/deep mount
for i in 1 2 3; do echo "file $i" >source/folder/f$i; done
ln -s folder/f1 source/link
cp "$(readlink -f /usr/bin/python3)" source/python

# What anybody would do in a folder.
work() {
    find . | sort
    cat link folder/f2
    cmp python ../source/python
    ./python -c 'import os; print(sorted(os.listdir("folder")))'
}
change() {
    echo new >folder/new
    echo more >>folder/f3
    mv folder/f1 folder/deep/moved
    mkdir -p a/b/c
    rm folder/f2
    ln -sf folder/f3 link
    chmod 640 folder/f3
    dd if=/dev/zero of=large bs=64k count=40 2>/dev/null
    cat link
    stat -c '%n %s %A' folder/f3 folder/new large
    tar cf - folder a | tar tf - | sort
    rm -r a large
}
leave() {
    cd ..
    fusermount3 -u mount
    grep -c "$PWD/mount" /proc/mounts || true
}

echo "== squashfuse"
mksquashfs source image -quiet -no-progress >/dev/null
squashfuse image mount
cd mount
work
sleep 1
touch x 2>&1 | sed 's/.*: //'
leave

echo "== unionfs"
mkdir upper
unionfs -o cow upper=RW:source=RO mount
cd mount
work
change
leave
find upper -type f | sort

echo "== fuse-overlayfs"
mkdir up work
fuse-overlayfs -o "lowerdir=source,upperdir=up,workdir=work" mount 2>/dev/null
cd mount
work
sleep 1
change
leave
cat up/folder/f3

echo "== sshfs"
printf '#!/bin/sh\nexec /usr/lib/openssh/sftp-server\n' >ssh
chmod +x ssh
sshfs -o "ssh_command=$PWD/ssh" "here:$PWD/source" mount
cd mount
work
leave

echo "== bindfs"
bindfs source mount
cd mount
work
change
leave
find source | sort
