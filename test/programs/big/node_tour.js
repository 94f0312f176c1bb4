// timeout: 120
// checkpoint: yes
// Timers, workers, an HTTP server and its clients, children, file watching, Unix sockets, crypto.
const { Worker, isMainThread, parentPort } = require('worker_threads');
const http = require('http'), fs = require('fs'), cp = require('child_process'), net = require('net');
const crypto = require('crypto'), zlib = require('zlib');

async function main() {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  setTimeout(() => console.log('timer'), 20);
  process.nextTick(() => console.log('tick'));
  await wait(100);
  const sums = await Promise.all([1, 2, 3, 4].map(() => new Promise((done, fail) => {
    const worker = new Worker(__filename);
    worker.on('message', done);
    worker.on('error', fail);
  })));
  console.log(sums.join());
  const server = http.createServer((request, answer) => {
    let n = 0;
    request.on('data', (d) => n += d.length);
    request.on('end', () => answer.end('got ' + n));
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const ask = (n) => new Promise((done, fail) => {
    const request = http.request({ host: '127.0.0.1', port: server.address().port, method: 'POST' }, (answer) => {
      let text = '';
      answer.on('data', (d) => text += d);
      answer.on('end', () => done(text));
    });
    request.on('error', fail);
    request.end(Buffer.alloc(n));
  });
  console.log((await Promise.all([1, 10, 100000, 3000000].map(ask))).join());
  for (let i = 0; i < 200; i++) await ask(i);
  server.close();
  console.log(cp.execSync('echo from a child').toString().trim());
  const cat = cp.spawn('cat');
  cat.stdin.end('piped');
  for await (const d of cat.stdout) console.log(d.toString());
  fs.writeFileSync('x', '1');
  const watched = new Promise((done) => { const w = fs.watch('x', (e) => { w.close(); done(e); }); });
  fs.appendFileSync('x', '2');
  console.log(await watched);
  console.log(crypto.pbkdf2Sync('a', 'b', 10000, 32, 'sha256').toString('hex'), zlib.gunzipSync(zlib.gzipSync(Buffer.alloc(100000))).length);
  const echo = net.createServer((s) => s.pipe(s));
  await new Promise((done) => echo.listen('socket', done));
  const client = net.connect('socket');
  client.write('unix');
  console.log((await new Promise((done) => client.once('data', done))).toString());
  client.destroy();
  echo.close();
  console.log(Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 30));
  const got = new Promise((done) => process.once('SIGUSR2', done));
  process.kill(process.pid, 'SIGUSR2');
  console.log(await got);
}

if (isMainThread) {
  main();
} else {
  let s = 0;
  for (let i = 0; i < 1e6; i++) s += i;
  parentPort.postMessage(s);
}
