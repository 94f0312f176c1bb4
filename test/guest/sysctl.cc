// /proc/sys: what programs read, and the settings of namespaces. sysctl(8), ip-sysctl.rst, sysvipc(7), mq_overview(7).
#include <grp.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// What is written to the file; its errno, or 0.
int WriteTo(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = write(fd, text, strlen(text)) < 0 ? errno : 0;
  close(fd);
  return error;
}

void ExpectText(const char* path, const char* text) {
  char found[256] = {};
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  EXPECT_GE(fd, 0);
  EXPECT_GE(read(fd, found, sizeof(found) - 1), 0);
  close(fd);
  EXPECT_EQ(strcmp(found, text), 0);
}

int BindTo(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  const int error = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ? errno : 0;
  socklen_t size = sizeof(address);
  int got = 0;
  if (error == 0 && getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0) got = ntohs(address.sin_port);
  close(fd);
  return error != 0 ? -error : got;
}

// In a child with a namespace of its own.
template <typename F>
void In(int flags, F body) {
  JOIN_OK(Fork([&] {
    MUST(unshare(flags));
    body();
  }));
}

}  // namespace

GUEST_TEST(Sysctl, FilesThatProgramsAskFor) {
  for (const char* path : {"fs/aio-max-nr",
                           "fs/file-max",
                           "fs/file-nr",
                           "fs/inotify/max_user_instances",
                           "fs/inotify/max_user_watches",
                           "fs/lease-break-time",
                           "fs/leases-enable",
                           "fs/mount-max",
                           "fs/mqueue/msg_default",
                           "fs/nr_open",
                           "fs/overflowuid",
                           "fs/pipe-max-size",
                           "fs/pipe-user-pages-soft",
                           "fs/protected_regular",
                           "fs/suid_dumpable",
                           "kernel/cap_last_cap",
                           "kernel/core_pattern",
                           "kernel/keys/maxkeys",
                           "kernel/msgmni",
                           "kernel/ngroups_max",
                           "kernel/ns_last_pid",
                           "kernel/panic",
                           "kernel/perf_event_max_sample_rate",
                           "kernel/pid_max",
                           "kernel/pty/max",
                           "kernel/random/entropy_avail",
                           "kernel/sched_rr_timeslice_ms",
                           "kernel/sched_rt_runtime_us",
                           "kernel/seccomp/actions_avail",
                           "kernel/sem_next_id",
                           "kernel/shm_rmid_forced",
                           "kernel/tainted",
                           "net/core/optmem_max",
                           "net/core/somaxconn",
                           "net/ipv4/conf/all/rp_filter",
                           "net/ipv4/ip_default_ttl",
                           "net/ipv4/tcp_available_congestion_control",
                           "net/ipv4/tcp_rmem",
                           "net/ipv4/tcp_syn_retries",
                           "net/ipv6/conf/all/disable_ipv6",
                           "user/max_user_namespaces",
                           "vm/dirty_writeback_centisecs",
                           "vm/max_map_count",
                           "vm/min_free_kbytes",
                           "vm/overcommit_memory",
                           "vm/vfs_cache_pressure"}) {
    char full[128], text[256];
    snprintf(full, sizeof(full), "/proc/sys/%s", path);
    const int fd = open(full, O_RDONLY | O_CLOEXEC);
    EXPECT_GE(fd, 0);
    const ssize_t n = read(fd, text, sizeof(text));
    EXPECT_GE(n, 2);
    EXPECT_EQ(text[n - 1], '\n');
    close(fd);
  }
}

GUEST_TEST(Sysctl, WhatIsReadOnlyStaysSo) {
  EXPECT_EQ(WriteTo("/proc/sys/kernel/ostype", "Windows"), EACCES);
  EXPECT_EQ(WriteTo("/proc/sys/kernel/cap_last_cap", "1"), EACCES);
  EXPECT_EQ(WriteTo("/proc/sys/kernel/no-such-thing", "1"), ENOENT);
}

