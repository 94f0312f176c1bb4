# Perl: processes, pipes, sockets, signals, files.
use strict; use warnings; use Socket; use IO::Handle; use POSIX qw(:sys_wait_h); use Fcntl qw(:flock :seek);
$| = 1;
my $pid = fork(); if (!$pid) { exit 6; } waitpid($pid, 0); print "child ", $? >> 8, "\n";
open(my $p, '-|', 'sh', '-c', 'echo from child; exit 3') or die; print <$p>; close $p; print "pipe ", $? >> 8, "\n";
open(my $w, '|-', 'tr a-z A-Z') or die; print $w "upper\n"; close $w;
socketpair(my $s, my $o, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; $s->autoflush(1);
if (!fork()) { close $s; my $line = <$o>; print $o scalar reverse($line); exit 0; }
close $o; print $s "drawer"; shutdown($s, 1); print scalar(<$s>), "\n"; wait;
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; select(undef, undef, undef, 10); }; print "got $@";
local $SIG{USR2} = sub { print "usr2\n" }; kill 'USR2', $$;
open(my $f, '+>', 'file') or die; print $f "0123456789"; seek($f, 3, SEEK_SET); read($f, my $buf, 4); print "$buf\n";
flock($f, LOCK_EX) and print "locked\n"; truncate($f, 5); print -s $f, "\n"; close $f;
mkdir 'd'; symlink 'file', 'd/link'; print readlink('d/link'), "\n"; opendir(my $d, 'd'); print join(',', sort grep { !/^\./ } readdir $d), "\n";
my %h = map { $_ => $_ ** 2 } 1 .. 1000; my $sum = 0; $sum += $_ for values %h; print "$sum\n";
my $text = join ' ', map { "w$_" } 1 .. 2000; my $n = () = $text =~ /\bw\d*7\b/g; print "$n\n";
print join(' ', sort { $a <=> $b } (10, 9, 2, 33)), "\n"; my @t = gmtime(86400 * 365); print $t[5] + 1900, "\n";
my $kids = 0; for (1 .. 20) { if (!fork()) { exit 0 } } while (wait() > 0) { $kids++ } print "$kids reaped\n";
exec 'echo', 'exec works';
