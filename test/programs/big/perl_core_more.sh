# timeout: 1200
# The rest of perl's own core tests: expressions, Unicode, method resolution, the library's.
folders='re uni mro ../lib' exec sh /srv/perl_core.sh