GUEST_TEST(Sysctl, UnprivilegedPorts) {
  In(CLONE_NEWNET, [] {
    ExpectText("/proc/sys/net/ipv4/ip_unprivileged_port_start", "1024\n");
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/ip_unprivileged_port_start", "80"), 0);
    ExpectText("/proc/sys/net/ipv4/ip_unprivileged_port_start", "80\n");
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/ip_unprivileged_port_start", "65536"), EINVAL);
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/ip_unprivileged_port_start", "-1"), EINVAL);
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/ip_unprivileged_port_start", "many"), EINVAL);
    // Ports that are given out by themselves are never privileged.
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/ip_unprivileged_port_start", "40000"), EINVAL);
    EXPECT_EQ(BindTo(79), 79);
    MUST(setresuid(12345, 12345, 12345));
    EXPECT_EQ(BindTo(79), -EACCES);
    EXPECT_EQ(BindTo(80), 80);
    EXPECT_NE(WriteTo("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"), 0);
  });
}

GUEST_TEST(Sysctl, LocalPortRange) {
  In(CLONE_NEWNET, [] {
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003\n"), 0);
    ExpectText("/proc/sys/net/ipv4/ip_local_port_range", "40000\t40003\n");
    for (int i = 0; i < 8; i++) {
      const int port = BindTo(0);
      EXPECT_GE(port, 40000);
      EXPECT_LE(port, 40003);
    }
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/ip_local_port_range", "50000 40000"), EINVAL);
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/ip_local_port_range", "0 40000"), EINVAL);
    // Below what only the privileged may bind.
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/ip_local_port_range", "1000 40000"), EINVAL);
    ExpectText("/proc/sys/net/ipv4/ip_local_port_range", "40000\t40003\n");
  });
}

GUEST_TEST(Sysctl, DefaultsOfSockets) {
  In(CLONE_NEWNET, [] {
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/tcp_keepalive_time", "600"), 0);
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/tcp_keepalive_probes", "3"), 0);
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv6/bindv6only", "1"), 0);
    const int tcp = MUST(socket(AF_INET, SOCK_STREAM, 0));
    int value = 0;
    socklen_t size = sizeof(value);
    MUST(getsockopt(tcp, IPPROTO_TCP, 4 /* TCP_KEEPIDLE */, &value, &size));
    EXPECT_EQ(value, 600);
    MUST(getsockopt(tcp, IPPROTO_TCP, 6 /* TCP_KEEPCNT */, &value, &size));
    EXPECT_EQ(value, 3);
    for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
      const int v6 = MUST(socket(AF_INET6, type, 0));
      MUST(getsockopt(v6, IPPROTO_IPV6, 26 /* IPV6_V6ONLY */, &value, &size));
      EXPECT_EQ(value, 1);
    }
  });
}

GUEST_TEST(Sysctl, PingGroups) {
  In(CLONE_NEWNET, [] {
    ExpectText("/proc/sys/net/ipv4/ping_group_range", "1\t0\n");
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/ping_group_range", "100 200"), 0);
    MUST(setgroups(0, nullptr));
    MUST(setresgid(150, 150, 150));
    MUST(setresuid(12345, 12345, 12345));
    EXPECT_GE(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), 0);
  });
  In(CLONE_NEWNET, [] {
    EXPECT_EQ(WriteTo("/proc/sys/net/ipv4/ping_group_range", "100 200"), 0);
    MUST(setgroups(0, nullptr));
    MUST(setresgid(99, 99, 99));
    MUST(setresuid(12345, 12345, 12345));
    EXPECT_ERRNO(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), EACCES);
  });
}

