# checkpoint: yes
# timeout: 300
# go vet, build and test of a small module; the program has an HTTP server, many goroutines, tickers, signals.
mkdir m; cd m; HOME=$PWD; export GOFLAGS=-mod=mod GOCACHE=$HOME/cache GOPATH=$HOME/path GOPROXY=off
cat >go.mod <<'G'
module x
go 1.19
G
cat >a.go <<'G'
package main
import ("fmt";"net";"net/http";"io";"sync";"time";"os";"os/exec";"os/signal";"syscall")
func Sum(n int) int { s:=0; for i:=0;i<n;i++ { s+=i }; return s }
func main(){
 l,e:=net.Listen("tcp","127.0.0.1:0"); if e!=nil {panic(e)}
 go http.Serve(l,http.HandlerFunc(func(w http.ResponseWriter,r *http.Request){ fmt.Fprint(w,r.URL.Path) }))
 var wg sync.WaitGroup
 for i:=0;i<50;i++ { wg.Add(1); go func(i int){ defer wg.Done(); r,e:=http.Get(fmt.Sprintf("http://%s/%d",l.Addr(),i)); if e!=nil {panic(e)}; b,_:=io.ReadAll(r.Body); r.Body.Close(); if string(b)!=fmt.Sprintf("/%d",i) {panic(string(b))} }(i) }
 wg.Wait()
 t:=time.NewTicker(5*time.Millisecond); for i:=0;i<10;i++ { <-t.C }
 o,e:=exec.Command("uname").Output(); fmt.Print(string(o),e,"\n")
 c:=make(chan os.Signal,1); signal.Notify(c,syscall.SIGUSR1); syscall.Kill(os.Getpid(),syscall.SIGUSR1); fmt.Println(<-c)
 ch:=make(chan int); for i:=0;i<1000;i++ { go func(){ s:=Sum(1000); ch<-s }() }; s:=0; for i:=0;i<1000;i++ { s+=<-ch }; fmt.Println(s)
}
G
cat >a_test.go <<'G'
package main
import "testing"
func TestSum(t *testing.T){ t.Parallel(); if Sum(10)!=45 {t.Fatal()} }
func BenchmarkSum(b *testing.B){ for i:=0;i<b.N;i++ {Sum(100)} }
G
go vet ./... ; go build -o a . && ./a; go test -v . 2>&1 | grep -v ok
