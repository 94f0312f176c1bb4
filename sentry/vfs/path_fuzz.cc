// A process in a chroot of a tree with an overlay, a tmpfs and message queues, which makes, moves, links, opens, mounts and removes by odd paths.
// What must hold: no walk leads out of the root, and names and links are counted right.
#include <fuzzer/FuzzedDataProvider.h>

#include <string>
#include <vector>

#include "sentry/base/check.h"
#include "sentry/fs/mqueue/mqueue.h"
#include "sentry/fs/overlay/overlay.h"
#include "sentry/vfs/test_tree.h"

namespace amber {
namespace {

RefPtr<FileSystem> Lower() {
  auto fs = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{.mode = 0755});
  TestTree l(fs);
  for (const char* dir : {"/jail", "/jail/a", "/jail/a/b", "/jail/m", "/jail/q", "/jail/tmp"}) l.MkDir(dir);
  l.MkDir("/out");
  l.Write("/out/secret", "s");
  l.Write("/jail/f", "file");
  l.Symlink("../out/secret", "/jail/up");
  l.Symlink("/out/secret", "/jail/abs");
  return fs;
}

class Jail {
 public:
  explicit Jail(FuzzedDataProvider& data) : data_(data), t_(MakeOverlayOnTmpfs(Lower())) {
    secret_ = t_.Find("/out/secret")->dentry;
    auto tmp = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{.size = 1 << 20});
    AMBER_CHECK(t_.ns->Attach(MakeRef<Mount>(tmp, tmp->root(), MS_NODEV, "tmp"), *t_.Find("/jail/tmp")).ok());
    auto queues = MqueueFileSystem::New();
    AMBER_CHECK(t_.ns->Attach(MakeRef<Mount>(queues, queues->root(), 0, "mqueue"), *t_.Find("/jail/q")).ok());
    t_.context->set_root(*t_.Find("/jail"));
    t_.context->set_cwd(*t_.Find("/"));
  }

  void Step() {
    std::string path = Name();
    switch (data_.ConsumeIntegralInRange(0, 14)) {
      case 0: t_.MkDir(path, data_.ConsumeIntegral<uint16_t>()); return;
      case 1: t_.Symlink(Name(), path); return;
      case 2: t_.Unlink(path); return;
      case 3: t_.Rmdir(path); return;
      case 4: t_.Rename(path, Name(), data_.ConsumeIntegralInRange<uint32_t>(0, 7)); return;
      case 5: t_.Link(path, Name()); return;
      case 6: t_.Write(path, "bytes", data_.ConsumeIntegralInRange<uint64_t>(0, 5000)); return;
      case 7: Open(path); return;
      case 8: t_.List(path); return;
      case 9: Bind(path); return;
      case 10: Unmount(path); return;
      case 11: Become(path); return;
      case 12: Propagation(path); return;
      case 13: Move(path); return;
      default: Check(t_.Find(path, data_.ConsumeIntegral<uint8_t>())); return;
    }
  }

 private:
  std::string Name() {
    static const char* const kParts[] = {"a", "b", "f", "up", "abs", "tmp", "q", "m", "..", ".", "", "new", "l"};
    std::string out;
    if (data_.ConsumeBool()) out = "/";
    for (int n = data_.ConsumeIntegralInRange(0, 5); n > 0; --n) {
      size_t part = data_.ConsumeIntegralInRange<size_t>(0, std::size(kParts) + 1);
      if (part < std::size(kParts)) out += kParts[part];
      if (part == std::size(kParts)) out += data_.ConsumeRandomLengthString(8);
      if (part == std::size(kParts) + 1) out += std::string(data_.ConsumeIntegralInRange<size_t>(250, 260), 'n');
      if (n > 1 || data_.ConsumeBool()) out += '/';
    }
    return out;
  }
  void Check(const ErrnoOr<VfsPath>& place) {
    if (!place.ok()) return;
    AMBER_CHECK(place->dentry != secret_ && place->inode() != nullptr);
    (void)PathName(*place, t_.context->root(), true);
  }
  void Open(const std::string& path) {
    auto file = t_.Open(path, static_cast<int>(data_.ConsumeIntegral<uint32_t>() & 0x7fffff), data_.ConsumeIntegral<uint16_t>());
    if (!file.ok()) return;
    AMBER_CHECK((*file)->dentry() != secret_.get());
    if (files_.size() < 8) files_.push_back(*file);
  }
  void Bind(const std::string& path) {
    auto from = t_.Find(path), to = t_.Find(Name());
    if (!from.ok() || !to.ok() || t_.ns->size() > 200) return;
    if (data_.ConsumeBool()) {
      (void)t_.ns->Bind(*from, *to, true, 0);
    } else {
      (void)t_.ns->Attach(MakeRef<Mount>(from->mount->fs_ref(), from->dentry, 0, "bind"), *to);
    }
  }
  void Propagation(const std::string& path) {
    static constexpr uint64_t kTypes[] = {MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE};
    auto place = t_.Find(path);
    if (place.ok()) place->mount->SetPropagation(data_.PickValueInArray(kTypes));
  }
  void Move(const std::string& path) {
    auto from = t_.Find(path), to = t_.Find(Name());
    if (from.ok() && to.ok()) (void)t_.ns->Move(*from->mount, *to);
  }
  void Unmount(const std::string& path) {
    auto place = t_.Find(path);
    // The root of the whole tree is not to be had.
    if (place.ok() && place->mount->parent() != nullptr) (void)t_.ns->Detach(*place->mount, true, 1);
  }
  void Become(const std::string& path) {
    auto place = t_.Find(path);
    if (!place.ok() || !place->inode()->IsDir()) return;
    t_.context->set_cwd(*place);
    if (data_.ConsumeBool()) t_.Become(data_.ConsumeIntegralInRange<uint32_t>(0, 2));
  }

  FuzzedDataProvider& data_;
  TestTree t_;
  RefPtr<Dentry> secret_;
  std::vector<RefPtr<File>> files_;
};

}  // namespace
}  // namespace amber

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  amber::Jail jail(data);
  for (int i = 0; i < 100 && data.remaining_bytes() > 0; ++i) jail.Step();
  return 0;
}
