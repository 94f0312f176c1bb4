// What a server writes to /dev/fuse: answers to the requests that operations make, notifications, and what is neither. The operations run as handlers
// do, a few rounds each, until they have an answer.
#include <fuzzer/FuzzedDataProvider.h>

#include <string>
#include <vector>

#include "sentry/base/check.h"
#include "sentry/fs/fuse/fuse_file.h"
#include "sentry/fs/fuse/fuse_inode.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/test_task.h"
#include "sentry/vfs/open.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/path.h"

namespace amber {
namespace {

TestTask& World() {
  static TestTask* world = new TestTask;
  return *world;
}

// A mount and its server.
struct Server {
  explicit Server(FuzzedDataProvider& bytes) : data(bytes) {
    Task& task = World().task();
    device = MakeRef<FuseDevice>(VfsPath{}, O_RDWR | O_PATH, RefPtr<UserNamespace>());
    fd = *task.files().Allocate(RefPtr<File>(new_device()), false, 1024);
    MountArguments arguments{.kernel = &World().kernel(), .task = &task, .source = "fuzz"};
    arguments.options = {"fd=" + std::to_string(fd), "rootmode=40000", "user_id=0", "group_id=0"};
    if (data.ConsumeBool()) arguments.options.push_back("default_permissions");
    RefPtr<FileSystem> fs = *FuseFileSystem::Make(arguments);
    RefPtr<Dentry> root = fs->root();
    mount = MakeRef<Mount>(std::move(fs), std::move(root), 0, "fuzz");
  }
  ~Server() {
    World().task().extras().served.reset();
    auto file = World().task().files().Remove(fd);
  }
  RefPtr<File> new_device() {
    device->set_flags(O_RDWR);
    return device;
  }

  // Reads what is asked and says something.
  void Round() {
    std::string room(1 << 21, '\0');
    BufferSink sink(room.data(), room.size());
    auto n = device->Read(World().task(), sink);
    fuse_in_header in{};
    if (n.ok()) memcpy(&in, room.data(), sizeof(in));
    std::string body = Body(in.opcode);
    fuse_out_header out{};
    out.len = static_cast<uint32_t>(sizeof(out) + body.size());
    out.unique = in.unique;
    switch (data.ConsumeIntegralInRange(0, 11)) {
      case 0: out.error = -data.ConsumeIntegralInRange(0, 700); break;
      case 1: out.unique = data.ConsumeIntegralInRange<uint64_t>(0, 40); break;
      case 2: out.len = data.ConsumeIntegral<uint32_t>(); break;
      case 3:
        out.unique = 0;
        out.error = data.ConsumeIntegralInRange(-1, 8);
        break;
      case 4: device->connection()->Abort(); return;
      default: break;
    }
    if (in.opcode != FUSE_INIT && out.error != 0 && out.unique != 0 && data.ConsumeBool()) {
      body.clear();
      out.len = sizeof(out);
    }
    std::string message = BytesOf(out) + body;
    BufferSource source(message.data(), message.size());
    (void)device->Write(World().task(), source).ok();
    if (data.ConsumeIntegralInRange(0, 9) == 0) {
      BufferSource again(message.data(), message.size());
      (void)device->Write(World().task(), again).ok();
    }
  }

