# timeout: 120
# checkpoint: yes
# Containers inside without privileges: buildah makes an image from a Dockerfile, runs and changes it, and writes another.
[ -n "$INSIDE" ] || INSIDE=yes exec python3 /srv/mapped sh "$0"
for folder in lib cache tmp; do mount -t tmpfs tmpfs /var/$folder; done
export BUILDAH_ISOLATION=chroot
mkdir context; cp /bin/busybox context/
cat >context/Dockerfile <<'D'
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin; echo built > /f; chown 33:44 /f; mkdir -p /a/b; ln -s ../f /a/l"]
ENV NAME=value
ENTRYPOINT ["/bin/sh", "-c", "cat /f; echo $NAME $$; ls -ln /f | cut -c1-30; hostname; ls /a; exit 3"]
D
buildah bud -q -t x context 2>errors >/dev/null || cat errors
c=$(buildah from x) && buildah run "$c" -- cat /f; buildah run "$c" -- sh -c 'rm /f; echo new >/a/b/n; exit 4' 2>/dev/null; echo $?
m=$(buildah mount "$c"); (cd "$m" && ls . a/b); buildah umount "$c" >/dev/null; buildah commit -q "$c" y >/dev/null; buildah images --format '{{.Name}} {{.Tag}}' | sort
buildah push -q y oci:o:latest 2>/dev/null; ls o
