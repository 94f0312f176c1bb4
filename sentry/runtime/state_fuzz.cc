// Images whose checksums fit and whose objects do not: the objects of a small world (files of all kinds, a tree with mounts, sockets, namespaces) are
// saved once, changed as the fuzzer says, and loaded; what loads is used. A loader may refuse anything; it must not be misled.
#include <fuzzer/FuzzedDataProvider.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "sentry/base/check.h"
#include "sentry/fs/epoll/epoll.h"
#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/fs/inotify/inotify.h"
#include "sentry/fs/memfd/memfd.h"
#include "sentry/fs/mqueue/mqueue.h"
#include "sentry/fs/overlay/overlay.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/fs/timerfd/timerfd.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/test_task.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/packet/packet_socket.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/vfs/test_tree.h"

namespace amber {
namespace {

using Records = std::vector<state::Saver::Record>;

TestTask& World() {
  static TestTask* world = new TestTask;
  return *world;
}

// What is saved: its first object is a descriptor table, its second a root directory.
class Root final : public RefCounted<Root>, public state::Saveable {
 public:
  ~Root() override = default;
  state::Kind kind() const override { return state::Kind::kKernel; }
  std::string Save(state::Saver& saver) const override {
    saver.Ref(files);
    saver.Ref(fs);
    return "";
  }
  bool Load(state::Loader&, std::string_view) override { return true; }
  RefPtr<FdTable> files = MakeRef<FdTable>();
  RefPtr<FsContext> fs;
};

void Keep(FdTable& files, RefPtr<File> file) { AMBER_CHECK(files.Allocate(std::move(file), false, 100).ok()); }

void Write(File& file, std::string_view text) {
  BufferSource source(text.data(), text.size());
  (void)file.Write(World().task(), source);
}

void FillSockets(FdTable& files) {
  Task& task = World().task();
  for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
    auto [a, b] = UnixSocket::Pair(task, type);
    Write(*a, "message");
    Keep(files, a);
    Keep(files, b);
    for (int family : {AF_INET, AF_INET6}) {
      RefPtr<Socket> s = *NewInetSocket(task, family, type, 0);
      Keep(files, s);
      (void)s->Listen(task, 5);
      RefPtr<Socket> client = *NewInetSocket(task, family, type, 0);
      auto address = s->LocalAddress();
      if (address.ok()) (void)client->Connect(task, *address);
      Write(*client, "data");
      Keep(files, client);
    }
  }
  Keep(files, *NetlinkSocket::Make(task, SOCK_RAW, 0));
  Keep(files, *PacketSocket::Make(task, SOCK_RAW, 0x300));
  Keep(files, *NewInetSocket(task, AF_INET, SOCK_RAW, 1));
}

void FillFiles(FdTable& files, TestTree& tree) {
  Task& task = World().task();
  auto epoll = MakeRef<Epoll>();
  auto event = MakeRef<EventFd>(3, false, 0);
  epoll_event interest{};
  interest.events = EPOLLIN;
  (void)epoll->Add(task, 1, *event, interest);
  Keep(files, epoll);
  Keep(files, event);
  PipePair pipe = NewPipe(task, 0);
  Write(*pipe.writer, "in the pipe");
  Keep(files, pipe.reader);
  Keep(files, pipe.writer);
  Keep(files, MakeRef<TimerFd>(World().kernel(), CLOCK_MONOTONIC, 0));
  Keep(files, *Inotify::Make(0, 0));
  Keep(files, *MemFd::Create(task, "name", 0));
  for (const char* path : {"/etc/f", "/tmp/f", "/q/queue"}) {
    auto file = tree.Open(path, O_RDWR | O_CREAT);
    if (file.ok()) Keep(files, *file);
  }
  Keep(files, *tree.Open("/etc", O_RDONLY | O_DIRECTORY));
}

// Saves the world, once.
const state::Saver& Saved() {
  static const state::Saver* saved = [] {
    auto lower = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{.mode = 0755});
    TestTree below(lower);
    for (const char* dir : {"/etc", "/tmp", "/q"}) below.MkDir(dir);
    below.Write("/etc/f", "lower");
    below.Symlink("etc/f", "/link");
    static auto* tree = new TestTree(MakeOverlayOnTmpfs(lower));
    auto tmp = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{.size = 1 << 20});
    AMBER_CHECK(tree->ns->Attach(MakeRef<Mount>(tmp, tmp->root(), MS_NODEV, "tmp"), *tree->Find("/tmp")).ok());
    auto queues = MqueueFileSystem::New();
    AMBER_CHECK(tree->ns->Attach(MakeRef<Mount>(queues, queues->root(), 0, "mqueue"), *tree->Find("/q")).ok());
    tree->Write("/etc/new", "upper");
    tree->Write("/tmp/f", "in memory");
    static auto* root = new Root;
    root->fs = tree->context;
    FillFiles(*root->files, *tree);
    FillSockets(*root->files);
    auto* saver = new state::Saver;
    saver->Run(root);
    return saver;
  }();
  return *saved;
}