  // An answer of about the right form.
  std::string Body(uint32_t opcode) {
    std::string body;
    auto any = [&](size_t size) {
      std::string bytes = data.ConsumeBytesAsString(size);
      bytes.resize(size);
      return bytes;
    };
    auto attr = [&] {
      fuse_attr a{};
      a.mode = data.PickValueInArray<uint32_t>({S_IFREG | 0755, S_IFDIR | 0755, S_IFLNK | 0777, S_IFCHR | 0666, 0170000, 0});
      a.size = data.PickValueInArray<uint64_t>({0, 5, 300'000, uint64_t{1} << 62, UINT64_MAX});
      a.ino = data.ConsumeIntegralInRange<uint64_t>(0, 5);
      return a;
    };
    switch (opcode) {
      case FUSE_INIT: {
        fuse_init_out o{};
        o.major = 7;
        o.minor = data.PickValueInArray<uint32_t>({31, 31, 31, 12, 5});
        o.flags = data.ConsumeIntegral<uint32_t>();
        o.max_write = data.ConsumeIntegral<uint32_t>();
        o.max_pages = data.ConsumeIntegral<uint16_t>();
        return BytesOf(o).substr(0, data.PickValueInArray<size_t>({64, 64, 24, 8}));
      }
      case FUSE_LOOKUP:
      case FUSE_CREATE:
      case FUSE_MKDIR:
      case FUSE_MKNOD: {
        fuse_entry_out o{};
        o.nodeid = data.ConsumeIntegralInRange<uint64_t>(0, 5);
        o.generation = data.ConsumeBool();
        o.entry_valid = data.ConsumeIntegralInRange<uint64_t>(0, 1);
        o.attr_valid = data.ConsumeBool() ? 0 : UINT64_MAX;
        o.attr = attr();
        body = BytesOf(o);
        if (opcode == FUSE_CREATE) body += any(sizeof(fuse_open_out));
        break;
      }
      case FUSE_GETATTR:
      case FUSE_SETATTR: {
        fuse_attr_out o{};
        o.attr = attr();
        body = BytesOf(o);
        break;
      }
      case FUSE_OPEN:
      case FUSE_OPENDIR: body = any(sizeof(fuse_open_out)); break;
      case FUSE_READDIR: {
        for (int i = data.ConsumeIntegralInRange(0, 4); i > 0; --i) {
          fuse_dirent d{};
          d.ino = 5;
          d.off = data.ConsumeIntegralInRange<uint64_t>(0, 9);
          std::string name = data.ConsumeRandomLengthString(9);
          d.namelen = data.ConsumeIntegralInRange(0, 5) == 0 ? data.ConsumeIntegral<uint32_t>() : static_cast<uint32_t>(name.size());
          body += BytesOf(d).substr(0, FUSE_NAME_OFFSET) + name;
          body.resize((body.size() + 7) & ~size_t{7});
        }
        break;
      }
      case FUSE_GETXATTR:
      case FUSE_LISTXATTR: body = data.ConsumeBool() ? any(sizeof(fuse_getxattr_out)) : data.ConsumeRandomLengthString(32); break;
      default: body = data.ConsumeRandomLengthString(64); break;
    }
    if (data.ConsumeIntegralInRange(0, 9) == 0) body.resize(data.ConsumeIntegralInRange<size_t>(0, 300));
    return body;
  }

  // One call, executed again until it is over or the server has said enough.
  template <typename Handler>
  void Call(Handler handler) {
    Task& task = World().task();
    for (int i = 0; i < 8; ++i) {
      ErrnoOr<void> r = [&] {
        ServedCall::Scope scope(task);
        return handler(task);
      }();
      if (r.ok() || r.error() != kBlocked) break;
      Round();
    }
    World().EndBlock();
    task.extras().served.reset();
  }

  FuzzedDataProvider& data;
  RefPtr<FuseDevice> device;
  int fd = -1;
  RefPtr<Mount> mount;
};

ErrnoOr<void> Nothing(const auto& r) { return r.ok() ? Ok() : ErrnoOr<void>(r.error()); }

void Run(FuzzedDataProvider& data) {
  Server server(data);
  server.Round();
  Task& task = World().task();
  VfsPath root{server.mount, server.mount->root()};
  FsContext fs(root, root, 022);
  auto creds = task.creds_ref();
  VfsContext ctx{.task = &task, .creds = creds.get(), .fs = &fs};
  RefPtr<File> file;
  for (int i = data.ConsumeIntegralInRange(1, 12); i > 0; --i) {
    std::string path = data.PickValueInArray({"a", "a/b", "c", "."});
    int what = data.ConsumeIntegralInRange(0, 9);
    server.Call([&](Task& t) -> ErrnoOr<void> {
      switch (what) {
        case 0: return Nothing(ResolvePlace(ctx, root, path, kFollowLast));
        case 1: {
          auto opened = OpenPath(ctx, root, path, {.flags = O_RDWR | O_CREAT, .mode = 0644});
          if (opened.ok()) file = *opened;
          return Nothing(opened);
        }
        case 2: {
          auto opened = OpenPath(ctx, root, path, {.flags = O_RDONLY});
          if (opened.ok()) file = *opened;
          return Nothing(opened);
        }
        case 3: return MakeAt(ctx, root, path, {.mode = S_IFDIR | 0755}).ok() ? Ok() : UnlinkAt(ctx, root, path);
        case 4: return RenameAt(ctx, root, path, root, "c", 0);
        default: break;
      }
      auto* open = dynamic_cast<FuseFile*>(file.get());
      if (open == nullptr) return Errno(EBADF);
      char buffer[5000];
      BufferSink sink(buffer, sizeof(buffer));
      BufferSource source(buffer, sizeof(buffer));
      struct stat st;
      switch (what) {
        case 5: return Nothing(open->PRead(t, sink, 0));
        case 6: return Nothing(open->PWrite(t, source, 0));
        case 7: return open->ReadDir(t, [](const std::string&, uint64_t, uint8_t, int64_t) { return true; });
        case 8: return open->Stat(t, &st);
        default: return Nothing(open->inode().ListXattr());
      }
    });
    if (data.ConsumeIntegralInRange(0, 3) == 0) server.Round();
  }
  file.reset();
}

}  // namespace
}  // namespace amber

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  amber::Run(data);
  return 0;
}
