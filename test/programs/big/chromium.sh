# checkpoint: yes
# timeout: 200
# A browser draws a page with its own sandbox (user namespaces, seccomp filters, zygotes) and without; the same pixels as natively.
cat >page.html <<'EOF'
<html><body style="background:#08f"><h1>Hello</h1><canvas id=c width=100 height=100></canvas><script>
var g = document.getElementById('c').getContext('2d'); g.fillStyle = '#fa0';
for (var i = 0; i < 10; i++) g.fillRect(i * 10, i * 10, 8, 8);
document.querySelector('h1').textContent += ' ' + Array.from({length: 5}, (_, i) => i * i).join();
</script></body></html>
EOF
chmod 777 .
draw() {
    timeout 90 "$@" --headless --disable-gpu --screenshot="$PWD/page.png" --window-size=400,300 "file://$PWD/page.html" >log 2>&1 || tail -5 log
    convert page.png rgb:pixels && md5sum <pixels
    rm -f page.png pixels
}
draw chromium --no-sandbox
mkdir -m 777 home
draw setpriv --reuid 1000 --regid 1000 --clear-groups env HOME="$PWD/home" chromium
