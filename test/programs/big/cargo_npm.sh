# checkpoint: yes
# timeout: 200
# A Rust program by cargo without a network, a node package made and installed from a local archive, pictures by ImageMagick.
export HOME=$PWD CARGO_TERM_COLOR=never
cargo new --offline --vcs none -q hello && cd hello
cat >src/main.rs <<'EOF'
use std::{collections::BTreeMap, sync::mpsc, thread};
fn main() {
    let (send, receive) = mpsc::channel();
    for n in 0..4u64 {
        let send = send.clone();
        thread::spawn(move || send.send((n, (0..=n * 1000).sum::<u64>())).unwrap());
    }
    drop(send);
    println!("{:?}", receive.iter().collect::<BTreeMap<_, _>>());
}
#[test]
fn adds() { assert_eq!((0..=10).sum::<i32>(), 55); }
EOF
cargo run --offline -q && cargo test --offline -q 2>&1 | grep 'test result' | sed 's/finished in.*//'
cd ..
mkdir package app && cd package
echo '{"name": "local", "version": "1.0.0", "main": "index.js"}' >package.json
echo 'module.exports = n => n * 2' >index.js
npm pack --silent && cd ../app && npm init -y >/dev/null && npm install --offline --no-audit --no-fund --silent ../package/local-1.0.0.tgz
node -e 'console.log(require("local")(21))'
cd ..
convert -size 320x200 gradient:red-blue -rotate 15 -resize 50% picture.png && convert picture.png rgb:- | md5sum
