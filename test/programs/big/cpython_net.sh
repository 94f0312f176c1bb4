# timeout: 900
# CPython's own tests of sockets and what is built on them.
# Those of AF_VSOCK that connect to themselves are left out: where the machine's vsock has no loopback, the server natively waits for ever.
mkdir t; cd t; unset PYTHONUNBUFFERED
for m in socket asyncio socketserver httpservers ftplib ssl urllib2_localnet urllib2 httplib smtplib telnetlib nntplib imaplib poplib \
    xmlrpc asyncore asynchat wsgiref; do
    timeout 300 python3 -m test -i '*VSOCKSocketStream*' test_$m >log 2>&1 && echo "$m ok" || { echo "$m failed"; grep -E '^(FAIL|ERROR):' log | sort -u; }
done
