# timeout: 900
# Tests of Go's own library that lie on the kernel, second part. Left out are those that need what the root does not have (time zones,
# a go command with symbols) or capabilities that the container has not (mounts).
HOME=$PWD; export GOCACHE=$HOME/cache GOPROXY=off GOFLAGS=; cd /usr/lib/go-1.19/src || exit 1
for p in runtime runtime/pprof runtime/trace runtime/debug os/user sync context net/http/httputil net/rpc path/filepath archive/tar; do
    timeout 400 go test -short -count=1 $p >"$HOME/log" 2>&1 && echo "$p ok" || { echo "$p failed"; grep -E -- '--- FAIL' "$HOME/log"; }
done
timeout 400 go test -short -count=1 -run 'Test[^U]' syscall >"$HOME/log" 2>&1 && echo "syscall ok" || { echo "syscall failed"; grep -E -- '--- FAIL' "$HOME/log"; }
timeout 400 go test -short -count=1 -run 'Test[^C]' net/http >"$HOME/log" 2>&1 && echo "net/http ok" || { echo "net/http failed"; grep -E -- '--- FAIL' "$HOME/log"; }
