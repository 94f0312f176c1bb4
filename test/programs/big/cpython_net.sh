# timeout: 900
# CPython's own tests of sockets and what is built on them. UDP-Lite is not there: its tests are left out.
mkdir t; cd t; unset PYTHONUNBUFFERED
for m in socket asyncio socketserver httpservers ftplib ssl urllib2_localnet urllib2 httplib smtplib telnetlib nntplib imaplib poplib \
    xmlrpc asyncore asynchat wsgiref; do
    timeout 300 python3 -m test -i '*UDPLITE*' -i '*UDPLite*' test_$m >log 2>&1 && echo "$m ok" || { echo "$m failed"; grep -E '^(FAIL|ERROR):' log | sort -u; }
done
