// Calls that move very much: they are whole, whatever happens meanwhile, and others get their turn.
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"
#include "test/harness/turns.h"

using namespace guest;

namespace {

constexpr size_t kMb = 1 << 20;
constexpr int kRanges = 1024;

char* Memory(size_t size) { return static_cast<char*>(MUST(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))); }

int MemFile() { return static_cast<int>(MUST(syscall(SYS_memfd_create, "long", 0))); }

// A byte that says where it is, per page.
char At(size_t offset) { return static_cast<char>(offset / kPage * 31 + 7); }
void Mark(char* memory, size_t size) {
  for (size_t i = 0; i < size; i += kPage) memory[i] = At(i);
}
bool Marked(const char* memory, size_t size, size_t offset = 0) {
  for (size_t i = 0; i < size; i += kPage) {
    if (memory[i] != At(offset + i)) return false;
  }
  return true;
}

// A gigabyte and a half, all of it in the same megabyte or so of memory.
struct SameMemory {
  SameMemory() {
    char* memory = Memory(3 * kMb / 2);
    for (iovec& range : ranges) range = {memory, 3 * kMb / 2};
  }
  iovec ranges[kRanges];
};

volatile int ticks = 0;

void CountTicks() {
  struct sigaction action = {};
  action.sa_handler = [](int) { ticks = ticks + 1; };
  MUST(sigaction(SIGALRM, &action, nullptr));
  const itimerval often = {.it_interval = {0, 2000}, .it_value = {0, 2000}};
  MUST(setitimer(ITIMER_REAL, &often, nullptr));
}

}  // namespace

GUEST_TEST(LongCalls, FilesAreReadAndWrittenAsAWhole) {
  constexpr size_t kSize = 40 * kMb + 4 * kPage;
  const int fd = MemFile();
  char* from = Memory(kSize);
  Mark(from, kSize);
  EXPECT_EQ(MUST(write(fd, from, kSize)), kSize);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), kSize);
  char* to = Memory(kSize);
  MUST(lseek(fd, 0, SEEK_SET));
  EXPECT_EQ(MUST(read(fd, to, kSize)), kSize);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), kSize);
  EXPECT(Marked(to, kSize));
  EXPECT_EQ(read(fd, to, kSize), 0);
  // What there is of it.
  memset(to, 0, kSize);
  EXPECT_EQ(MUST(pread(fd, to, kSize, kPage)), kSize - kPage);
  EXPECT(Marked(to, kSize - kPage, kPage));
  EXPECT_EQ(MUST(pwrite(fd, from, kSize, kSize)), kSize);
  EXPECT_EQ(lseek(fd, 0, SEEK_END), 2 * kSize);
  memset(to, 0, kSize);
  const iovec two[] = {{to, 17 * kMb}, {to + 17 * kMb, kSize - 17 * kMb}};
  EXPECT_EQ(MUST(preadv(fd, two, 2, kSize)), kSize);
  EXPECT(Marked(to, kSize));
  MUST(lseek(fd, 0, SEEK_SET));
  EXPECT_EQ(MUST(writev(fd, two, 2)), kSize);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), kSize);
}

GUEST_TEST(LongCalls, MemoryThatEndsEndsThem) {
  constexpr size_t kSize = 40 * kMb, kThere = 33 * kMb + kPage;
  const int fd = MemFile();
  MUST(ftruncate(fd, kSize));
  char* memory = Memory(kSize);
  MUST(munmap(memory + kThere, kSize - kThere));
  EXPECT_EQ(read(fd, memory, kSize), kThere);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), kThere);
  EXPECT_EQ(pwrite(fd, memory, kSize, 0), kThere);
  const iovec local = {Memory(kSize), kSize}, remote = {memory, kSize};
  EXPECT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), kThere);
}

