# checkpoint: yes
# timeout: 120
# Sandboxes inside: unshare, bubblewrap, buildah and podman without root.
chmod 755 .
unshare --map-root-user --pid --fork --mount-proc sh -c 'echo $$; ps -e | wc -l; id -u; hostname -F /dev/null 2>&1 | head -1'
unshare --map-root-user --net ip -o link | cut -d: -f2
unshare -Ur --uts sh -c 'hostname other; hostname'
unshare -Ur --mount sh -c 'mkdir t; mount -t tmpfs none t && touch t/x && ls t; umount t; ls t'
unshare -Ur --cgroup --ipc --time sh -c 'echo all'
b() { bwrap --unshare-user --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp "$@"; }
b --unshare-all --die-with-parent sh -c 'echo $$; ps -e | wc -l; touch /usr/x 2>&1 | sed "s/.*: //"; touch /tmp/x && echo tmp; ls /dev | sort | tr "\n" " "; echo; ip -o link | cut -d: -f2'
b --unshare-user --uid 1000 --gid 1000 id -u
b --unshare-pid --as-pid-1 sh -c 'echo $$; exit 7'; echo $?
b --bind "$PWD" /mnt --chdir /mnt sh -c 'echo x >y'; cat y
b --symlink usr/x /tmp/x --file 3 /tmp/f sh -c "readlink /tmp/x; cat /tmp/f" 3<y
b --setenv A b --unsetenv HOME --clearenv sh -c 'echo $A'
b --cap-drop ALL sh -c 'grep CapEff /proc/self/status'
b --new-session sh -c 'echo session'