void Change(Records& records, FuzzedDataProvider& data) {
  // The first is the kernel's.
  state::Saver::Record& r = records[data.ConsumeIntegralInRange<size_t>(1, records.size() - 1)];
  size_t at = r.bytes.empty() ? 0 : data.ConsumeIntegral<uint16_t>() % r.bytes.size();
  switch (data.ConsumeIntegralInRange(0, 7)) {
    case 0:
    case 1:
      if (!r.bytes.empty()) r.bytes[at] = static_cast<char>(data.ConsumeIntegral<uint8_t>());
      return;
    case 2: r.bytes.insert(at, data.ConsumeRandomLengthString(12)); return;
    case 3: r.bytes.erase(at, data.ConsumeIntegralInRange<size_t>(1, 8)); return;
    case 4: r.bytes += data.ConsumeRandomLengthString(24); return;  // later fields win
    case 5: r.kind = static_cast<state::Kind>(data.ConsumeIntegral<uint8_t>()); return;
    case 6: r.bytes = records[data.ConsumeIntegralInRange<size_t>(1, records.size() - 1)].bytes; return;
    default: r.bytes = data.ConsumeRandomLengthString(64); return;
  }
}

int OpenFile(uint64_t id) {
  for (const auto& f : Saved().files()) {
    if (f.id != id) continue;
    int fd = memfd_create("restored", MFD_CLOEXEC);
    AMBER_CHECK(fd >= 0 && ftruncate(fd, static_cast<off_t>(f.size)) == 0);
    return fd;
  }
  return -1;
}

void Use(FdTable& files) {
  Task& task = World().task();
  for (int fd = 0; fd < 40; ++fd) {
    auto file = files.Get(fd);
    if (!file.ok()) continue;
    RefPtr<File> held(*file);
    (void)held->Poll(task);
    struct stat st;
    (void)held->Stat(task, &st);
    char room[256];
    BufferSink sink(room, sizeof(room));
    (void)held->Read(task, sink);
    Write(*held, "more");
  }
}

void LoadAndUse(const Records& records) {
  static const int first_free = [] {
    int fd = memfd_create("first", MFD_CLOEXEC);
    close(fd);
    return fd;
  }();
  state::Loader loader(OpenFile);
  loader.Provide(1, &World().kernel());
  if (!loader.Run(records)) {
    // What was refused stays as it is, and in memory; its files would be too many.
    close_range(static_cast<unsigned>(first_free), ~0U, 0);
    return;
  }
  auto files = loader.GetRef<FdTable>(2);
  auto fs = loader.GetRef<FsContext>(3);
  if (!files || !fs) return;
  Use(*files);
  Credentials creds;
  VfsContext ctx{.creds = &creds, .fs = fs.get()};
  for (const char* path : {"/etc/f", "link", "/tmp/f", "../etc/new", "/q/queue"}) (void)ResolvePlace(ctx, fs->cwd(), path, kFollowLast);
  files->RemoveIf(World().task(), [](int, bool) { return true; });
}

}  // namespace
}  // namespace amber

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  amber::Records records = amber::Saved().records();
  while (data.remaining_bytes() > 0) amber::Change(records, data);
  amber::LoadAndUse(records);
  return 0;
}
