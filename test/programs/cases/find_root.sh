# timeout: 120
# find over the root: names, types, sizes, permissions, exec, xargs, links.
find /usr/bin /usr/lib /usr/share -xdev 2>/dev/null | LC_ALL=C sort | md5sum
find / -xdev -maxdepth 1 -printf '%f %y\n' | grep -vE '^(proc|sys|dev|tmp|run|mnt|srv|root|work|home|opt|\.|nonexistent|lost)' | LC_ALL=C sort
find /usr/lib -xdev -type l 2>/dev/null | wc -l; find /usr/bin -perm -4000 -printf '%f %m\n' | sort; find /etc -xdev -name '*.conf' -type f 2>/dev/null | wc -l
find /usr/bin -type f -size +1M -printf '%s\n' | LC_ALL=C sort -n | md5sum; find /usr/share/doc -maxdepth 1 -type d | wc -l
find /usr/lib/python3 /usr/lib/python3.11 -name '*.py' -print0 2>/dev/null | xargs -0 cat | wc -l; find /usr/bin -name 'g*' -type f -exec file -b {} + 2>/dev/null | cut -d, -f1 | sort | uniq -c | sort -rn | head -3
mkdir -p a/b/c; touch -d @1000000000 a/1 a/b/2; touch -d @1000000100 a/b/c/3; find a -newer a/1 -o -type d | sort; find a -depth -delete; ls | wc -l