GUEST_TEST(Sysctl, MessagesAndSegments) {
  In(CLONE_NEWIPC, [] {
    ExpectText("/proc/sys/kernel/msgmax", "8192\n");
    EXPECT_EQ(WriteTo("/proc/sys/kernel/msgmax", "16"), 0);
    EXPECT_EQ(WriteTo("/proc/sys/kernel/msgmni", "2"), 0);
    EXPECT_EQ(WriteTo("/proc/sys/kernel/msgmnb", "40"), 0);
    struct {
      long type;
      char text[32];
    } message = {1, {}};
    const int queue = MUST(msgget(IPC_PRIVATE, 0600));
    EXPECT_ERRNO(msgsnd(queue, &message, 17, IPC_NOWAIT), EINVAL);
    MUST(msgsnd(queue, &message, 16, IPC_NOWAIT));
    MUST(msgsnd(queue, &message, 16, IPC_NOWAIT));
    EXPECT_ERRNO(msgsnd(queue, &message, 16, IPC_NOWAIT), EAGAIN);
    MUST(msgget(IPC_PRIVATE, 0600));
    EXPECT_ERRNO(msgget(IPC_PRIVATE, 0600), ENOSPC);
    EXPECT_EQ(WriteTo("/proc/sys/kernel/shmmax", "8192"), 0);
    EXPECT_EQ(WriteTo("/proc/sys/kernel/shmmni", "1"), 0);
    EXPECT_ERRNO(shmget(IPC_PRIVATE, 8193, 0600), EINVAL);
    MUST(shmget(IPC_PRIVATE, 8192, 0600));
    EXPECT_ERRNO(shmget(IPC_PRIVATE, 1, 0600), ENOSPC);
  });
}

GUEST_TEST(Sysctl, SegmentsTogether) {
  In(CLONE_NEWIPC, [] {
    EXPECT_EQ(WriteTo("/proc/sys/kernel/shmall", "3"), 0);
    MUST(shmget(IPC_PRIVATE, 2 * 4096, 0600));
    EXPECT_ERRNO(shmget(IPC_PRIVATE, 2 * 4096, 0600), ENOSPC);
    MUST(shmget(IPC_PRIVATE, 4096, 0600));
  });
}

GUEST_TEST(Sysctl, Semaphores) {
  In(CLONE_NEWIPC, [] {
    ExpectText("/proc/sys/kernel/sem", "32000\t1024000000\t500\t32000\n");
    EXPECT_EQ(WriteTo("/proc/sys/kernel/sem", "4 64 2 1"), 0);
    EXPECT_ERRNO(semget(IPC_PRIVATE, 5, 0600), EINVAL);
    const int set = MUST(semget(IPC_PRIVATE, 4, 0600));
    EXPECT_ERRNO(semget(IPC_PRIVATE, 1, 0600), ENOSPC);
    sembuf up[3] = {{0, 1, 0}, {1, 1, 0}, {2, 1, 0}};
    EXPECT_ERRNO(semop(set, up, 3), E2BIG);
    MUST(semop(set, up, 2));
    // Fewer numbers leave the others.
    EXPECT_EQ(WriteTo("/proc/sys/kernel/sem", "100"), 0);
    ExpectText("/proc/sys/kernel/sem", "100\t64\t2\t1\n");
  });
}

GUEST_TEST(Sysctl, PosixQueues) {
  In(CLONE_NEWIPC, [] {
    EXPECT_EQ(WriteTo("/proc/sys/fs/mqueue/msg_max", "5"), 0);
    EXPECT_EQ(WriteTo("/proc/sys/fs/mqueue/msgsize_max", "256"), 0);
    EXPECT_EQ(WriteTo("/proc/sys/fs/mqueue/msgsize_max", "16"), EINVAL);
    mq_attr attr = {};
    const mqd_t queue = mq_open("/limits", O_CREAT | O_RDWR, 0600, nullptr);
    MUST(mq_getattr(queue, &attr));
    EXPECT_EQ(attr.mq_maxmsg, 5);
    EXPECT_EQ(attr.mq_msgsize, 256);
  });
}

GUEST_TEST(Sysctl, NamespacesHaveTheirOwn) {
  In(CLONE_NEWIPC | CLONE_NEWNET, [] {
    EXPECT_EQ(WriteTo("/proc/sys/kernel/msgmni", "7"), 0);
    EXPECT_EQ(WriteTo("/proc/sys/net/core/somaxconn", "9"), 0);
    In(CLONE_NEWIPC | CLONE_NEWNET, [] {
      ExpectText("/proc/sys/kernel/msgmni", "32000\n");
      ExpectText("/proc/sys/net/core/somaxconn", "4096\n");
    });
    ExpectText("/proc/sys/kernel/msgmni", "7\n");
    ExpectText("/proc/sys/net/core/somaxconn", "9\n");
  });
}