GUEST_TEST(LongCalls, TheLimitOfAFileEndsThemWithoutASignal) {
  constexpr size_t kSize = 40 * kMb, kLimit = 32 * kMb;
  CountSignals(SIGXFSZ);
  const int fd = MemFile();
  const rlimit limit = {kLimit, RLIM_INFINITY};
  MUST(setrlimit(RLIMIT_FSIZE, &limit));
  char* memory = Memory(kSize);
  EXPECT_EQ(write(fd, memory, kSize), kLimit);
  EXPECT_EQ(SignalCount(), 0);
  EXPECT_EQ(pwrite(fd, memory, kSize, 0), kLimit);
  EXPECT_EQ(SignalCount(), 0);
  EXPECT_ERRNO(write(fd, memory, 1), EFBIG);
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(LongCalls, SignalsDoNotEndThoseOfFiles) {
  constexpr size_t kSize = kRanges * 3 * kMb / 2;
  SameMemory wide;
  const int file = MemFile();
  MUST(ftruncate(file, kSize));
  CountTicks();
  CheckpointHere();
  EXPECT_EQ(readv(file, wide.ranges, kRanges), kSize);
  EXPECT_EQ(process_vm_writev(getpid(), wide.ranges, kRanges, wide.ranges, kRanges, 0), kSize);
  EXPECT(ticks > 0);
  // Devices without end look for them (read_iter_zero()).
  const long n = readv(MUST(open("/dev/zero", O_RDONLY)), wide.ranges, kRanges);
  EXPECT(n > 0 && n < static_cast<long>(kSize));
}

GUEST_TEST(LongCalls, OthersGetTheirTurn) {
  SameMemory wide;
  const int zero = MUST(open("/dev/zero", O_RDONLY));
  Turns turns;
  turns.Begin();
  EXPECT_EQ(readv(zero, wide.ranges, kRanges), kRanges * 3 * kMb / 2);
  const int count = turns.End();
  // A dozen milliseconds at a time are not its own, not half a second.
  EXPECT(count > 5);
}

GUEST_TEST(LongCalls, ManyMessagesLeaveTurns) {
  constexpr int kMessages = 1024;
  constexpr size_t kSize = 60000;
  const int to = MUST(socket(AF_INET, SOCK_DGRAM, 0)), from = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  MUST(bind(to, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  socklen_t size = sizeof(address);
  MUST(getsockname(to, reinterpret_cast<sockaddr*>(&address), &size));
  iovec range = {Memory(kSize), kSize};
  static mmsghdr messages[kMessages];
  for (mmsghdr& m : messages) m.msg_hdr = {&address, sizeof(address), &range, 1, nullptr, 0, 0};
  CountTicks();
  CheckpointHere();
  Turns turns;
  const int64_t began = NowNs();
  turns.Begin();
  // Nobody reads them: most are lost, and are sent all the same.
  for (int i = 0; i < 10; ++i) EXPECT_EQ(sendmmsg(from, messages, kMessages, 0), kMessages);
  EXPECT(turns.End() >= (NowNs() - began) / (20 * kMs));
  for (const mmsghdr& m : messages) EXPECT_EQ(m.msg_len, kSize);
}

GUEST_TEST(LongCalls, KillsEndThem) {
  SameMemory wide;
  const pid_t pid = Fork([&] {
    const int random = MUST(open("/dev/urandom", O_RDONLY));
    while (true) (void)!readv(random, wide.ranges, kRanges);
  });
  SleepMs(50);
  MUST(kill(pid, SIGKILL));
  EXPECT_KILLED(WaitStatus(pid), SIGKILL);
}

GUEST_TEST(LongCalls, PagesOfManyAreToldAll) {
  constexpr int kPages = 70'000;
  char* memory = Memory(kPages * kPage);
  for (int i = 0; i < kPages; i += 1000) memory[i * kPage] = 1;
  MUST(madvise(memory, kPages * kPage, MADV_NOHUGEPAGE));
  auto** pages = reinterpret_cast<void**>(Memory(kPages * sizeof(void*)));
  int* status = reinterpret_cast<int*>(Memory(kPages * sizeof(int)));
  for (int i = 0; i < kPages; ++i) pages[i] = memory + i * kPage;
  memset(status, 0x77, kPages * sizeof(int));
  const long moved = syscall(SYS_move_pages, 0, kPages, pages, nullptr, status, 0);
  if (moved < 0 && errno == ENOSYS) Skip("no move_pages here");
  EXPECT_EQ(moved, 0);
  int bad = 0, there = 0;
  for (int i = 0; i < kPages; ++i) {
    if (status[i] == 0) ++there;
    if (status[i] != 0 && status[i] != -ENOENT) ++bad;
  }
  EXPECT_EQ(bad, 0);
  EXPECT(there >= kPages / 1000);
}
